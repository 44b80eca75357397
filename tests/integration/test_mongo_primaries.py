"""Changes of primary under writes, held against a real replica set.

What was acknowledged is there afterwards, in order and once; and a new primary is found within seconds,
however the old one went.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from eftchat import mongo
from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Message
from eftchat.ports import OutcomeUnknown
from eftchat.testing.mongod import Mongod, ReplicaSet

_databases = itertools.count()


def bounded(coroutine: Any, seconds: float = 90.0) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine).addTimeout(seconds, reactor)


def lobby(seq: int, uuid: str) -> Message:
    return Message("lobby", seq, uuid, "text", "ann", "Ann", 0, {"text": "x"})


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    started = ReplicaSet.start(tmp_path_factory.mktemp("mongod"))
    yield started
    started.stop()


@pytest_twisted.async_yield_fixture
async def store(replica_set: ReplicaSet) -> AsyncIterator[mongo.MongoStore]:
    """A store in a database nobody has used."""
    uri = replica_set.uri.replace("/?", f"/primaries{next(_databases)}?")
    opened = await bounded(mongo.connect(reactor, uri))
    yield opened
    await opened.close()


@attrs.define
class Writer:
    """Appends for ever, with the rule for unknown outcomes; keeps what was acknowledged, and when."""

    messages: Any
    running: bool = True
    acknowledged: dict[str, int] = attrs.field(factory=dict)
    times: list[float] = attrs.field(factory=list)
    unknown: int = 0

    async def run(self) -> None:
        head = 0
        for number in itertools.count():
            if not self.running:
                return
            batch = [lobby(head + 1 + n, f"{number}-{n}") for n in range(5)]
            if not await self._stored(batch):
                raise AssertionError("nobody else writes here")
            head = batch[-1].seq
            self.acknowledged.update((message.uuid, message.seq) for message in batch)
            self.times.append(reactor.seconds())

    async def _stored(self, batch: list[Message]) -> bool:
        while True:
            try:
                appended = await self.messages.append(batch)
                if appended.taken is None:
                    return True
            except (OutcomeUnknown, Unavailable) as error:
                self.unknown += isinstance(error, OutcomeUnknown)
            found = await self._found(batch)
            if len(found) == len(batch):
                return {m.uuid: m.seq for m in batch} == {m.uuid: m.seq for m in found.values()}
            batch = [message for message in batch if message.uuid not in found]

    async def _found(self, batch: list[Message]) -> Any:
        while True:
            try:
                return await self.messages.find("lobby", [message.uuid for message in batch])
            except Unavailable:
                await deferLater(reactor, 0.05)

    def longest_wait(self) -> float:
        """The longest time between two acknowledgements."""
        return max(after - before for before, after in itertools.pairwise(self.times))


async def written_through(store: mongo.MongoStore, fault: Callable[[], Any]) -> Writer:
    """A writer that wrote for a while, met the fault, and wrote on for a while."""
    writer = Writer(store.messages)
    writing = Deferred.fromCoroutine(writer.run())
    await deferLater(reactor, 0.5)
    before = len(writer.times)
    await deferToThread(fault)
    deadline = reactor.seconds() + 60
    while len(writer.times) < before + 5 or reactor.seconds() - writer.times[-1] > 0.3:
        assert reactor.seconds() < deadline, "no acknowledgement after the fault"
        await deferLater(reactor, 0.05)
    await deferLater(reactor, 4.0)
    writer.running = False
    await writing
    return writer


async def assert_nothing_lost(store: mongo.MongoStore, writer: Writer) -> None:
    log: list[Message] = []
    while page := await store.messages.after("lobby", len(log), 1000):
        log += page
    assert [message.seq for message in log] == list(range(1, len(log) + 1))
    stored = {message.uuid: message.seq for message in log}
    assert len(stored) == len(log)
    assert writer.acknowledged.items() <= stored.items()


@pytest.mark.parametrize("fault", ["step_down", "kill", "freeze"])
@pytest_twisted.ensureDeferred
async def test_a_change_of_primary_loses_nothing(
    replica_set: ReplicaSet, store: mongo.MongoStore, capsys: Any, fault: str
) -> None:
    victim = replica_set.primary()
    strike = {
        "step_down": replica_set.step_down,
        "kill": lambda: replica_set.kill(victim),
        "freeze": lambda: replica_set.freeze(victim),
    }[fault]
    try:
        writer = await bounded(written_through(store, strike))
        with capsys.disabled():
            print(f"\n  {fault}: {len(writer.times)} batches, {writer.unknown} unknown outcomes,", end=" ")
            print(f"longest wait for an acknowledgement {writer.longest_wait():.1f} s")
        await bounded(assert_nothing_lost(store, writer))
    finally:
        if fault == "kill":
            replica_set.restart(victim)
        replica_set.thaw(victim)
        replica_set.settled()
    # The old primary is back and has given up what nobody acknowledged.
    await bounded(assert_nothing_lost(store, writer))


@pytest_twisted.ensureDeferred
async def test_a_primary_frozen_while_nobody_asks_is_left_at_the_first_question(
    replica_set: ReplicaSet, store: mongo.MongoStore, capsys: Any
) -> None:
    await store.messages.append([lobby(1, "first")])
    victim = replica_set.primary()
    replica_set.freeze(victim)
    try:
        await deferToThread(other_primary, replica_set, victim)
        begin = reactor.seconds()
        answered = False
        while not answered:
            try:
                answered = await bounded(store.messages.heads(["lobby"])) == {"lobby": 1}
            except Unavailable:
                assert reactor.seconds() - begin < 10
        with capsys.disabled():
            print(f"\n  first answer after {reactor.seconds() - begin:.1f} s", end=" ")
    finally:
        replica_set.thaw(victim)
        replica_set.settled()


def other_primary(replica_set: ReplicaSet, frozen: Mongod) -> None:
    """Returns when another member than the frozen one is the primary."""
    ReplicaSet(tuple(member for member in replica_set.members if member is not frozen)).primary()
