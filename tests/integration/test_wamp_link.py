"""A node's session on a real router: made, lost, made again, and left in good order."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from random import Random

import attrs
import pytest
import pytest_twisted
from autobahn.wamp.exception import ApplicationError
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, ServerFactory

from eftchat.domain.messages import Message
from eftchat.ops.loop import TwistedLoop
from eftchat.wamp.line import LineDown, State
from eftchat.wamp.link import Link, RouterAddress, RouterDenied
from eftchat.wamp.router import RouterProcess
from eftchat.wire import schema
from tests.integration.cores import Reader, Store, core, until
from tests.integration.peers import Peer, join


def address(router: RouterProcess) -> RouterAddress:
    return RouterAddress(router.settings.node_url, router.ticket)


def link_to(where: RouterAddress, denied: list[RouterDenied] | None = None) -> tuple[Link, list[State]]:
    told = [] if denied is None else denied
    link = Link(reactor, TwistedLoop(reactor), Random(1), where, told.append)
    states: list[State] = []
    link.on_state(states.append)
    return link, states


def nowhere(port: int) -> RouterAddress:
    return RouterAddress(f"ws://127.0.0.1:{port}/", "open sesame")


def answering(answers: list[Deferred[str]]) -> Callable[[object], object]:
    async def endpoint(call: object) -> str:
        answers.append(Deferred())
        return await answers[-1]

    return endpoint


# ---- coming and going --------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_wrong_ticket_is_told_once_and_ends_the_link(router: RouterProcess) -> None:
    denied: list[RouterDenied] = []
    link, states = link_to(attrs.evolve(address(router), ticket="wrong"), denied)
    link.start()
    await until(lambda: states == ["stopped"])
    assert len(denied) == 1
    assert router.settings.node_url in str(denied[0])
    assert "wrong" not in str(denied[0])
    await link.stop()


@pytest_twisted.ensureDeferred
async def test_a_link_that_never_connected_can_be_stopped(free_port: Callable[[], int]) -> None:
    link, states = link_to(nowhere(free_port()))
    link.start()
    await until(lambda: link._pause is not None)
    with pytest.raises(LineDown):
        await link.call("wamp.session.list")
    assert link.publish("eftchat.notice.reconnect", {}) is False
    await link.stop()
    await link.stop()
    assert states == ["stopped"]


@pytest_twisted.ensureDeferred
async def test_a_link_can_be_stopped_while_it_waits_for_a_silent_router() -> None:
    silent: list[Protocol] = []
    factory = ServerFactory.forProtocol(Protocol)
    factory.doStart = lambda: None
    build = factory.buildProtocol

    def remember(peer: object) -> Protocol:
        silent.append(build(peer))
        return silent[-1]

    factory.buildProtocol = remember
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    link, states = link_to(nowhere(port.getHost().port))
    link.start()
    await until(lambda: bool(silent))
    began = reactor.seconds()
    await link.stop()
    assert reactor.seconds() - began < 2.0
    assert states == ["stopped"]
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_stopping_at_once_leaves_nothing(router: RouterProcess) -> None:
    link, states = link_to(address(router))
    link.start()
    await link.stop()
    assert states == ["stopped"]


@pytest_twisted.ensureDeferred
async def test_stopping_leaves_the_router_with_a_goodbye(router: RouterProcess) -> None:
    watcher = await join(router.settings.node_url, router.ticket)
    link, states = link_to(address(router))
    link.start()
    await until(lambda: link.state == "up")
    number = link._visit.session._session_id
    assert number in await watcher.call("wamp.session.list")
    await link.stop()
    assert states == ["up", "stopped"]
    assert number not in await watcher.call("wamp.session.list")
    watcher.leave()
    await watcher.gone


@pytest_twisted.ensureDeferred
async def test_a_node_that_withdraws_finishes_what_was_called(router: RouterProcess) -> None:
    answers: list[Deferred[str]] = []
    link, _ = link_to(address(router))
    link.serve("eftchat.api.slow", answering(answers))
    link.start()
    await until(lambda: link.state == "up")
    client = await join(router.settings.client_url)
    calling = client.call("eftchat.api.slow")
    await until(lambda: len(answers) == 1)
    await link.withdraw()
    with pytest.raises(ApplicationError) as refused:
        await client.call("eftchat.api.slow")
    assert refused.value.error == "wamp.error.no_such_procedure"
    answers[0].callback("done")
    assert await calling.addTimeout(5, reactor) == "done"
    await link.stop()
    client.leave()
    await client.gone


@pytest_twisted.ensureDeferred
async def test_a_topic_given_up_and_wanted_again_is_heard_once(router: RouterProcess) -> None:
    heard: list[str] = []
    link, _ = link_to(address(router))
    link.start()
    await until(lambda: link.state == "up")
    effective: list[str] = []
    topic = "eftchat.room.abc.messages"
    for turn in ("first", "second", "third"):
        link.listen(
            topic,
            lambda args, _, turn=turn: heard.append((turn, *args)),
            lambda subscription, turn=turn: effective.append(turn),
        )
        if turn != "third":
            link.unlisten(topic)
    await until(lambda: effective[-1:] == ["third"])
    node = await join(router.settings.node_url, router.ticket)
    node.publish(topic, "hi")
    await until(lambda: heard == [("third", "hi")])
    link.unlisten(topic)
    link.listen("eftchat.room.abc.presence", lambda args, _: heard.append(args))
    await until(lambda: "eftchat.room.abc.presence" in link._visit.subscriptions)
    node.publish(topic, "nobody hears")
    node.publish("eftchat.room.abc.presence", "last")
    await until(lambda: heard[-1] == ["last"])
    assert len(heard) == 2
    await link.stop()
    node.leave()
    await node.gone


# ---- a router that dies ------------------------------------------------------------------------------------


@pytest_twisted.async_yield_fixture
async def mortal(
    make_router: Callable[..., RouterProcess], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RouterProcess]:
    process = make_router(tmp_path_factory.mktemp("mortal"))
    process.start()
    await process.ready
    yield process
    await process.stop()


async def seated(router: RouterProcess, name: str) -> Peer:
    peer = await join(router.settings.client_url)
    await peer.call("eftchat.api.join", room="R", name=name, user=name)
    return peer


def elsewhere(seq: int, text: str) -> Message:
    """What another node, which reaches this one no more, stores."""
    return Message("r", seq, f"w{seq}", "text", "uX", "X", 1, {"text": text})


@pytest_twisted.ensureDeferred
async def test_after_a_router_died_everything_is_as_it_was_and_nothing_was_missed(
    mortal: RouterProcess,
) -> None:
    store = Store()
    node = core("n1", address(mortal), store)
    await node.up()
    states: list[State] = []
    node.link.on_state(states.append)
    joined = await node.join("R", "Ann", "uA")
    reader = Reader()
    joined.feed.attach(reader, joined.cursor)
    await node.rooms.post(joined.seat, "u1", "text", {"text": "before"}).wait()
    await seated(mortal, "Bob")
    assert node.procedures.seated == 1

    os.kill(mortal.pid, signal.SIGKILL)
    await until(lambda: states == ["down"])
    await store.messages.append([elsewhere(2, "meanwhile")])
    await node.rooms.post(joined.seat, "u3", "text", {"text": "alone"}).wait()
    assert reader.texts[0] == "1 before"
    await store.messages.append([elsewhere(4, "unheard")])

    await until(lambda: states == ["down", "up"], 60)
    await until(lambda: reader.texts == ["1 before", "2 meanwhile", "3 alone", "4 unheard"])
    await until(lambda: node.procedures.seated == 0)  # Bob's session did not survive
    carol = await seated(mortal, "Bob")
    other = await join(mortal.settings.node_url, mortal.ticket)
    answer = await carol.call("eftchat.api.post", room="R", uuid="u5", body={"text": "again"})
    assert answer["seq"] == 5
    batch = schema.shown_batch(joined.seat.room, [elsewhere(6, "heard")])
    other.publish(f"eftchat.room.{joined.key}.messages", **batch)
    await until(lambda: reader.texts[-1] == "6 heard")
    await node.down()


@pytest_twisted.ensureDeferred
async def test_two_routers_carry_one_room_and_either_may_die(
    router: RouterProcess, mortal: RouterProcess
) -> None:
    node = core("n1", [address(router), address(mortal)], Store())
    await node.up()
    heard: list[int] = []
    ann, bob = await seated(router, "Ann"), await seated(mortal, "Bob")
    for peer in (ann, bob):
        topic = f"eftchat.room.{await peer.call('eftchat.api.key', room='R')}.messages"
        await peer.subscribe(lambda messages, **_: heard.extend(m["seq"] for m in messages), topic)
    await bob.call("eftchat.api.post", room="R", uuid="u1", body={"text": "from the other router"})
    await until(lambda: heard == [1, 1])
    os.kill(mortal.pid, signal.SIGKILL)
    await until(lambda: node.links[1].state == "down")
    await ann.call("eftchat.api.post", room="R", uuid="u2", body={"text": "still here"})
    await until(lambda: heard == [1, 1, 2])
    ann.leave()
    await ann.gone
    await node.down()
