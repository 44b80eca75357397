"""The log's rules, one by one, over the in-memory store with faults planted around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from attrs import define, field

from eftchat.domain.errors import Overloaded, Unavailable
from eftchat.domain.messages import Message, Posted
from eftchat.log import Bounds, Log
from eftchat.ports import Appended, OutcomeUnknown, Promise
from eftchat.testing.memory import MemoryMessages
from tests.unit.desk import Desk, draft


@define(eq=False)
class Faulty(MemoryMessages):
    """The store, with a fault before or behind the next appends."""

    appends: list[list[int]] = field(factory=list, init=False)
    before: list[Exception | Callable[[], Any]] = field(factory=list, init=False)
    behind: list[Exception] = field(factory=list, init=False)

    async def append(self, batch: Sequence[Message]) -> Appended:
        self.appends.append([message.seq for message in batch])
        if self.before:
            fault = self.before.pop(0)
            if isinstance(fault, Exception):
                raise fault
            await fault()
        done = await super().append(batch)
        if self.behind:
            raise self.behind.pop(0)
        return done


@pytest.fixture
def store() -> Faulty:
    return Faulty()


@pytest.fixture
def desk(store: Faulty) -> Desk:
    return Desk(messages=store)


def outcome(promise: Promise[Posted]) -> Posted | None:
    """What the promise brought by now."""
    found: list[Posted] = []

    async def look() -> None:
        found.append(await promise.wait())

    coroutine = look()
    try:
        coroutine.send(None)
    except StopIteration:
        return found[0]
    coroutine.close()
    return None


def seqs(promises: Sequence[Promise[Posted]]) -> list[int]:
    return [posted.message.seq for posted in map(outcome, promises) if posted is not None]


def test_drafts_get_dense_places_in_the_order_in_which_they_came(desk: Desk) -> None:
    posted = [desk.rooms.log.post(draft(f"u{n}")) for n in range(5)]
    desk.pass_time()
    assert seqs(posted) == [1, 2, 3, 4, 5]


def test_what_queues_during_a_write_goes_out_as_one_batch(desk: Desk, store: Faulty) -> None:
    for n in range(50):
        desk.rooms.log.post(draft(f"u{n}"))
    desk.pass_time()
    assert store.appends == [list(range(1, 51))]


def test_a_retried_post_keeps_its_number_and_says_so(desk: Desk) -> None:
    first = desk.rooms.log.post(draft("same"))
    desk.pass_time()
    again = desk.rooms.log.post(draft("same"))
    assert outcome(first) == Posted(outcome(again).message, repeated=False)  # type: ignore[union-attr]
    assert outcome(again).repeated  # type: ignore[union-attr]


def test_a_uuid_that_the_node_has_forgotten_is_found_in_the_log(desk: Desk, store: Faulty) -> None:
    other = Desk(messages=store)
    other.rooms.log.post(draft("same"))
    other.pass_time()
    posted = [desk.rooms.log.post(draft(uuid)) for uuid in ("a", "same", "b")]
    desk.pass_time(1)
    assert seqs(posted) == [2, 1, 3]
    assert [outcome(p).repeated for p in posted] == [False, True, False]  # type: ignore[union-attr]


def test_a_place_that_another_node_took_is_never_skipped(desk: Desk, store: Faulty) -> None:
    other = Desk(messages=store)

    async def other_is_first() -> None:
        other.rooms.log.post(draft("theirs"))
        other.pass_time()

    desk.rooms.log.post(draft("a"))
    desk.pass_time()
    store.before = [other_is_first]
    posted = [desk.rooms.log.post(draft(uuid)) for uuid in ("b", "c")]
    desk.pass_time(1)
    assert seqs(posted) == [3, 4]


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
def test_an_unknown_outcome_is_read_back_before_anybody_is_told(
    desk: Desk, store: Faulty, applied: bool
) -> None:
    (store.behind if applied else store.before).append(OutcomeUnknown())
    posted = [desk.rooms.log.post(draft(uuid)) for uuid in ("a", "b")]
    desk.pass_time(1)
    assert seqs(posted) == [1, 2]
    assert not any(outcome(p).repeated for p in posted)  # type: ignore[union-attr]
    assert len(store.appends) == (1 if applied else 2)


def test_what_was_found_by_reading_back_is_published_too(desk: Desk, store: Faulty) -> None:
    told: list[list[int]] = []
    log = Log(store, desk.rooms.loop, desk.rooms.rng, lambda _, run: told.append([m.seq for m in run]))
    store.behind = [OutcomeUnknown()]
    log.post(draft("a"))
    desk.pass_time(1)
    assert told == [[1]]


def test_everyone_is_told_before_the_sender(desk: Desk, store: Faulty) -> None:
    order: list[str] = []
    log = Log(store, desk.rooms.loop, desk.rooms.rng, lambda *_: order.append("published"))

    async def wait(promise: Promise[Posted]) -> None:
        await promise.wait()
        order.append("acknowledged")

    desk.rooms.loop.spawn(wait(log.post(draft("a"))), "test")
    desk.pass_time()
    assert order == ["published", "acknowledged"]


def test_while_the_store_is_away_drafts_wait_and_then_all_are_stored(desk: Desk, store: Faulty) -> None:
    store.before = [Unavailable("away")] * 5
    posted = [desk.rooms.log.post(draft(f"u{n}")) for n in range(3)]
    desk.pass_time()
    assert seqs(posted) == []
    assert desk.rooms.log.away
    desk.pass_time(60)
    assert seqs(posted) == [1, 2, 3]
    assert not desk.rooms.log.away


@pytest.mark.parametrize("bounds", [Bounds(queue=2), Bounds(queue_bytes=600)], ids=["count", "bytes"])
def test_a_full_queue_refuses_as_retryable_and_keeps_what_it_has(
    desk: Desk, store: Faulty, bounds: Bounds
) -> None:
    log = Log(store, desk.rooms.loop, desk.rooms.rng, lambda *_: None, bounds)
    posted = [log.post(draft(uuid)) for uuid in ("a", "b")]
    with pytest.raises(Overloaded) as refused:
        log.post(draft("c"))
    assert refused.value.retryable
    desk.pass_time(1)
    assert seqs(posted) == [1, 2]
    log.post(draft("c"))


def test_every_room_gets_its_share_of_a_batch(desk: Desk, store: Faulty) -> None:
    log = Log(store, desk.rooms.loop, desk.rooms.rng, lambda *_: None, Bounds(batch=10))
    for n in range(30):
        log.post(draft(f"u{n}", room="loud"))
    quiet = log.post(draft("q", room="quiet"))
    desk.clock.advance(0)
    assert outcome(quiet) is not None
    assert store.appends[0] == [1, 2, 3, 4, 5, 1]


def test_an_error_that_nobody_foresaw_loses_nothing(desk: Desk, store: Faulty, flush_errors: Any) -> None:
    store.behind = [ZeroDivisionError()]
    posted = desk.rooms.log.post(draft("a"))
    desk.pass_time(3)
    assert outcome(posted).message.seq == 1  # type: ignore[union-attr]
    assert len(flush_errors(ZeroDivisionError)) == 1


def test_nothing_is_left_running(desk: Desk) -> None:
    desk.rooms.log.post(draft("a"))
    desk.pass_time(1)
    assert outcome(desk.rooms.log.idle()) is None  # type: ignore[arg-type]  # kept, with no value
    assert desk.clock.getDelayedCalls() == []


def test_a_crowd_that_sends_everything_again_to_another_node_costs_one_look_up(
    desk: Desk, store: Faulty
) -> None:
    before = Desk(messages=store)
    for n in range(200):
        before.rooms.log.post(draft(f"u{n}"))
    before.pass_time()
    store.appends.clear()
    posted = [desk.rooms.log.post(draft(f"u{n}")) for n in range(200)]
    fresh = desk.rooms.log.post(draft("fresh", room="other"))
    desk.pass_time(1)
    assert seqs(posted) == list(range(1, 201))
    assert all(outcome(p).repeated for p in posted)  # type: ignore[union-attr]
    assert seqs([fresh]) == [1]
    assert len(store.appends) == 2
