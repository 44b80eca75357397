"""The store's ports as one node of a simulated cluster sees them: with latency, deadlines and uncertainty.

`SimMessages` writes to a `ReplicaSet`. `SimMembers` is the in-memory twin behind the same unreliable way: the
claims themselves are changed in one step, as the adapters promise, but an answer may be lost, and then the
caller is told Unavailable whether the call was applied or not, as the adapters do for calls that may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Claim, Member, Message, Room
from eftchat.ports import Appended, OutcomeUnknown
from eftchat.testing.memory import MemoryMembers
from eftchat.testing.replica_set import Outcome, ReplicaSet
from eftchat.testing.sim_clock import NodeClock

T = TypeVar("T")

READ_DEADLINE = 1.0
WRITE_DEADLINE = 2.0
AWAY = "The simulated database cannot be reached"


@define(eq=False)
class Link:
    """One node's way to the database."""

    node: str
    clock: NodeClock
    replicas: ReplicaSet
    rng: Random
    away_until: float = 0.0
    members_away_until: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._half = self.replicas.trip * 0.25

    _half: float = field(init=False)

    def delay(self) -> float:
        """One way."""
        return self._half * (0.5 + self.rng.random())

    def tell(self, what: str) -> None:
        """Writes a line of the trace."""
        if not self.clock.dead:
            self.replicas.stage.tell(self.node, what)

    def away(self) -> bool:
        """Whether the database is out of this node's reach just now."""
        return self.clock.seconds() < self.away_until

    def read(self) -> Deferred[int]:
        """How long a prefix of the durable log a majority read sees. Fails with Unavailable."""
        done: Deferred[int] = Deferred()
        if not self.clock.act():
            return done
        faults = self.replicas.faults
        parted = self.node in self.replicas.stale
        if self.away() or self.rng.random() < faults.unsent or not (self.replicas.up or parted):
            self.clock.callLater(self._patience(READ_DEADLINE), done.errback, Unavailable(AWAY))
            return done
        before = self.replicas.seen_by(self.node) if self.rng.random() < 0.5 else None
        self.clock.callLater(self.delay() + self.delay(), self._see, done, before)
        return done

    def _see(self, done: Deferred[int], before: int | None) -> None:
        done.callback(self.replicas.seen_by(self.node) if before is None else before)

    def write(self, write: Sequence[Message] | Room) -> Deferred[Any]:
        """What became of a write. Fails with Unavailable (it was not sent) or OutcomeUnknown."""
        done: Deferred[Any] = Deferred()
        if self.clock.act():
            _Writing(self, write, done).send()
        return done

    def reach(self) -> Deferred[bool]:
        """The way of a call about members: True when it arrived and its answer gets lost. Or Unavailable."""
        done: Deferred[bool] = Deferred()
        if not self.clock.act():
            return done
        faults = self.replicas.faults
        lost = self.rng.random() < faults.reply_lost
        away = self.away() or self.clock.seconds() < self.members_away_until
        if away or self.rng.random() < faults.unsent + faults.request_lost:
            self.clock.callLater(self._patience(READ_DEADLINE), done.errback, Unavailable(AWAY))
        else:
            self.clock.callLater(self.delay() + self.delay(), done.callback, lost)
        return done

    def _patience(self, deadline: float) -> float:
        """After how long a failure shows: at once (a reset) or at the deadline."""
        return self.delay() if self.rng.random() < 0.5 else deadline


@define(eq=False)
class _Writing:
    """One write under way. Its request lives in the network: it may land when its node is long dead."""

    link: Link
    what: Sequence[Message] | Room
    done: Deferred[Any]
    settled: bool = False
    deaf: bool = False

    def send(self) -> None:
        link, faults = self.link, self.link.replicas.faults
        chance = link.rng.random
        if link.away() or chance() < faults.unsent:
            link.clock.callLater(link._patience(READ_DEADLINE), self._fail, Unavailable(AWAY))
            return
        link.clock.callLater(WRITE_DEADLINE, self._fail, OutcomeUnknown("no answer"))
        if chance() < faults.request_lost:
            self._give_up_soon()
        elif chance() < faults.request_late:
            self._give_up_soon()
            self._arrive(link.rng.choice((0.01, 0.2, 3.0)) * link.rng.random())
        else:
            self.deaf = chance() < faults.reply_lost
            if self.deaf:
                self._give_up_soon()
            self._arrive(link.delay())

    def _give_up_soon(self) -> None:
        """The connection was reset; else it is the deadline that ends the waiting."""
        link = self.link
        if link.rng.random() < 0.7:
            wait = link.replicas.trip * link.rng.random() * link.rng.choice((0.5, 3.0))
            link.clock.callLater(wait, self._fail, OutcomeUnknown("reset"))

    def _arrive(self, after: float) -> None:
        replicas = self.link.replicas
        replicas.stage.clock.callLater(after, replicas.receive, self.link.node, self.what, self._answer)

    def _answer(self, outcome: Outcome) -> None:
        if self.deaf or self.settled:
            return
        wait = self.link.delay()
        if outcome is None:
            self.link.clock.callLater(wait, self._fail, OutcomeUnknown("the primary is gone"))
        else:
            self.link.clock.callLater(wait, self._succeed, outcome)

    def _succeed(self, outcome: Outcome) -> None:
        if not self.settled:
            self.settled = True
            self.done.callback(outcome)

    def _fail(self, error: Exception) -> None:
        if not self.settled:
            self.settled = True
            self.done.errback(error)


@define(eq=False)
class SimMessages:
    """The port `Messages` of one node."""

    link: Link

    async def open(self, room: str, name: str, epoch: str) -> Room:
        size = await self.link.read()
        found = self.link.replicas.durable.room(room, size)
        if found is not None:
            return found
        try:
            made: Room = await self.link.write(Room(room, name, epoch))
        except OutcomeUnknown as error:
            raise Unavailable(AWAY) from error
        return made

    async def append(self, batch: Sequence[Message]) -> Appended:
        self.link.tell(f"appends {' '.join(f'{m.room}/{m.seq}={m.uuid}' for m in batch)}")
        try:
            appended: Appended = await self.link.write(batch)
        except Exception as error:
            self.link.tell(f"is told {error!r}")
            raise
        self.link.tell(f"is told {appended}")
        return appended

    async def find(self, room: str, uuids: Sequence[str]) -> Mapping[str, Message]:
        size = await self.link.read()
        return self.link.replicas.durable.find(room, uuids, size)

    async def heads(self, rooms: Sequence[str]) -> Mapping[str, int]:
        size = await self.link.read()
        return {room: self.link.replicas.durable.head(room, size) for room in rooms}

    async def after(self, room: str, seq: int, limit: int) -> list[Message]:
        size = await self.link.read()
        return [m for m in self.link.replicas.durable.log(room, size) if m.seq > seq][:limit]

    async def before(self, room: str, seq: int, limit: int) -> list[Message]:
        size = await self.link.read()
        found = [m for m in self.link.replicas.durable.log(room, size) if m.seq < seq]
        return found[max(0, len(found) - limit) :]


@define(eq=False)
class SimMembers:
    """The port `Members` of one node."""

    link: Link
    twin: MemoryMembers
    claimed: Callable[[Claim], None]
    """Told of each claim that the store has granted, at that moment."""

    async def enlist(self, id: str, node: str, ttl_ms: int) -> bool:
        return await self._call("enlist", self.twin.enlist(id, node, ttl_ms))

    async def renew(self, node: str, ttl_ms: int) -> None:
        await self._call("renew", self.twin.renew(node, ttl_ms))

    async def claim(self, claim: Claim) -> bool:
        async def work() -> bool:
            first = await self.twin.claim(claim)
            self.claimed(claim)
            return first

        return await self._call(f"claim {claim.holder}", work())

    async def release(self, claim: Claim) -> bool:
        return await self._call(f"release {claim.holder}", self.twin.release(claim))

    async def present(self, room: str) -> list[Member]:
        return await self._call("present", self.twin.present(room))

    async def held(self, sessions: Sequence[str]) -> list[Claim]:
        return await self._call("held", self.twin.held(sessions))

    async def hanging(self, node: str) -> list[Claim]:
        return await self._call("hanging", self.twin.hanging(node))

    async def adopt(self, sessions: Sequence[str], node: str) -> None:
        await self._call("adopt", self.twin.adopt(sessions, node))

    async def forget(self, node: str) -> None:
        await self._call("forget", self.twin.forget(node))

    async def lapsed(self) -> list[Claim]:
        return await self._call("lapsed", self.twin.lapsed())

    async def first_joined(self, room: str, user: str, seq: int) -> int:
        return await self._call("first_joined", self.twin.first_joined(room, user, seq))

    async def _call(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        """The work, done in one step where the members are, if the way there and back allows."""
        try:
            lost = await self.link.reach()
        except BaseException as error:
            work.close()
            self.link.tell(f"{what}: {error!r}")
            raise
        answer = await work
        self.link.tell(f"{what}: {answer}{' but hears nothing' if lost else ''}")
        if lost:
            raise Unavailable(AWAY)
        return answer
