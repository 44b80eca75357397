"""The client against a real node core, over real sockets on the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from random import Random
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import Site

from eftchat.bridge.connection import Settings
from eftchat.bridge.protocol import Conversations
from eftchat.bridge.site import site
from eftchat.bridge.v2 import notification
from eftchat.client import ChatClient, ChatClientError, Cursor, Message, Reset, Room, State
from eftchat.domain import messages as domain
from eftchat.domain.limits import Limits
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.testing.memory import MemoryMembers, MemoryMessages
from eftchat.wire.uris import SUBPROTOCOL

LIMITS = Limits(post_rate=1_000.0, post_burst=1_000.0)


@define(eq=False)
class NoBus:
    """There is one node."""

    def watch(self, room: domain.Room) -> None: ...

    def unwatch(self, room: domain.Room) -> None: ...

    def publish(self, room: domain.Room, messages: Sequence[domain.Message]) -> None: ...

    def announce(self, room: domain.Room, presence: domain.Presence, but: int | None = None) -> None: ...


@define(eq=False)
class Server:
    """A node that can be killed and started again over the same store, at the same port."""

    messages: MemoryMessages = field(factory=MemoryMessages)
    members: MemoryMembers = field(factory=lambda: MemoryMembers(reactor.seconds))
    port: int = 0
    starts: int = 0
    _rooms: Rooms | None = None
    _conversations: Conversations | None = None
    _listening: Any = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.starts += 1
        loop = TwistedLoop(reactor)
        name = f"n{self.starts}"
        await self.members.renew(name, 600_000)
        self._rooms = Rooms(name, b"secret", self.messages, self.members, NoBus(), loop, Random(name))
        self._rooms.feeds.start()
        self._conversations = Conversations(self._rooms, loop, Settings(name, LIMITS))
        served = site(self._conversations, lambda: None, reactor)
        self._listening = reactor.listenTCP(self.port, served, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    async def kill(self) -> None:
        """The port is closed, and every socket is reset."""
        if self._listening is None:
            return
        listening, self._listening = self._listening, None
        await listening.stopListening()
        for socket in list(self._conversations.open):
            socket.transport.abortConnection()
        await until(lambda: not self._conversations.open)
        self._rooms.feeds.stop()

    def notify(self) -> None:
        """Tells every client to move."""
        for socket in self._conversations.open:
            socket.write(notification("reconnect", {"after_ms": 0, "reason": "drill"}))

    async def log(self) -> list[str]:
        return [message.body["text"] for message in await self.messages.after("r", 0, 100_000)]


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline, "did not happen in time"
        await deferLater(reactor, 0.01)


@define(eq=False)
class Person:
    """A client in the room R, and what it was told."""

    client: ChatClient
    seen: list[Message] = field(factory=list)
    events: list[Any] = field(factory=list)
    states: list[State] = field(factory=list)
    room: Room | None = None

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.seen]


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.kill()


@pytest_twisted.async_yield_fixture
async def enter(server: Server) -> AsyncIterator[Callable[..., Any]]:
    """Lets somebody in: `await enter("Ann")`. Everybody is stopped at the end."""
    people: list[Person] = []

    async def let_in(name: str, **how: Any) -> Person:
        person = Person(
            ChatClient(reactor, server.address, user=f"u{name}", rng=Random(f"{name} {len(people)}"))
        )
        people.append(person)
        person.client.on_state = person.states.append
        person.client.start()
        how = {"on_message": person.seen.append, "on_event": person.events.append, **how}
        person.room = await person.client.join("R", name=name, **how)
        return person

    yield let_in
    for person in people:
        await person.client.stop()


Enter = Callable[..., Any]


@pytest_twisted.ensureDeferred
async def test_two_people_talk(enter: Enter) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    posted = await ann.room.post("hello Bob")
    assert (posted.seq, posted.repeated) == (1, False)
    assert (await bob.room.post("hello Ann")).seq == 2
    assert (await bob.room.post("again", uuid=posted.uuid)).repeated
    await until(lambda: len(ann.seen) == len(bob.seen) == 2)
    assert ann.texts == bob.texts == ["hello Bob", "hello Ann"]
    assert [message.name for message in ann.seen] == ["Ann", "Bob"]
    assert sorted(member.name for member in ann.room.members) == ["Ann", "Bob"]


@pytest_twisted.ensureDeferred
async def test_a_killed_server_costs_nobody_a_message(server: Server, enter: Enter) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    sending = []
    for number in range(150):
        sending.append(ann.room.post(f"Ann {number}"))
        sending.append(bob.room.post(f"Bob {number}"))
        if number in (40, 90):
            await sending[number]
            await server.kill()
            sending.append(ann.room.post(f"Ann in the dark {number}"))
            await server.start()
    await ann.room.flushed()
    await bob.room.flushed()
    log = await server.log()
    assert len(log) == len(sending) == 302
    assert [text for text in log if text.startswith("Bob")] == [f"Bob {number}" for number in range(150)]
    assert [one.text for one in sending if one.text.startswith("Ann")] == [t for t in log if t[0] == "A"]
    await until(lambda: len(ann.seen) == len(bob.seen) == len(log))
    assert ann.texts == bob.texts == log
    assert not [event for event in ann.events if isinstance(event, Reset)]
    assert "waiting" in [state.name for state in ann.states]


@pytest_twisted.ensureDeferred
async def test_told_to_move_clients_are_never_without_a_connection(server: Server, enter: Enter) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    for round_ in range(5):
        sending = [ann.room.post(f"{round_}.{number}") for number in range(20)]
        before = ann.room.session
        server.notify()
        for one in sending:
            await one
        await until(lambda before=before: ann.room.session not in (None, before))
    await until(lambda: len(bob.seen) == 100)
    assert bob.texts == ann.texts == await server.log()
    assert {state.name for state in ann.states} == {"connecting", "connected"}
    await until(lambda: len(server._conversations.open) == 2)


@pytest_twisted.ensureDeferred
async def test_whoever_comes_later_gets_what_was_said_from_where_they_want(enter: Enter) -> None:
    ann = await enter("Ann")
    for number in range(1, 451):
        ann.room.post(f"{number}")
    await ann.room.flushed()
    for how, first in (
        ({}, 351),
        ({"tail": 3}, 448),
        ({"after": Cursor(None, 0)}, 1),
        ({"after": Cursor(ann.room.position.epoch, 200)}, 201),
        ({"after": Cursor(None, 17)}, 18),
    ):
        late = await enter(f"late {first}", **how)
        await late.room.caught_up()
        assert late.texts == [str(number) for number in range(first, 451)]


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_taken_is_refused(enter: Enter) -> None:
    ann = await enter("Ann")
    other = ChatClient(reactor, ann.client.urls, user="somebody else", rng=Random(9))
    other.start()
    with pytest.raises(ChatClientError) as caught:
        await other.join("r", name="ANN")
    assert caught.value.reason == "name_taken"
    await other.stop()


@pytest_twisted.ensureDeferred
async def test_after_stop_no_timer_and_no_socket_of_the_client_is_left(server: Server, enter: Enter) -> None:
    before = set(reactor.getDelayedCalls())
    ann = await enter("Ann")
    await ann.room.post("one")
    assert await ann.client.stop() == 0
    await until(lambda: not server._conversations.open)
    left = [call for call in reactor.getDelayedCalls() if call not in before]
    assert [call for call in left if "Feeds" not in str(call)] == []


@pytest_twisted.ensureDeferred
async def test_whoever_cannot_connect_tries_on_until_somebody_is_there(server: Server) -> None:
    await server.kill()
    states: list[State] = []
    client = ChatClient(reactor, server.address, rng=Random(1), on_state=states.append)
    client.start()
    await until(lambda: [state.name for state in states].count("waiting") == 2)
    assert "refused" in states[1].reason
    await server.start()
    await client.when_connected()
    await client.stop()


@define(eq=False)
class Stranger:
    """Something else that listens on a port."""

    listening: Any = field(init=False)

    def listen(self, factory: Any) -> str:
        self.listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        return f"127.0.0.1:{self.listening.getHost().port}"


async def what_a_client_says_of(factory: Any) -> State:
    """The state after the first try to connect there."""
    stranger = Stranger()
    states: list[State] = []
    client = ChatClient(reactor, stranger.listen(factory), rng=Random(1), on_state=states.append)
    client.start()
    await until(lambda: len(states) > 1 and states[-1].name in ("waiting", "failed"))
    await client.stop()
    await stranger.listening.stopListening()
    return next(state for state in states if state.name in ("waiting", "failed"))


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_no_chat_is_said_so() -> None:
    state = await what_a_client_says_of(Site(Resource()))
    assert state.name == "waiting"
    assert "404" in state.reason
    other = WebSocketServerFactory(reactor=reactor)
    other.protocol = WebSocketServerProtocol
    state = await what_a_client_says_of(other)
    assert SUBPROTOCOL in state.reason


@pytest_twisted.ensureDeferred
async def test_the_close_code_of_a_node_decides_whether_to_come_back() -> None:
    class Closing(WebSocketServerProtocol):
        code = 0

        def onConnect(self, request: object) -> str:
            return SUBPROTOCOL

        def onOpen(self) -> None:
            self.sendCloseFrame(self.code, b"so there")  # Autobahn's sendClose knows no 1012

    for code, name in ((4503, "failed"), (4029, "waiting"), (1012, "waiting")):
        factory = WebSocketServerFactory(protocols=[SUBPROTOCOL], reactor=reactor)
        factory.protocol = type("Bound", (Closing,), {"code": code})
        state = await what_a_client_says_of(factory)
        assert (state.name, state.reason) == (name, "so there")
