"""Feeds: one per active room and node; they keep the readers of the node moving along the room's log.

Theory of operation. A reader's whole outbound state is one integer, its cursor. A reader whose cursor stands at
the feed's head is live: each new batch reaches it as one write of bytes that were encoded once for all readers of
its dialect. A reader that is behind, or whose transport is full, gets nothing until the transport wants more; then
it reads on from its cursor, out of the ring of recent messages or else out of the store, until it stands at the
head again. Joining, resuming and being slow are therefore the same thing.

A feed's head moves only along the log, without a gap: a batch that leaves a hole makes the feed read the log from
its head before anything later is delivered. A lost last event shows no hole, so heads are compared with the store
every few seconds, in one query for all rooms, and at once when a watch of the bus has become effective (again).

Invariants: head is durable and so is everything below it; for every reader cursor <= head, and it was sent exactly
the messages up to its cursor from where it began, in order, each once.

Rejected: a queue per reader (memory grows with slowness); fetching history and then subscribing (a seam to lose
messages in).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from random import Random

import msgspec
from attrs import define, field

from eftchat.domain.backoff import full_jitter
from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Message, Room
from eftchat.domain.timeline import judge
from eftchat.ports import Bus, Dialect, Loop, Messages, Outlet, Promise, Timer


class Reach(msgspec.Struct, frozen=True):
    """How much feeds keep and how often they look. Seconds, messages, bytes."""

    ring: int = 512
    ring_bytes: int = 1024 * 1024
    page: int = 200
    write_bytes: int = 128 * 1024
    check_every: float = 3.0
    linger: float = 30.0


@define(eq=False)
class _Entry:
    message: Message
    encoded: dict[Dialect, bytes] = field(factory=dict)

    def bytes_for(self, dialect: Dialect, room: Room) -> bytes:
        found = self.encoded.get(dialect)
        if found is None:
            found = self.encoded[dialect] = dialect.message(room, self.message)
        return found


@define(eq=False)
class Reader:
    """One outlet's place in one room's log: everything up to `cursor` was handed to its transport."""

    feed: Feed
    outlet: Outlet
    cursor: int
    closed: bool = False
    catching_up: bool = False
    missed: bool = False
    """It may have missed who came or went: it gets the roster."""

    def state(self) -> str:
        """`live`, `behind` or `stalled`."""
        if not self.outlet.writable():
            return "stalled"
        return "live" if self.cursor >= self.feed.head else "behind"

    def wake(self) -> None:
        """The transport wants more."""
        self.feed.wake(self)

    def close(self) -> None:
        """Nothing more is written to the outlet."""
        self.closed = True
        self.feed.detach(self)


@define(eq=False)
class Feed:
    """One room's readers on this node. Made by `Feeds.open`."""

    room: Room
    head: int
    feeds: Feeds
    target: int = 0
    """The log is known to reach this far; ahead of `head` while a hole is being read."""
    readers: dict[Reader, None] = field(factory=dict, init=False)
    changes: int = field(default=0, init=False)
    """How often somebody came or went, as far as was heard here: a roster read meanwhile may be old."""
    _ring: deque[_Entry] = field(factory=deque, init=False)
    _ring_bytes: int = field(default=0, init=False)
    _pulling: bool = field(default=False, init=False)

    def attach(self, outlet: Outlet, cursor: int) -> Reader:
        """A reader that has everything up to `cursor`: it gets all that follows, and then what is new.

        Raises Unavailable when the feed was closed since it was opened (nobody attached for long).
        """
        self.feeds.stay(self)
        reader = Reader(self, outlet, cursor)
        self.readers[reader] = None
        self.wake(reader)
        return reader

    def detach(self, reader: Reader) -> None:
        """The reader is gone; without any, the feed lingers for a while and is closed."""
        self.readers.pop(reader, None)
        if not self.readers:
            self.feeds.linger(self)

    def wake(self, reader: Reader) -> None:
        """Moves a reader on from its cursor, as far as its transport takes it."""
        if reader.missed:
            self.feeds.lacking(self.room.id)
        if not reader.catching_up and not reader.closed and reader.cursor < self.head:
            reader.catching_up = True
            self.feeds.loop.spawn(self._catch_up(reader), "catching up")

    def deliver(self, messages: Sequence[Message]) -> None:
        """The log holds these (dense): delivers them, ignores them, or first reads the hole before them."""
        verdict, repeats = judge(self.head, messages[0].seq, messages[-1].seq)
        if verdict == "deliver":
            self._advance(messages[repeats:])
        self.reaches(messages[-1].seq)

    def reaches(self, seq: int) -> None:
        """The log is known to reach `seq`."""
        self.target = max(self.target, seq)
        if self.head < self.target and not self._pulling:
            self._pulling = True
            self.feeds.loop.spawn(self._pull(), "reading a hole")

    # -- moving the head -------------------------------------------------------------------------------

    def _advance(self, messages: Sequence[Message]) -> None:
        """Moves the head over messages that follow it; live readers get them in one write each, others wake."""
        before = self.head
        entries = [_Entry(message) for message in messages]
        self._keep(entries)
        self.head = messages[-1].seq
        packed: dict[Dialect, bytes] = {}
        for reader in list(self.readers):
            if reader.catching_up or not reader.outlet.writable():
                continue
            if reader.cursor != before:
                self.wake(reader)
                continue
            dialect = reader.outlet.dialect
            if dialect not in packed:
                packed[dialect] = dialect.pack(self.room, [e.bytes_for(dialect, self.room) for e in entries])
            reader.cursor = self.head
            reader.outlet.write(packed[dialect])

    def _keep(self, entries: Sequence[_Entry]) -> None:
        reach = self.feeds.reach
        self._ring.extend(entries)
        self._ring_bytes += sum(entry.message.weight() for entry in entries)
        while self._ring and (len(self._ring) > reach.ring or self._ring_bytes > reach.ring_bytes):
            self._ring_bytes -= self._ring.popleft().message.weight()

    async def _pull(self) -> None:
        """Reads the log from the head until it reaches the target."""
        attempt = 0
        try:
            while self.head < self.target and attempt < 12:
                try:
                    page = await self.feeds.messages.after(self.room.id, self.head, self.feeds.reach.page)
                except Unavailable:
                    page = []
                    attempt = min(attempt, 8)
                verdict, repeats = judge(self.head, page[0].seq, page[-1].seq) if page else ("ignore", 0)
                if verdict == "deliver":
                    self._advance(page[repeats:])
                    attempt = 0
                elif self.head < self.target:
                    attempt += 1
                    await self.feeds.pause(attempt)
            self.target = self.head  # what was announced and cannot be found was no announcement of ours
        finally:
            self._pulling = False

    # -- readers that are behind -----------------------------------------------------------------------

    async def _catch_up(self, reader: Reader) -> None:
        attempt = 0
        try:
            while not reader.closed and reader.outlet.writable() and reader.cursor < self.head:
                try:
                    entries = await self._entries_after(reader.cursor)
                except Unavailable:
                    entries = []
                if entries:
                    attempt = 0
                    self._write(reader, entries)
                else:
                    attempt += 1
                    await self.feeds.pause(attempt)
        finally:
            reader.catching_up = False

    async def _entries_after(self, cursor: int) -> list[_Entry]:
        """What follows the cursor, dense, up to the head: from the ring when it reaches back so far."""
        if self._ring and self._ring[0].message.seq <= cursor + 1:
            return [entry for entry in self._ring if entry.message.seq > cursor]
        page = await self.feeds.messages.after(self.room.id, cursor, self.feeds.reach.page)
        return [_Entry(message) for message in page if message.seq <= self.head]

    def _write(self, reader: Reader, entries: list[_Entry]) -> None:
        """Writes as many entries as the transport takes, and moves the cursor over them."""
        dialect = reader.outlet.dialect
        for chunk in self._chunks(entries, dialect):
            if reader.closed or not reader.outlet.writable():
                return
            reader.cursor = chunk[-1].message.seq
            reader.outlet.write(dialect.pack(self.room, [e.bytes_for(dialect, self.room) for e in chunk]))

    def _chunks(self, entries: list[_Entry], dialect: Dialect) -> Iterator[list[_Entry]]:
        chunk: list[_Entry] = []
        size = 0
        for entry in entries:
            size += len(entry.bytes_for(dialect, self.room))
            if chunk and size > self.feeds.reach.write_bytes:
                yield chunk
                chunk, size = [], len(entry.bytes_for(dialect, self.room))
            chunk.append(entry)
        if chunk:
            yield chunk


@define(eq=False)
class Feeds:
    """All feeds of a node."""

    messages: Messages
    bus: Bus
    loop: Loop
    rng: Random
    reach: Reach = Reach()
    lacking: Callable[[str], object] = lambda room: None
    """Called with a room whose reader, writable again, missed who came or went."""
    _feeds: dict[str, Feed] = field(factory=dict, init=False)
    _opening: dict[str, Promise[Feed]] = field(factory=dict, init=False)
    _seen: dict[str, int] = field(factory=dict, init=False)
    """How far the log of a room that is being opened was heard to reach."""
    _closing: dict[str, Timer] = field(factory=dict, init=False)
    _stale: dict[str, None] = field(factory=dict, init=False)
    _timer: Timer | None = field(default=None, init=False)
    _checking: bool = field(default=False, init=False)

    def start(self) -> None:
        """Begins to compare heads with the store, every few seconds."""
        self._timer = self.loop.call_later(self.reach.check_every, self._tick)

    def stop(self) -> None:
        """No more timers; feeds are forgotten."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timer in self._closing.values():
            timer.cancel()
        self._closing.clear()
        self._feeds.clear()

    def reading(self) -> Counter[str]:
        """How many readers are `live`, `behind` (reading on) or `stalled` (their transport is full)."""
        return Counter(reader.state() for feed in self._feeds.values() for reader in feed.readers)

    def __len__(self) -> int:
        return len(self._feeds)

    def get(self, room: str) -> Feed | None:
        """The open feed of a room."""
        return self._feeds.get(room)

    async def open(self, room: Room) -> Feed:
        """The room's feed, its head read from the store when it was not open. May raise Unavailable."""
        feed = self._feeds.get(room.id)
        if feed is not None:
            if not feed.readers:
                self.linger(feed)
            return feed
        opening = self._opening.get(room.id)
        if opening is None:
            opening = self._opening[room.id] = self.loop.promise()
            self.loop.spawn(self._open(room, opening), "opening a feed")
        return await opening.wait()

    async def _open(self, room: Room, opening: Promise[Feed]) -> None:
        self._seen[room.id] = 0
        self.bus.watch(room)
        try:
            heads = await self.messages.heads([room.id])
        except Exception as error:
            self.bus.unwatch(room)
            del self._opening[room.id], self._seen[room.id]
            opening.reject(error)
            return
        feed = self._feeds[room.id] = Feed(room, heads.get(room.id, 0), self)
        del self._opening[room.id]
        feed.reaches(self._seen.pop(room.id))
        self.linger(feed)
        opening.resolve(feed)

    def deliver(self, room: str, messages: Sequence[Message]) -> None:
        """A batch (dense, durable) of a room, from this node's log or from the bus."""
        feed = self._feeds.get(room)
        if feed is not None:
            feed.deliver(messages)
        elif room in self._seen:
            self._seen[room] = max(self._seen[room], messages[-1].seq)

    def check_soon(self, room: str) -> None:
        """Events of the room may have been missed: compare its head with the store's now."""
        if not self._stale:
            self.loop.call_later(0, lambda: self.loop.spawn(self._check_stale(), "checking heads"))
        self._stale[room] = None

    async def pause(self, attempt: int) -> None:
        """Waits before the store is asked again."""
        await self.loop.sleep(full_jitter(attempt, self.rng, base=0.01, cap=2.0, floor=0.002))

    def linger(self, feed: Feed) -> None:
        """Closes the feed after a while, unless somebody reads it by then."""
        self._keep_open(feed.room.id)
        if self._feeds.get(feed.room.id) is feed:
            self._closing[feed.room.id] = self.loop.call_later(self.reach.linger, lambda: self._close(feed))

    def stay(self, feed: Feed) -> None:
        """Somebody reads the feed: it is not closed. Raises Unavailable when it was already."""
        if self._feeds.get(feed.room.id) is not feed:
            raise Unavailable("The room was just closed here; try again", retry_after_ms=0)
        self._keep_open(feed.room.id)

    def _keep_open(self, room: str) -> None:
        timer = self._closing.pop(room, None)
        if timer is not None:
            timer.cancel()

    def _close(self, feed: Feed) -> None:
        self._closing.pop(feed.room.id, None)
        if not feed.readers and self._feeds.get(feed.room.id) is feed:
            del self._feeds[feed.room.id]
            self.bus.unwatch(feed.room)

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self.reach.check_every, self._tick)
        if not self._checking:
            self.loop.spawn(self._check(list(self._feeds)), "checking heads")

    async def _check_stale(self) -> None:
        rooms, self._stale = self._stale, {}
        await self._check([room for room in rooms if room in self._feeds])

    async def _check(self, rooms: list[str]) -> None:
        if not rooms:
            return
        self._checking = True
        try:
            heads = await self.messages.heads(rooms)
        except Unavailable:
            return  # the next tick asks again
        finally:
            self._checking = False
        for room, head in heads.items():
            feed = self._feeds.get(room)
            if feed is not None:
                feed.reaches(head)
