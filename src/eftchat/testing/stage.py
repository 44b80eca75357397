"""What every part of a simulated world shares: one clock, chance drawn from one seed, the trace, the verdict."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.base import DelayedCall
from twisted.internet.task import Clock


class SimClock(Clock):
    """`task.Clock` on a heap: the same order of calls, without sorting all of them at each one."""

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[float, int, DelayedCall]] = []
        self._made = 0

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> Any:
        """A call that `step` will make."""
        at = self.rightNow + delay
        call = DelayedCall(at, callable, args, kw, _nothing, _nothing, self.seconds)
        self._made += 1
        heappush(self._heap, (at, self._made, call))
        return call

    def getDelayedCalls(self) -> list[Any]:
        """The calls that are still to come, the next one first."""
        return [call for _, _, call in sorted(self._heap, key=lambda entry: entry[:2]) if not call.cancelled]

    def step(self, until: float) -> bool:
        """Makes the next call that is due by `until`; False when there is none: then it is `until`."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            at, _, call = heappop(heap)
            if not call.cancelled:
                self.rightNow = max(self.rightNow, at)
                call.called = 1
                call.func(*call.args, **call.kw)
                return True
        self.rightNow = max(self.rightNow, until)
        return False

    def advance(self, amount: float) -> None:
        """Moves time on and makes every call that is due by then."""
        until = self.rightNow + amount
        while self.step(until):
            pass

    def drop(self, whose: object) -> None:
        """The calls to methods of this object never happen."""
        self._heap = [entry for entry in self._heap if not _belongs(entry[2], whose)]
        heapify(self._heap)


def _nothing(call: object) -> None:
    """A cancelled call stays in the heap until its time has come."""


def _belongs(call: DelayedCall, whose: object) -> bool:
    return not call.cancelled and getattr(call.func, "__self__", None) is whose


class Broken(Exception):
    """An invariant does not hold: which one, and what shows it."""

    def __init__(self, invariant: str, evidence: str) -> None:
        super().__init__(f"{invariant}: {evidence}")
        self.invariant = invariant
        self.evidence = evidence


@define(eq=False)
class Stage:
    """Time, chance, trace and verdict of one run."""

    seed: int
    lines: list[str] | None = None
    """The trace, when one is kept: time, actor, what."""
    clock: SimClock = field(factory=SimClock, init=False)
    failure: Broken | None = field(default=None, init=False)

    def rng(self, consumer: str) -> Random:
        """A stream of chance of its own: a new consumer does not shift what the others draw."""
        return Random(f"{self.seed}/{consumer}")

    def tell(self, actor: str, what: str) -> None:
        """Writes a line of the trace; callers with costly texts look at `lines` first."""
        if self.lines is not None:
            self.lines.append(f"{self.clock.rightNow:9.4f} {actor:<9} {what}")

    def broken(self, invariant: str, evidence: str) -> None:
        """An invariant does not hold. The first one counts; the run ends after this step."""
        if self.failure is None:
            self.failure = Broken(invariant, evidence)
            self.tell("BROKEN", f"{invariant}: {evidence}")
