"""A node leaves while people talk: real sockets, two nodes, one store, one router between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest_twisted
import treq
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall

from eftchat.app import Node, NodeConfig, build
from eftchat.client import ChatClient, Cursor, Entered, Event, Joined, Left, Message, Suspended
from eftchat.domain.limits import Limits
from eftchat.domain.names import fold
from eftchat.drain import Pace, Report
from eftchat.testing.memory import MemoryMembers, MemoryMessages
from eftchat.wamp.router import RouterProcess
from tests.integration.crowd import eventually
from tests.integration.peers import join
from tests.integration.raw import dial, seated
from tests.integration.v1_client import V1Client

ROOM = "The Room"
MOVERS, OLD = 50, 5
RATE = 10.0
"""Clients that move in a second."""
POSTS = 100.0
"""Messages a second, of all together."""


@define(eq=False)
class SharedStore:
    """What two nodes share; it outlives both."""

    messages: MemoryMessages = field(factory=MemoryMessages)
    members: MemoryMembers = field(factory=lambda: MemoryMembers(reactor.seconds))

    async def close(self) -> None:
        pass


@define(eq=False)
class Pair:
    """Two nodes, of which `first` is to leave."""

    store: SharedStore
    nodes: list[Node] = field(factory=list)
    ports: list[int] = field(factory=list)

    async def add(self, name: str, router: RouterProcess, pace: Pace) -> None:
        address = (router.settings.node_url,)
        config = NodeConfig(
            id=name,
            host="127.0.0.1",
            port=0,
            secret=b"secret",
            ticket=router.ticket,
            routers=address,
            limits=Limits(post_rate=1_000.0, post_burst=10_000.0),
            grace=40.0,
            pace=pace,
        )
        node = build(reactor, config, self.store, Random(name))
        self.ports.append(await node.start())
        self.nodes.append(node)
        node.wamp.open()
        await eventually(lambda: node.wamp.links[0].state == "up", 20)

    @property
    def first(self) -> Node:
        return self.nodes[0]

    @property
    def urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}/chat" for port in self.ports]

    async def log(self) -> list[tuple[int, str]]:
        found = await self.store.messages.after(fold(ROOM), 0, 1_000_000)
        return [(message.seq, message.uuid) for message in found]


async def pair_of(router: RouterProcess, pace: Pace) -> Pair:
    pair = Pair(SharedStore())
    for name in ("leaving", "staying"):
        await pair.add(name, router, pace)
    return pair


@pytest_twisted.async_yield_fixture
async def pair(router: RouterProcess) -> AsyncIterator[Pair]:
    pair = await pair_of(router, Pace(rate=RATE, linger=3.0))
    yield pair
    await gatherResults([Deferred.fromCoroutine(node.stop()) for node in pair.nodes[1:]])


@define(eq=False)
class Mover:
    """A v2 client that talks now and then, and remembers when it heard what."""

    number: int
    urls: list[str]
    received: list[tuple[int, str]] = field(factory=list)
    heard_at: list[float] = field(factory=list)
    events: list[Event] = field(factory=list)
    moved_at: list[float] = field(factory=list)
    sent: list[Any] = field(factory=list)
    client: ChatClient = field(init=False)
    seat: Any = None

    async def enter(self) -> None:
        name = f"mover {self.number}"
        self.client = ChatClient(reactor, self.urls, user=f"user {name}", rng=Random(name))
        self.client.start()
        self.seat = await self.client.join(
            ROOM, name=name, after=Cursor(None, 0), on_message=self._message, on_event=self._event
        )

    def _message(self, message: Message) -> None:
        self.received.append((message.seq, message.uuid))
        self.heard_at.append(reactor.seconds())

    def _event(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Joined) and event.again:
            self.moved_at.append(reactor.seconds())

    def say(self) -> None:
        self.sent.append(self.seat.post(f"{self.number} says {len(self.sent)}"))

    def gap(self, start: float, end: float) -> float:
        """The longest time between two messages from `start` to `end`."""
        times = [start, *(at for at in self.heard_at if start < at < end), end]
        return max(later - earlier for earlier, later in zip(times, times[1:], strict=False))


@define(eq=False)
class Party:
    """Fifty that move, five of the old kind, and one on the other node who watches."""

    pair: Pair
    movers: list[Mover] = field(factory=list)
    old: list[V1Client] = field(factory=list)
    watcher: Mover = field(init=False)
    before: int = 0
    """What the watcher was told until the node was asked to leave."""
    _talk: LoopingCall = field(init=False)
    _turn: int = 0

    async def enter(self) -> None:
        urls = self.pair.urls
        self.movers = [Mover(number, urls) for number in range(MOVERS)]
        self.old = [V1Client(reactor, urls[0], ROOM, f"old {n}", f"old {n}") for n in range(OLD)]
        self.watcher = Mover(MOVERS, urls[1:])
        for old in self.old:
            old.start()
        await gatherResults([Deferred.fromCoroutine(one.enter()) for one in [*self.movers, self.watcher]])
        await gatherResults([old.joined for old in self.old]).addTimeout(20, reactor)
        self._talk = LoopingCall.withCount(self._speak)
        self._talk.clock = reactor
        self._talk.start(1 / POSTS)

    def _speak(self, count: int) -> None:
        for _ in range(count):
            self.movers[self._turn % MOVERS].say()
            self._turn += 1

    @property
    def watched(self) -> list[Event]:
        """What the watcher was told since then."""
        return self.watcher.events[self.before :]

    async def hush(self) -> None:
        self._talk.stop()
        for mover in self.movers:
            await mover.seat.flushed()

    async def leave(self) -> None:
        for old in self.old:
            old.stop()
        everyone = [*self.movers, self.watcher]
        await gatherResults([Deferred.fromCoroutine(one.client.stop()) for one in everyone])


async def sigterm(party: Party) -> tuple[Report, float, float]:
    """The first node leaves. Its report, and from when to when; the old kind finds the other node behind its
    balancer."""
    start, party.before = reactor.seconds(), len(party.watcher.events)
    for old in party.old:
        old.url = party.pair.urls[1]
    report = await party.pair.first.stop()
    return report, start, reactor.seconds()


@pytest_twisted.ensureDeferred
async def test_a_leaving_node_hands_everyone_over_without_a_gap_and_without_a_storm(pair: Pair) -> None:
    party = Party(pair)
    await party.enter()
    await eventually(lambda: len(party.watcher.received) > 2 * POSTS, 20)
    before = len(party.watcher.received)
    report, start, end = await sigterm(party)
    said = len(party.watcher.received) - before
    await eventually(lambda: all(old._protocol is not None for old in party.old), 20)
    await party.hush()
    log = await pair.log()
    everyone = [*party.movers, party.watcher]
    await eventually(lambda: all(len(one.received) == len(log) for one in everyone), 20)
    await eventually(lambda: all(len(old.received) == len(log) for old in party.old), 20)
    await party.leave()
    judge_messages(party, log)
    judge_moves(party, report, start)
    gap = max(mover.gap(start, end) for mover in party.movers)
    print(f"\n{report}; {said / (end - start):.0f} messages/s, longest gap of a client {gap * 1000:.0f} ms")
    assert gap < 0.7
    assert said / (end - start) > 0.7 * POSTS


def judge_messages(party: Party, log: list[tuple[int, str]]) -> None:
    """Nothing lost, nothing twice, for whoever sent it and for whoever reads it."""
    assert [seq for seq, _ in log] == list(range(1, len(log) + 1))
    sent = {sending.uuid for mover in party.movers for sending in mover.sent}
    assert {uuid for _, uuid in log} == sent and len(sent) == len(log)
    for mover in [*party.movers, party.watcher]:
        assert mover.received == log, mover.number
    for old in party.old:
        assert sorted((frame["seq"], uuid) for uuid, frame in old.received.items()) == log
        assert old.errors == []


def judge_moves(party: Party, report: Report, start: float) -> None:
    """Everyone moved once, in its time, and nobody was told that somebody had left who had not."""
    assert (report.told, report.moved, report.closed) == (MOVERS, MOVERS, OLD)
    assert report.unfinished == 0 and report.slowest < 2.0
    seconds = Counter(int(at - start) for mover in party.movers for at in mover.moved_at)
    print(f"\nback per second: {[seconds[n] for n in range(max(seconds) + 1)]}")
    assert sum(seconds.values()) == MOVERS
    assert max(seconds.values()) <= 1.5 * RATE
    for mover in party.movers:
        assert not any(isinstance(event, Suspended) for event in mover.events)
    told = [event.member.name for event in party.watched if isinstance(event, Entered | Left)]
    assert [name for name in told if name.startswith("mover")] == []


@pytest_twisted.ensureDeferred
async def test_a_balancer_sees_that_a_node_leaves_while_newcomers_are_still_served(
    router: RouterProcess,
) -> None:
    pair = await pair_of(router, Pace(settle=1.0, linger=0.0))
    leaving = Deferred.fromCoroutine(pair.first.stop())
    answer = await treq.get(f"http://127.0.0.1:{pair.ports[0]}/readyz", timeout=5)
    assert (answer.code, await answer.text()) == (503, '{"ok":false,"problem":"leaving"}')
    late = await seated(pair.urls[0], "R", "Late")
    notice = await late.heard()
    while notice["method"] != "reconnect":
        notice = await late.heard()
    assert notice["params"]["reason"] == "this node is leaving" and notice["params"]["after_ms"] >= 0
    assert (await late.closed.addTimeout(10, reactor))[0] == 1012
    report = await leaving
    assert (report.told, report.moved, report.closed) == (1, 0, 1)
    again = await seated(pair.urls[1], "R", "Late")
    again.sendClose()
    await pair.nodes[1].stop()


@pytest_twisted.ensureDeferred
async def test_wamp_members_keep_their_seats_and_nobody_sees_them_go(
    pair: Pair, router: RouterProcess
) -> None:
    heard: list[dict[str, Any]] = []
    ann = await join(router.settings.client_url)
    await ann.subscribe(lambda **notice: heard.append(notice), "eftchat.notice.reconnect")
    watcher = await seated(pair.urls[1], "R", "Watcher")
    await ann.call("eftchat.api.join", room="R", name="Ann", user="uA")
    await pair.first.stop()
    await eventually(lambda: bool(heard), 10)
    assert heard == [{"node": "leaving", "spread_ms": 0, "reason": "this node is leaving"}]
    posted = await ann.call("eftchat.api.post", room="R", uuid="u1", kind="text", body={"text": "still here"})
    assert posted["seq"] == 1
    methods = [(await watcher.heard())["method"]]
    while methods[-1] != "messages":
        methods.append((await watcher.heard())["method"])
    assert "left" not in methods
    ann.leave()
    watcher.sendClose()


@pytest_twisted.ensureDeferred
async def test_an_old_client_is_closed_in_its_slot_with_what_it_said_acknowledged(pair: Pair) -> None:
    old = await dial(pair.urls[0])
    who = {"userId": "uO", "roomName": "R", "userName": "Old"}
    old.call("joinRoom", 1, **who)
    await old.heard()
    leaving = Deferred.fromCoroutine(pair.first.stop())
    old.call("textMessage", 2, **who, text="wait for me", uuid="u1")
    assert (await old.closed.addTimeout(10, reactor))[0] == 1012
    echoes = [frame for frame in old.frames.pending if frame.get("method") == "textMessage"]
    assert [frame["params"]["uuid"] for frame in echoes] == ["u1"]
    report = await leaving
    assert (report.told, report.closed, report.unfinished) == (0, 1, 0)
