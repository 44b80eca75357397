"""The way out: the order of its steps, their deadlines, and a slot for everyone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred

from eftchat.domain.backoff import waves
from eftchat.drain import Drain, Notice, Pace, Parting, Report
from eftchat.ops.loop import TwistedLoop
from tests.unit.desk import Desk


@define(eq=False)
class Steps:
    """A door that only remembers, and may hang at one of its steps."""

    desk: Desk
    hangs: str = ""
    fails: str = ""
    taken: list[tuple[str, float, bool]] = field(factory=list)
    """The step, when it was, and whether joins were refused by then."""
    inside: int = 0

    async def _step(self, name: str) -> None:
        self.taken.append((name, self.desk.clock.seconds(), self.desk.rooms.refusing))
        if name == self.fails:
            raise RuntimeError(name)
        if name == self.hangs:
            await Deferred()

    async def refuse(self) -> None:
        await self._step("refuse")

    async def tell(self, notice: Notice) -> int:
        await self._step("tell")
        return self.inside

    async def see_off(self) -> None:
        await self._step("see_off")

    async def close(self, seconds: float) -> Parting:
        await self._step("close")
        return Parting(closed=self.inside)

    async def leave(self) -> None:
        await self._step("leave")


PACE = Pace()
STEPS = ["refuse", "tell", "see_off", "close", "leave"]


def departure(*doors: Steps, pace: Pace = PACE, grace: float = 50.0) -> tuple[Drain, list[Report]]:
    """A drain that has begun."""
    desk, reports = doors[0].desk, list[Report]()
    drain = Drain(desk.rooms, TwistedLoop(desk.clock), pace, doors)
    Deferred.fromCoroutine(drain.leave(grace)).addCallback(reports.append)
    return drain, reports


# ---- the sequence ------------------------------------------------------------------------------------------


def test_the_steps_come_in_their_order_and_an_empty_node_leaves_at_once() -> None:
    door = Steps(Desk())
    drain, reports = departure(door)
    assert reports == [Report(0, 0, 0, 0.0, 0, 0, 0.0)]
    assert door.taken == [(step, 0.0, True) for step in STEPS]
    assert drain.leaving
    assert door.desk.clock.getDelayedCalls() == []


def test_it_says_that_it_leaves_for_a_while_before_it_refuses_anybody() -> None:
    door = Steps(Desk())
    drain, reports = departure(door, pace=Pace(settle=5.0))
    door.desk.clock.advance(4.9)
    assert drain.leaving and not door.desk.rooms.refusing and door.taken == []
    assert door.desk.v2(room="R").conversation.sittings, "newcomers are served"
    door.desk.clock.advance(0.2)
    assert reports and door.taken[0][1] == pytest.approx(5.1)


def test_the_while_is_at_most_a_fifth_of_the_grace() -> None:
    door = Steps(Desk())
    _, reports = departure(door, pace=Pace(settle=60.0), grace=50.0)
    door.desk.clock.advance(10.0)
    assert reports


@pytest.mark.parametrize("step", STEPS)
def test_a_door_that_hangs_holds_up_neither_the_others_nor_the_end(step: str) -> None:
    desk = Desk()
    stuck, free = Steps(desk, hangs=step), Steps(desk)
    _, reports = departure(stuck, free, grace=10.0)
    desk.pass_time(10.0)
    assert reports and reports[0].seconds <= 10.0
    assert [name for name, *_ in stuck.taken] == [name for name, *_ in free.taken] == STEPS
    assert desk.clock.getDelayedCalls() == []


@pytest.mark.parametrize("step", STEPS)
def test_a_door_that_fails_is_logged_and_the_rest_goes_on(
    step: str, flush_errors: Callable[[type[Exception]], list[Any]]
) -> None:
    desk = Desk()
    broken, whole = Steps(desk, fails=step), Steps(desk)
    _, reports = departure(broken, whole)
    assert reports
    assert [name for name, *_ in broken.taken] == [name for name, *_ in whole.taken] == STEPS
    assert len(flush_errors(RuntimeError)) == 1


def test_doors_that_hang_at_every_step_do_not_outlast_the_grace() -> None:
    class Stuck(Steps):
        async def _step(self, name: str) -> None:
            self.hangs = name
            await super()._step(name)

    door = Stuck(Desk(), inside=10_000)
    _, reports = departure(door, grace=10.0)
    door.desk.pass_time(10.0)
    assert reports and reports[0].seconds <= 10.0
    assert [name for name, *_ in door.taken] == STEPS


# ---- slots -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "left", "window"), [(0, 50.0, 0.0), (1, 50.0, 0.02), (500, 50.0, 10.0), (10_000, 50.0, 25.0)]
)
def test_the_window_is_as_long_as_the_rate_wants_and_at_most_half_of_the_time(
    clients: int, left: float, window: float
) -> None:
    assert Pace().window(clients, left) == pytest.approx(window)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("sockets", "window"), [(50, 5.0), (20, 10.0), (10_000, 25.0), (7, 0.1), (1, 3.0)])
def test_no_second_sees_more_than_one_and_a_half_times_its_share(
    sockets: int, window: float, seed: int
) -> None:
    slots = waves(sockets, window, Random(seed))
    assert len(slots) == sockets
    assert slots == sorted(slots) and 0.0 <= slots[0] and slots[-1] < window
    share = max(2.0, sockets / window)
    for first, start in enumerate(slots):
        assert bisect_left(slots, start + 1.0) - first <= 1.5 * share


def test_slots_are_a_matter_of_chance() -> None:
    assert waves(50, 5.0, Random(1)) != waves(50, 5.0, Random(2))


def test_the_report_is_one_line() -> None:
    assert str(Report(5, 3, 2, 0.21, 7, 1, 2.04)) == (
        "5 clients told, 3 moved, 2 closed, 7 messages finished, 1 not; "
        "at most 0.2 s behind their slot, 2.0 s in all"
    )
