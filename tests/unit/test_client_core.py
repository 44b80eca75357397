"""The client against the real core of two nodes, on lines that break with bytes in flight, from one seed."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.task import Clock

from eftchat.bridge.connection import Settings
from eftchat.bridge.v2 import V2Conversation, V2Dialect, notification
from eftchat.client import ChatClient, Cursor, Message, Room, Sending
from eftchat.client.seams import Listener
from eftchat.log import Bounds
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.testing.memory import MemoryMembers, MemoryMessages
from tests.unit.desk import RecordingBus, frames_in
from tests.unit.fake_node import result, run

LATENCY = 0.002


@define(eq=False)
class Cable:
    """A line of the client and the socket of a conversation in one."""

    cluster: Cluster
    listener: Listener
    conversation: V2Conversation | None = None
    over: bool = False
    full: bool = False

    def later(self, call: Any, *given: Any) -> None:
        self.cluster.clock.callLater(LATENCY, lambda: None if self.over else call(*given))

    # the client's line

    def send(self, payload: bytes) -> None:
        self.later(self._arrived, payload)

    def abort(self) -> None:
        self.later(self.cut, None)

    # the node's socket

    def write(self, data: bytes) -> None:
        for frame in frames_in(data):
            self.later(self.listener.received, json.dumps(frame).encode())

    def writable(self) -> bool:
        return not self.full

    def stop_reading(self) -> None: ...

    def read_on(self) -> None: ...

    # both

    def close(self, code: int, reason: str) -> None:
        self.later(self.cut, code)

    def cut(self, code: int | None) -> None:
        """Breaks: whatever is on the way is lost."""
        if not self.over:
            self.over = True
            self.cluster.cables.remove(self)
            if self.conversation is not None:
                self.conversation.lost()
            self.listener.lost(code, "cut")

    def _arrived(self, payload: bytes) -> None:
        assert self.conversation is not None
        self.conversation.received(payload)


@define(eq=False)
class Cluster:
    """Two nodes over one store, whose bus carries nothing: each learns of the other's messages from the
    log."""

    clock: Clock = field(factory=Clock)
    messages: MemoryMessages = field(factory=MemoryMessages)
    bounds: Bounds = Bounds()
    cables: list[Cable] = field(factory=list)
    nodes: dict[str, Rooms] = field(factory=dict, init=False)
    _dialects: dict[str, V2Dialect] = field(factory=dict, init=False)
    _numbers: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        loop = TwistedLoop(self.clock)
        members = MemoryMembers(self.clock.seconds)
        for name in ("a", "b"):
            rooms = Rooms(name, b"secret", self.messages, members, RecordingBus(), loop, Random(name))
            rooms.log.bounds = self.bounds
            rooms.feeds.start()
            loop.spawn(members.renew(name, 10_000_000), "lease")
            self.nodes[name], self._dialects[name] = rooms, V2Dialect()

    def dial(self, url: str, listener: Listener) -> Cable:
        node = url.removeprefix("ws://")[0]
        cable = Cable(self, listener)
        self.cables.append(cable)
        self._numbers += 1
        loop, identity = TwistedLoop(self.clock), f"{node}{self._numbers}"
        cable.conversation = V2Conversation(
            self.nodes[node], loop, cable, Settings(node), identity, self._dialects[node]
        )
        cable.later(listener.opened)
        return cable

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.001] * round(seconds / 0.001))

    def close(self) -> None:
        for rooms in self.nodes.values():
            rooms.feeds.stop()
        assert self.clock.getDelayedCalls() == []


@define(eq=False)
class Person:
    """Someone who chats."""

    client: ChatClient
    seen: list[Message] = field(factory=list)
    sent: list[Sending] = field(factory=list)
    room: Room | None = None

    async def enter(self, name: str) -> None:
        self.client.start()
        start = Cursor(None, 0)
        self.room = await self.client.join("R", name=name, after=start, on_message=self.seen.append)

    def say(self, text: str) -> None:
        if self.room is not None:
            self.sent.append(self.room.post(text))


def people(cluster: Cluster, seed: int) -> list[Person]:
    urls = (["a:1", "b:1"], ["b:1", "a:1"], ["a:1"])
    return [
        Person(ChatClient(cluster.clock, url, user=f"u{n}", rng=Random(f"{seed} {n}"), dial=cluster.dial))
        for n, url in enumerate(urls)
    ]


def trouble(cluster: Cluster, chance: Random) -> None:
    """Something happens to somebody's line."""
    if not cluster.cables:
        return
    cable = chance.choice(cluster.cables)
    kind = chance.randrange(4)
    if kind == 0:
        cable.cut(None)
    elif kind == 1:
        cable.cut(1012)
    elif kind == 2:
        cable.write(notification("reconnect", {"after_ms": chance.randrange(50), "reason": "drill"}))
    else:
        cable.full = not cable.full
        if not cable.full and cable.conversation is not None:
            cable.conversation.drained()


def live(cluster: Cluster, chatters: list[Person], chance: Random) -> None:
    """Half a minute of chatting on bad lines, then peace until everything has arrived."""
    for n, person in enumerate(chatters):
        run(person.enter(f"P{n}"))
    for step in range(300):
        for person in chatters:
            for _ in range(chance.choice((0, 0, 1, 1, 5))):
                person.say(f"{step}")
        if chance.random() < 0.2:
            trouble(cluster, chance)
        cluster.pass_time(chance.choice((0.001, 0.003, 0.02, 0.1)))
    for cable in list(cluster.cables):
        cable.cut(None)
    cluster.pass_time(12)


def stored(cluster: Cluster) -> list[tuple[int, str]]:
    log = result(run(cluster.messages.after("r", 0, 1_000_000)))
    return [(message.seq, message.uuid) for message in log]


def end(cluster: Cluster, chatters: list[Person]) -> None:
    stopping = [run(person.client.stop()) for person in chatters]
    cluster.pass_time(0.1)
    assert [result(one) for one in stopping] == [0] * len(chatters)
    cluster.close()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_to_lines_everybody_sees_the_whole_log_and_all_is_in_it_once(
    seed: int,
) -> None:
    cluster, chance = Cluster(), Random(seed)
    chatters = people(cluster, seed)
    live(cluster, chatters, chance)
    log = stored(cluster)
    assert len(log) > 500
    for person in chatters:
        assert [(message.seq, message.uuid) for message in person.seen] == log
        mine = {sending.uuid for sending in person.sent}
        assert [sending.uuid for sending in person.sent] == [uuid for _, uuid in log if uuid in mine]
        assert all(sending.posted and (sending.posted.seq, sending.uuid) in log for sending in person.sent)
    end(cluster, chatters)


@pytest.mark.parametrize("seed", range(3))
def test_nodes_that_refuse_what_they_have_no_room_for_cost_nothing_but_time(seed: int) -> None:
    cluster, chance = Cluster(bounds=Bounds(queue=3)), Random(seed)
    chatters = people(cluster, seed)
    live(cluster, chatters, chance)
    cluster.pass_time(180)
    log = stored(cluster)
    for person in chatters:
        assert [(message.seq, message.uuid) for message in person.seen] == log
        assert all(sending.posted and (sending.posted.seq, sending.uuid) in log for sending in person.sent)
    end(cluster, chatters)
