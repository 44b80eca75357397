"""The way out, for scale-down, rolling update and Ctrl-C: a sequence with deadlines.

Newcomers are refused, those who are here are told while they can still hear it, what was accepted is finished, and
only then the doors close.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

import msgspec

from eftchat.ports import Loop
from eftchat.rooms import Rooms

T = TypeVar("T")


class Door(Protocol):
    """One of a node's ways in."""

    async def refuse(self) -> None:
        """No newcomers from now on; who is inside stays."""

    async def tell(self, reason: str) -> int:
        """Tells those inside to connect elsewhere; how many were told."""

    async def close(self) -> int:
        """Ends what is still open; how many that were."""


class Report(msgspec.Struct, frozen=True):
    """How a node left: clients told and closed, messages finished, messages that were not within the grace."""

    told: int
    closed: int
    finished: int
    unfinished: int
    seconds: float


async def drain(rooms: Rooms, doors: Sequence[Door], loop: Loop, grace: float) -> Report:
    """Leaves in good order, within `grace` seconds whatever happens: each step gets a part of what is left."""
    started = loop.seconds()

    def part(share: float) -> float:
        return max(0.0, share * (started + grace - loop.seconds()))

    rooms.refusing = True
    for door in doors:
        await within(loop, door.refuse(), part(0.2))
    told = 0
    for door in doors:
        told += await within(loop, door.tell("leaving"), part(0.2)) or 0
    accepted = rooms.log.waiting
    await within(loop, rooms.log.idle().wait(), part(0.8))
    closed = 0
    for door in doors:
        closed += await within(loop, door.close(), part(0.5)) or 0
    unfinished = rooms.log.waiting
    return Report(told, closed, max(0, accepted - unfinished), unfinished, loop.seconds() - started)


async def within(loop: Loop, work: Awaitable[T], seconds: float) -> T | None:
    """What the work brings, or None when it takes longer; it is not interrupted."""
    done = loop.promise()
    settled = False

    def settle(value: T | None) -> None:
        nonlocal settled
        if not settled:
            settled = True
            done.resolve(value)

    async def run() -> None:
        value = None
        try:
            value = await work
        finally:
            settle(value)

    timer = loop.call_later(seconds, lambda: settle(None))
    loop.spawn(run(), "leaving")
    result: T | None = await done.wait()
    timer.cancel()
    return result
