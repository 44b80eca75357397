"""Who may do what on the real router, and who is let in at all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallDetails, PublishOptions, RegisterOptions, SubscribeOptions
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from eftchat.wamp.router import RouterProcess
from tests.integration.peers import Peer, join, refusal

KEY = "k7gq2"
ACKNOWLEDGED = PublishOptions(acknowledge=True)


class Handshake(Protocol):
    """The opening handshake of a browser on a page of `origin`; `status_line` begins the answer."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.status_line: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        lines = ["GET /ws HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        lines += ["Sec-WebSocket-Protocol: wamp.2.json", f"Origin: {self.origin}", "", ""]
        self.transport.write("\r\n".join(lines).encode())

    def dataReceived(self, data: bytes) -> None:
        if not self.status_line.called:
            self.status_line.callback(data.partition(b"\r\n")[0])


@pytest_twisted.async_yield_fixture
async def node(router: RouterProcess) -> AsyncIterator[Peer]:
    peer = await join(router.settings.node_url, router.ticket)
    yield peer
    peer.leave()
    await peer.gone


@pytest_twisted.async_yield_fixture
async def client(router: RouterProcess) -> AsyncIterator[Peer]:
    peer = await join(router.settings.client_url)
    yield peer
    peer.leave()
    await peer.gone


@pytest_twisted.ensureDeferred
async def test_a_client_calls_a_node_which_learns_the_role_of_the_caller(node: Peer, client: Peer) -> None:
    def echo(text: str, details: CallDetails | None = None) -> list[str]:
        assert details is not None
        return [text, details.caller_authrole]

    await node.register(echo, "eftchat.api.echo", RegisterOptions(details=True, invoke="roundrobin"))
    assert await client.call("eftchat.api.echo", "hi") == ["hi", "client"]


@pytest.mark.parametrize("topic", [f"eftchat.room.{KEY}.messages", f"eftchat.room.{KEY}.presence"])
@pytest_twisted.ensureDeferred
async def test_a_client_hears_a_room_whose_key_it_knows(node: Peer, client: Peer, topic: str) -> None:
    heard: Deferred[str] = Deferred()
    await client.subscribe(heard.callback, topic)
    await node.publish(topic, "hi", options=ACKNOWLEDGED)
    assert await heard.addTimeout(5, reactor) == "hi"


@pytest_twisted.ensureDeferred
async def test_a_client_hears_every_notice(node: Peer, client: Peer) -> None:
    heard: Deferred[str] = Deferred()
    await client.subscribe(heard.callback, "eftchat.notice.", SubscribeOptions(match="prefix"))
    await node.publish("eftchat.notice.reconnect", "soon", options=ACKNOWLEDGED)
    assert await heard.addTimeout(5, reactor) == "soon"


@pytest.mark.parametrize(
    ("match", "topic"),
    [
        ("prefix", "eftchat.room."),
        ("prefix", "eftchat.room"),
        ("prefix", "eftchat.roo"),
        ("prefix", "eftchat."),
        ("prefix", "e"),
        ("prefix", ""),
        ("prefix", "eftchat.room.k"),
        ("prefix", f"eftchat.room.{KEY}"),
        ("prefix", f"eftchat.room.{KEY}."),
        ("prefix", "wamp."),
        ("wildcard", "eftchat.room..messages"),
        ("wildcard", "eftchat.room..presence"),
        ("wildcard", "eftchat.room.."),
        ("wildcard", f"eftchat.room.{KEY}."),
        ("wildcard", f"eftchat..{KEY}.messages"),
        ("wildcard", f"..{KEY}.messages"),
        ("wildcard", "eftchat...messages"),
        ("wildcard", "..."),
        ("wildcard", "eftchat..."),
        ("wildcard", "..x."),
        ("exact", "eftchat.room..messages"),
        ("exact", f"eftchat.room.{KEY}"),
        ("exact", f"eftchat.room.{KEY}.messages.more"),
        ("exact", "eftchat.api.join"),
        ("exact", "eftchat.bus.heads"),
        ("exact", "eftchat.node.seats"),
        ("exact", "wamp.session.on_join"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_client_cannot_listen_to_more_than_rooms_it_can_name(
    client: Peer, match: str, topic: str
) -> None:
    asked = client.subscribe(lambda *_: None, topic, SubscribeOptions(match=match))
    assert await refusal(asked) in ("wamp.error.not_authorized", "wamp.error.invalid_uri")


@pytest_twisted.ensureDeferred
async def test_a_prefix_inside_a_named_room_hears_that_room_only(node: Peer, client: Peer) -> None:
    first: Deferred[str] = Deferred()
    await client.subscribe(first.callback, f"eftchat.room.{KEY}.m", SubscribeOptions(match="prefix"))
    for key in ("k7gq", "other", KEY):
        await node.publish(f"eftchat.room.{key}.messages", key, options=ACKNOWLEDGED)
    assert await first.addTimeout(5, reactor) == KEY


@pytest.mark.parametrize(
    "topic",
    [f"eftchat.room.{KEY}.messages", "eftchat.notice.reconnect", "eftchat.node.seats", "eftchat.x"],
)
@pytest_twisted.ensureDeferred
async def test_a_client_cannot_publish(client: Peer, topic: str) -> None:
    assert await refusal(client.publish(topic, "x", options=ACKNOWLEDGED)) == "wamp.error.not_authorized"


@pytest.mark.parametrize("procedure", ["eftchat.api.post", "eftchat.mine", "com.example.mine"])
@pytest_twisted.ensureDeferred
async def test_a_client_cannot_register(client: Peer, procedure: str) -> None:
    assert await refusal(client.register(lambda: None, procedure)) == "wamp.error.not_authorized"


@pytest.mark.parametrize(
    "procedure", ["wamp.session.list", "wamp.session.add_testament", "eftchat.bus.heads"]
)
@pytest_twisted.ensureDeferred
async def test_a_client_cannot_call_beyond_the_api(client: Peer, procedure: str) -> None:
    assert await refusal(client.call(procedure)) == "wamp.error.not_authorized"


@pytest_twisted.ensureDeferred
async def test_a_node_is_told_when_a_session_leaves(router: RouterProcess, node: Peer) -> None:
    visitor = await join(router.settings.client_url)
    number, told = visitor._session_id, Deferred[None]()
    assert number in await node.call("wamp.session.list")

    def on_leave(session: int, *_: object) -> None:
        if session == number:
            told.callback(None)

    await node.subscribe(on_leave, "wamp.session.on_leave")
    visitor.leave()
    await told.addTimeout(5, reactor)


@pytest_twisted.ensureDeferred
async def test_the_nodes_door_opens_with_the_ticket_only(router: RouterProcess) -> None:
    for ticket in ("wrong", "", "${EFTCHAT_NODE_TICKET}", None):
        with pytest.raises(ApplicationError) as refused:
            await join(router.settings.node_url, ticket)
        assert refused.value.error in ("wamp.error.not_authorized", "wamp.error.no_auth_method")


@pytest_twisted.ensureDeferred
async def test_the_clients_door_makes_nobody_a_node(router: RouterProcess) -> None:
    with pytest.raises(ApplicationError) as refused:
        await join(router.settings.client_url, router.ticket)
    assert refused.value.error == "wamp.error.no_auth_method"
    visitor = await join(router.settings.client_url)
    assert visitor.role == "client"
    visitor.leave()
    await visitor.gone


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:5173", b"101"),
        ("https://evil.example", b"400"),
        ("http://localhost.evil.example", b"400"),
        ("null", b"400"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_pages_of_other_sites_are_turned_away(
    router: RouterProcess, origin: str, status: bytes
) -> None:
    where = TCP4ClientEndpoint(reactor, "127.0.0.1", router.settings.client_port)
    handshake = await connectProtocol(where, Handshake(origin))
    line = await handshake.status_line.addTimeout(5, reactor)
    handshake.transport.abortConnection()
    assert line.split()[1] == status
