"""The way out, for scale-down, rolling update and Ctrl-C: a sequence with deadlines.

    leaving    readiness says so, while the listener still answers: a balancer shall see it
    refuse     no newcomers, no calls
    tell       those who are here, while they can still hear it; each has a slot in the window
    see off    who has moved closes itself; who has not is closed behind its slot, never many at once
    finish     what was accepted becomes durable
    close      what is left, and its names are let go while others can still be told
    leave      the bus

Each step gets a part of the time that is left, so that the last one is reached whatever happens before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

import msgspec
from attrs import define, field

from eftchat.ports import Loop
from eftchat.rooms import Rooms

T = TypeVar("T")

REASON = "this node is leaving"
_POLL = 0.02


class Pace(msgspec.Struct, frozen=True):
    """How fast a node empties. Seconds, and clients a second."""

    settle: float = 0.0
    """For how long it still takes newcomers after it began to say that it is not ready. At most a fifth of the
    grace."""
    rate: float = 50.0
    """How many clients are asked to move in a second, unless half of the grace is too short for that."""
    linger: float = 3.0
    """How long a client that was asked to move may stay behind its slot."""

    def __post_init__(self) -> None:
        if self.rate <= 0.0 or self.settle < 0.0 or self.linger < 0.0:
            raise ValueError("a pace has a rate above 0, and no time below 0")

    def window(self, clients: int, left: float) -> float:
        """Over how many seconds that many are spread, when so many are left. Nobody needs none."""
        return min(left / 2, clients / self.rate)


class Notice(msgspec.Struct, frozen=True):
    """What those inside are told: connect elsewhere, somewhen in the next `window` seconds."""

    reason: str
    window: float


class Parting(msgspec.Struct, frozen=True):
    """What became of the clients of a door."""

    moved: int = 0
    """Were told, and went by themselves."""
    closed: int = 0
    """Were closed."""
    slowest: float = 0.0
    """The longest that one was still here behind its slot. Seconds."""

    def __add__(self, other: Parting) -> Parting:
        slowest = max(self.slowest, other.slowest)
        return Parting(self.moved + other.moved, self.closed + other.closed, slowest)


class Door(Protocol):
    """One of a node's ways in. Each is called once, in this order; but `close` and `leave` also without the rest."""

    @property
    def inside(self) -> int:
        """How many clients are in."""

    async def refuse(self) -> None:
        """No newcomers from now on; who is inside stays and is served."""

    async def tell(self, notice: Notice) -> int:
        """Tells those inside to connect elsewhere; how many were told."""

    async def see_off(self) -> None:
        """Done when nobody is inside any more, or everyone had its time."""

    async def close(self, seconds: float) -> Parting:
        """Ends what is still open, within so many seconds; what became of everyone."""

    async def leave(self) -> None:
        """Ends what the door itself needs of others."""


class Report(msgspec.Struct, frozen=True):
    """How a node left. Messages: those that were accepted and became durable while it left, and those that were
    not within the grace (their senders were told nothing, and have them still)."""

    told: int
    moved: int
    closed: int
    slowest: float
    finished: int
    unfinished: int
    seconds: float

    def __str__(self) -> str:
        """One line for whoever reads the node's output."""
        return (
            f"{self.told} clients told, {self.moved} moved, {self.closed} closed, "
            f"{self.finished} messages finished, {self.unfinished} not; "
            f"at most {self.slowest:.1f} s behind their slot, {self.seconds:.1f} s in all"
        )


@define(eq=False)
class Drain:
    """A node's way out. `doors` are closed in their order."""

    rooms: Rooms
    loop: Loop
    pace: Pace = Pace()
    doors: Sequence[Door] = field(default=())
    leaving: bool = field(default=False, init=False)
    """Clients shall be sent elsewhere: for readiness."""
    _deadline: float = field(default=0.0, init=False)

    async def leave(self, grace: float) -> Report:
        """Leaves in good order, within `grace` seconds whatever happens. Once."""
        started = self.loop.seconds()
        self._deadline = started + grace
        self.leaving = True
        log = self.rooms.log
        durable = log.durable
        if self.pace.settle > 0.0:
            await self.loop.sleep(min(self.pace.settle, self._part(0.2)))
        self.rooms.refusing = True
        await self._at_once([door.refuse() for door in self.doors], 0.2)
        inside = sum(door.inside for door in self.doors)
        notice = Notice(REASON, self.pace.window(inside, self._left))
        told = sum(await self._at_once([door.tell(notice) for door in self.doors], 0.2))
        await self._at_once([door.see_off() for door in self.doors], 0.8)
        await self._within(log.idle().wait(), 0.8)
        parting = await self._close()
        waiting = log.waiting
        return Report(
            told,
            parting.moved,
            parting.closed,
            parting.slowest,
            log.durable - durable,
            waiting,
            self.loop.seconds() - started,
        )

    async def _close(self) -> Parting:
        partings = await self._at_once([door.close(self._part(0.4)) for door in self.doors], 0.5)
        await self._within(self._names_let_go(), 0.5)
        for door in self.doors:
            await self._within(door.leave(), 0.5)
        return sum(partings, Parting())

    async def _names_let_go(self) -> None:
        while self.rooms.releasing:
            await self.loop.sleep(_POLL)

    # -- time ------------------------------------------------------------------------------------------

    @property
    def _left(self) -> float:
        return max(0.0, self._deadline - self.loop.seconds())

    def _part(self, share: float) -> float:
        return share * self._left

    async def _within(self, work: Awaitable[T], share: float) -> T | None:
        return await within(self.loop, work, self._part(share))

    async def _at_once(self, works: Sequence[Awaitable[T]], share: float) -> list[T]:
        """What those brought that were done in this part of the time."""
        seconds = self._part(share)
        begun = [within(self.loop, work, seconds) for work in works]
        brought = [await work for work in begun]
        return [found for found in brought if found is not None]


def within(loop: Loop, work: Awaitable[T], seconds: float) -> Awaitable[T | None]:
    """What the work brings, or None when it takes longer or fails. It begins now, and is not interrupted."""
    done = loop.promise()
    settled = False

    def settle(value: T | None) -> None:
        nonlocal settled
        if not settled:
            settled = True
            timer.cancel()
            done.resolve(value)

    async def run() -> None:
        value = None
        try:
            value = await work
        finally:
            settle(value)

    timer = loop.call_later(seconds, lambda: settle(None))
    loop.spawn(run(), "leaving")
    return done.wait()
