"""Readers are cursors: live, behind or stalled, each gets the log, in order, each message once."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field
from twisted.internet.defer import Deferred

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Entered, Member, Message, Presence, Room
from eftchat.feeds import Feed
from eftchat.testing.memory import MemoryMessages
from tests.unit.desk import Desk, draft

ROOM = Room("r", "R", "e" * 10)


@define(eq=False)
class Numbers:
    """A dialect that says seqs, and counts how often each is encoded."""

    encoded: dict[int, int] = field(factory=dict)

    def message(self, room: Room, message: Message) -> bytes:
        self.encoded[message.seq] = self.encoded.get(message.seq, 0) + 1
        return b"%d " % message.seq

    def pack(self, room: Room, encoded: Sequence[bytes]) -> bytes:
        return b"".join(encoded)

    def presence(self, room: Room, presence: Presence) -> bytes | None:
        return None

    def roster(self, room: Room, members: Sequence[Member]) -> bytes | None:
        return None


@define(eq=False)
class Reading:
    """An outlet that notes what it got, write by write."""

    dialect: Numbers
    writes: list[list[int]] = field(factory=list)
    full: bool = False

    def writable(self) -> bool:
        return not self.full

    def write(self, data: bytes) -> None:
        assert not self.full
        self.writes.append([int(seq) for seq in data.split()])

    @property
    def got(self) -> list[int]:
        return [seq for write in self.writes for seq in write]


def opened(desk: Desk) -> Feed:
    """The feed of the room."""
    found: list[Feed] = []

    async def work() -> None:
        found.append(await desk.rooms.feeds.open(await desk.messages.open(ROOM.id, ROOM.name, ROOM.epoch)))

    desk.rooms.loop.spawn(work(), "test")
    return found[0]


def fill(messages: MemoryMessages, first: int, last: int) -> list[Message]:
    """Stores these seqs behind the feed's back; what was stored."""
    batch = [draft(f"u{seq}").placed(seq) for seq in range(first, last + 1)]
    Deferred.fromCoroutine(messages.append(batch))
    return batch


def test_a_batch_is_one_write_and_is_encoded_once_for_all_readers() -> None:
    desk, dialect = Desk(), Numbers()
    feed = opened(desk)
    readers = [Reading(dialect) for _ in range(50)]
    for reading in readers:
        feed.attach(reading, 0)
    feed.deliver(fill(desk.messages, 1, 3))
    assert all(reading.writes == [[1, 2, 3]] for reading in readers)
    assert dialect.encoded == {1: 1, 2: 1, 3: 1}


def test_what_the_bus_repeats_is_delivered_once() -> None:
    desk = Desk()
    feed, reading = opened(desk), Reading(Numbers())
    feed.attach(reading, 0)
    batch = fill(desk.messages, 1, 5)
    for part in (batch[:2], batch[:2], batch[1:4], batch[:5], batch[3:4]):
        feed.deliver(part)
    assert reading.got == [1, 2, 3, 4, 5]


def test_a_hole_is_read_from_the_store_before_anything_later_is_delivered() -> None:
    desk = Desk()
    feed, reading = opened(desk), Reading(Numbers())
    feed.attach(reading, 0)
    batch = fill(desk.messages, 1, 9)
    feed.deliver(batch[:2])
    feed.deliver(batch[7:])
    desk.pass_time(1)
    assert reading.got == list(range(1, 10))


def test_a_lost_last_event_is_found_by_the_head_check() -> None:
    desk = Desk()
    feed, reading = opened(desk), Reading(Numbers())
    desk.rooms.feeds.start()
    feed.attach(reading, 0)
    fill(desk.messages, 1, 3)
    desk.pass_time(4)
    assert reading.got == [1, 2, 3]


def test_heads_are_checked_at_once_when_the_bus_is_back() -> None:
    desk = Desk()
    feed, reading = opened(desk), Reading(Numbers())
    feed.attach(reading, 0)
    fill(desk.messages, 1, 3)
    desk.rooms.watching("r")
    desk.pass_time(0.01)
    assert reading.got == [1, 2, 3]


def test_an_event_during_the_opening_is_not_lost() -> None:
    @define(eq=False)
    class Slow(MemoryMessages):
        opening: Deferred[None] = field(factory=Deferred, init=False)

        async def heads(self, rooms: Sequence[str]) -> dict[str, int]:
            found = dict(await super().heads(rooms))
            await self.opening
            return found

    store = Slow()
    desk, reading = Desk(messages=store), Reading(Numbers())
    found: list[Feed] = []

    async def work() -> None:
        found.append(await desk.rooms.feeds.open(ROOM))

    desk.rooms.loop.spawn(work(), "test")
    desk.rooms.feeds.deliver("r", fill(store, 1, 2))
    store.opening.callback(None)
    found[0].attach(reading, 0)
    desk.pass_time(1)
    assert reading.got == [1, 2]


def test_a_stalled_reader_costs_an_integer_and_reads_on_later() -> None:
    desk = Desk()
    feed, stalled, live = opened(desk), Reading(Numbers()), Reading(Numbers())
    reader = feed.attach(stalled, 0)
    feed.attach(live, 0)
    stalled.full = True
    for seq in range(1, 2_001):
        feed.deliver(fill(desk.messages, seq, seq))
    assert stalled.got == [] and reader.cursor == 0
    assert live.got == list(range(1, 2_001))
    stalled.full = False
    reader.wake()
    desk.pass_time(1)
    assert stalled.got == list(range(1, 2_001))


def test_a_reader_that_fills_up_while_it_catches_up_loses_its_place_by_nothing() -> None:
    @define(eq=False)
    class Narrow(Reading):
        def write(self, data: bytes) -> None:
            super().write(data)
            self.full = True

    desk = Desk()
    fill(desk.messages, 1, 900)
    feed, narrow = opened(desk), Narrow(Numbers())
    reader = feed.attach(narrow, 0)
    feed.deliver(fill(desk.messages, 901, 910))
    for _ in range(20):
        narrow.full = False
        reader.wake()
        desk.pass_time(0.1)
    assert narrow.got == list(range(1, 911))


def test_a_reader_ahead_of_the_feed_gets_what_follows_its_cursor() -> None:
    desk = Desk()
    feed, reading = opened(desk), Reading(Numbers())
    batch = fill(desk.messages, 1, 8)
    feed.attach(reading, 5)
    feed.deliver(batch)
    desk.pass_time(1)
    assert reading.got == [6, 7, 8]


def test_while_the_store_is_away_readers_wait_and_nothing_is_skipped() -> None:
    @define(eq=False)
    class Away(MemoryMessages):
        away: bool = field(default=False, init=False)

        async def after(self, room: str, seq: int, limit: int) -> list[Message]:
            if self.away:
                raise Unavailable("away")
            return await super().after(room, seq, limit)

    store = Away()
    desk = Desk(messages=store)
    feed, reading = opened(desk), Reading(Numbers())
    feed.attach(reading, 0)
    store.away = True
    feed.deliver(fill(store, 1, 9)[5:])
    desk.pass_time(60)
    assert reading.got == []
    store.away = False
    desk.pass_time(5)
    assert reading.got == list(range(1, 10))


def test_a_feed_that_nobody_reads_is_closed_after_a_while_and_not_before() -> None:
    desk = Desk()
    feed = opened(desk)
    reader = feed.attach(Reading(Numbers()), 0)
    desk.pass_time(100)
    assert desk.rooms.feeds.get("r") is feed
    reader.close()
    desk.pass_time(29)
    assert desk.bus.watched == {"r"}
    desk.pass_time(2)
    assert desk.rooms.feeds.get("r") is None
    assert desk.bus.watched == set()


def test_an_announced_head_that_does_not_exist_is_given_up() -> None:
    desk = Desk()
    feed, reading = opened(desk), Reading(Numbers())
    feed.attach(reading, 0)
    feed.reaches(1_000)
    desk.pass_time(60)
    feed.deliver(fill(desk.messages, 1, 2))
    desk.pass_time(1)
    assert reading.got == [1, 2]


def test_news_of_members_do_not_wait_for_messages() -> None:
    desk = Desk()
    ann = desk.v2(room="R", name="Ann")
    ann.socket.take()
    desk.rooms.noticed("r", Entered(Member("uX", "Xen")))
    assert [frame["method"] for frame in ann.socket.take()] == ["entered"]
