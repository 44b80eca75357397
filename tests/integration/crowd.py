"""Clients of all doors that talk without a pause, and the judgement at the end: everyone has the log, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from eftchat.client import ChatClient, Cursor, Message
from tests.integration.v1_client import V1Client
from tests.integration.wamp_client import WampClient


@define(eq=False)
class V2Client:
    """One v2 client in one room."""

    url: str
    room: str
    name: str
    received: list[tuple[int, str]] = field(factory=list)
    client: ChatClient = field(init=False)
    seat: Any = None

    def __attrs_post_init__(self) -> None:
        self.client = ChatClient(reactor, self.url, user=f"user {self.name}", rng=Random(self.name))

    async def enter(self) -> None:
        self.client.start()
        self.seat = await self.client.join(
            self.room, name=self.name, after=Cursor(None, 0), on_message=self._heard
        )

    def _heard(self, message: Message) -> None:
        self.received.append((message.seq, message.uuid))

    async def send(self, text: str) -> str:
        return str((await self.seat.post(text)).uuid)


async def eventually(true: Callable[[], bool], seconds: float, what: Callable[[], str] = lambda: "") -> None:
    """Waits until it is true, for that long at most."""
    until = reactor.seconds() + seconds
    while not true():
        assert reactor.seconds() < until, f"not within {seconds} s: {what()}"
        await deferLater(reactor, 0.05)


@define(eq=False)
class Crowd:
    """Some clients of each door in each of some rooms."""

    chat_url: str
    wamp_url: str | Sequence[str]
    rooms: tuple[str, ...] = ("one", "two")
    v1_each: int = 2
    v2_each: int = 3
    wamp_each: int = 0
    every: float = 0.0
    """Seconds from one message of a client to its next; 0: as soon as it is acknowledged."""
    v1: list[V1Client] = field(factory=list, init=False)
    v2: list[V2Client] = field(factory=list, init=False)
    wamp: list[WampClient] = field(factory=list, init=False)
    acknowledged: dict[str, list[str]] = field(factory=dict, init=False)
    """By room: the uuids, in the order in which the acknowledgements came."""
    _quiet: bool = field(default=False, init=False)
    _talking: list[Deferred[None]] = field(factory=list, init=False)

    @property
    def count(self) -> int:
        """How many messages were acknowledged."""
        return sum(len(uuids) for uuids in self.acknowledged.values())

    async def enter(self) -> None:
        """Everyone joins."""
        for room in self.rooms:
            self.acknowledged[room] = []
            for n in range(self.v1_each):
                self.v1.append(V1Client(reactor, self.chat_url, room, f"{room} v1 {n}", f"v1 {n}", 1.0))
            for n in range(self.v2_each):
                self.v2.append(V2Client(self.chat_url, room, f"v2 {n}"))
            for n in range(self.wamp_each):
                self.wamp.append(WampClient(reactor, self.wamp_url, room, f"{room} w {n}", f"w {n}"))
        for client in [*self.v1, *self.wamp]:
            client.start()
        await gatherResults([Deferred.fromCoroutine(client.enter()) for client in self.v2])
        await gatherResults([client.joined for client in [*self.v1, *self.wamp]]).addTimeout(60, reactor)

    def talk(self, messages: float = inf) -> None:
        """Everyone sends that many; without a number, until `hush`."""
        everyone = [*self.v1, *self.v2, *self.wamp]
        for number, client in enumerate(everyone):
            begin = deferLater(reactor, self.every * number / len(everyone))
            begin.addCallback(lambda _, client=client: Deferred.fromCoroutine(self._talk(client, messages)))
            self._talking.append(begin)

    async def _talk(self, client: Any, messages: float) -> None:
        number = 0
        while not self._quiet and number < messages:
            number += 1
            due = reactor.seconds() + self.every
            self.acknowledged[client.room].append(await client.send(f"{client.name} says {number}"))
            if self.every:
                await deferLater(reactor, max(0.0, due - reactor.seconds()))

    async def more(self, count: int, seconds: float = 60.0) -> None:
        """Waits until that many more messages were acknowledged."""
        goal = self.count + count
        await eventually(lambda: self.count >= goal, seconds, lambda: f"{goal - self.count} missing")

    async def finish(self, seconds: float = 120.0) -> None:
        """Waits until everyone has said what it has to say."""
        await gatherResults(self._talking).addTimeout(seconds, reactor)

    async def hush(self) -> None:
        """Everyone finishes its sentence; what was sent is acknowledged."""
        self._quiet = True
        await self.finish()

    async def judge(self) -> None:
        """Fails unless the log is dense, holds each acknowledged message once, and everyone has just that."""
        for room in self.rooms:
            log = await self._fresh_read(room)
            assert [message.seq for message in log] == list(range(1, len(log) + 1))
            uuids = [message.uuid for message in log]
            assert len(set(uuids)) == len(uuids), "stored twice"
            missing = set(self.acknowledged[room]) - set(uuids)
            assert not missing, f"{len(missing)} acknowledged messages are not in the log"
            self._judge_order(log)
            await self._judge_readers(room, [(message.seq, message.uuid) for message in log])

    async def _fresh_read(self, room: str) -> list[Message]:
        """The room's log, as a newcomer gets it."""
        log: list[Message] = []
        client = ChatClient(reactor, self.chat_url, rng=Random(room))
        client.start()
        seat = await client.join(room, name="newcomer", after=Cursor(None, 0), on_message=log.append)
        await seat.caught_up()
        await client.stop()
        return log

    def _judge_order(self, log: list[Message]) -> None:
        """What each sender sent is in the order in which it sent it."""
        said: dict[str, list[int]] = {}
        for message in log:
            said.setdefault(message.name, []).append(int(message.text.rpartition(" ")[2]))
        for name, numbers in said.items():
            assert numbers == list(range(1, len(numbers) + 1)), f"out of order: {name}"

    async def _judge_readers(self, room: str, log: list[tuple[int, str]]) -> None:
        v1 = [client for client in self.v1 if client.room == room]
        others = [client for client in [*self.v2, *self.wamp] if client.room == room]
        for client in self.wamp:
            await client.catch_up()
        readers = [*v1, *others]
        await eventually(
            lambda: all(len(reader.received) >= len(log) for reader in readers),
            30,
            lambda: f"{[len(reader.received) for reader in readers]} of {len(log)}",
        )
        for reader in others:
            assert reader.received == log, reader.name
        for old in v1:
            frames = [(frame["seq"], uuid, frame["_id"]) for uuid, frame in old.received.items()]
            assert [(seq, uuid) for seq, uuid, _ in sorted(frames)] == log, old.name
            assert sorted(frames) == sorted(frames, key=lambda frame: frame[2])
            assert old.errors == []

    def leave(self) -> Deferred[Any]:
        """Everyone goes."""
        for client in [*self.v1, *self.wamp]:
            client.stop()
        return gatherResults([Deferred.fromCoroutine(client.client.stop()) for client in self.v2])
