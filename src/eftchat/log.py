"""The log: puts drafts in order and makes them durable, many per round trip (group commit).

Theory of operation. One writer per node. While one ordered batch is in flight, new drafts queue per room; when
it returns, everything queued becomes the next batch: each room's drafts get its tail + 1, + 2, ... in order of
arrival. The tail is the last seq known to be durable on a majority; nothing is ever written behind a seq that is
not, except in the same ordered batch, so a roll-back can leave no hole.

- A place taken by another node: what stood before it is stored; forget the tail, read it again, send the rest.
- An identity taken: the draft was stored earlier; answer with the place it has.
- Outcome unknown: read back by uuid; settle what is there; what is not there is sent again, under the same uuid.

Invariants: a draft leaves the queue only when it is in the log; `stored` is called before any promise of the batch
is kept (persist, publish, acknowledge); the drafts of a room are tried in the order in which they came.

Rejected: several batches in flight (no gain was measured, and order would need a second mechanism); a counter
document per room (a second write, and a hole when the first one fails).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from random import Random

import msgspec
from attrs import define, field

from eftchat.domain.backoff import full_jitter
from eftchat.domain.errors import Overloaded, Unavailable
from eftchat.domain.messages import Draft, Message, Posted
from eftchat.domain.timeline import runs
from eftchat.ports import Loop, Messages, OutcomeUnknown, Promise


class Bounds(msgspec.Struct, frozen=True):
    """How much may wait, and how much goes out at once (drafts, bytes)."""

    queue: int = 20_000
    queue_bytes: int = 64 * 1024 * 1024
    batch: int = 1_000
    batch_bytes: int = 4 * 1024 * 1024
    recent: int = 8_192
    recent_bytes: int = 16 * 1024 * 1024
    rooms: int = 10_000


@define(eq=False)
class _Pending:
    draft: Draft
    promise: Promise[Posted]
    doubtful: bool = False
    """It was sent at least once with an unknown outcome: found again, it is no repeat."""


@define(eq=False)
class _Queue:
    """One room's waiting drafts, by uuid in order of arrival."""

    pending: dict[str, _Pending] = field(factory=dict)
    tail: int | None = None
    lost_at: int = 0
    """The place that another node had taken at the last try; 0 once a read showed who it was."""
    contended: bool = False


@define(eq=False)
class Log:
    """Appends drafts to rooms' logs. One per node."""

    messages: Messages
    loop: Loop
    rng: Random
    stored: Callable[[str, Sequence[Message]], None]
    """Told of each room's part of a durable batch (seqs dense) before anybody is answered."""
    bounds: Bounds = Bounds()
    _queues: OrderedDict[str, _Queue] = field(factory=OrderedDict, init=False)
    _waiting: dict[str, None] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)
    _running: bool = field(default=False, init=False)
    _doubt: list[Message] = field(factory=list, init=False)
    _recent: OrderedDict[tuple[str, str], Message] = field(factory=OrderedDict, init=False)
    _recent_bytes: int = field(default=0, init=False)
    _idle: list[Promise[None]] = field(factory=list, init=False)
    away: bool = field(default=False, init=False)
    """The store could not be reached at the last try."""
    appended: int = field(default=0, init=False)
    """Messages that became durable through this node."""
    refused: int = field(default=0, init=False)
    """Drafts that found the queue full."""
    doubted: int = field(default=0, init=False)
    """Batches whose outcome was unknown and had to be read back."""
    collisions: int = field(default=0, init=False)
    """Batches that met a place or an identity that was taken."""
    durable: int = field(default=0, init=False)
    """Drafts that became durable, or turned out to be."""

    @property
    def waiting(self) -> int:
        """Drafts that are accepted and not yet known to be durable."""
        return self._count

    @property
    def waiting_bytes(self) -> int:
        """About how much memory they take."""
        return self._bytes

    def post(self, draft: Draft) -> Promise[Posted]:
        """Accepts a draft; the promise is kept when it is durable on a majority.

        A uuid that waits already shares the one place it will get. Raises Overloaded when the queue is full.
        """
        known = self.recent(draft.room, draft.uuid)
        if known is not None:
            promise: Promise[Posted] = self.loop.promise()
            promise.resolve(Posted(known, repeated=True))
            return promise
        queue = self._queue(draft.room)
        same = queue.pending.get(draft.uuid)
        if same is not None:
            return same.promise
        weight = draft.weight()
        if self._count >= self.bounds.queue or self._bytes + weight > self.bounds.queue_bytes:
            self.refused += 1
            raise Overloaded("Too many messages are waiting; try again shortly", retry_after_ms=1_000)
        pending = queue.pending[draft.uuid] = _Pending(draft, self.loop.promise())
        self._waiting[draft.room] = None
        self._count += 1
        self._bytes += weight
        if not self._running:
            self._running = True
            self._start_after(0)
        return pending.promise

    def recent(self, room: str, uuid: str) -> Message | None:
        """The message with this uuid, when it was stored or met here lately."""
        return self._recent.get((room, uuid))

    def queued(self, room: str, uuid: str) -> bool:
        """Whether a draft with this uuid waits to be stored."""
        queue = self._queues.get(room)
        return queue is not None and uuid in queue.pending

    def observe(self, messages: Iterable[Message]) -> None:
        """These were seen durable elsewhere: tails and memory follow, so that collisions are rare."""
        for message in messages:
            queue = self._queues.get(message.room)
            if queue is not None and queue.tail is not None:
                queue.tail = max(queue.tail, message.seq)
            self._remember(message)

    def idle(self) -> Promise[None]:
        """Kept when nothing waits any more."""
        promise: Promise[None] = self.loop.promise()
        if self._count:
            self._idle.append(promise)
        else:
            promise.resolve(None)
        return promise

    # -- the writer ------------------------------------------------------------------------------------

    def _start_after(self, delay: float) -> None:
        self.loop.call_later(delay, lambda: self.loop.spawn(self._write_on(), "the log's writer"))

    async def _write_on(self) -> None:
        """Writes until nothing waits. An error that nobody foresaw is logged, and the writer starts again."""
        try:
            await self._write_all()
        except Exception:
            self._start_after(1.0)
            raise
        self._running = False
        idle, self._idle = self._idle, []
        for promise in idle:
            promise.resolve(None)

    async def _write_all(self) -> None:
        attempt = 0
        while self._count:
            try:
                progressed = await self._step()
            except Unavailable:
                progressed, self.away = False, True
            else:
                self.away = False
            attempt = 0 if progressed else attempt + 1
            if not progressed:
                await self.loop.sleep(full_jitter(attempt, self.rng, base=0.01, cap=2.0, floor=0.002))

    async def _step(self) -> bool:
        """One round trip that matters; False when it brought nothing and the next should wait a little."""
        if self._doubt:
            return await self._read_back()
        if not await self._learn_tails():
            return False
        batch = self._next_batch()
        try:
            appended = await self.messages.append(batch)
        except Unavailable:
            raise
        except Exception as error:
            self._mark_doubtful(batch)
            if isinstance(error, OutcomeUnknown):
                return True
            raise
        self._settle(batch[: appended.stored], repeated=False)
        if appended.taken is not None:
            self._collided(batch[appended.stored :], appended.taken)
        return bool(appended.stored) or appended.taken == "seq"

    async def _learn_tails(self) -> bool:
        """Reads the tails that are not known, in one query. False when a lost race is not visible yet."""
        unknown = [room for room in self._waiting if self._queues[room].tail is None]
        if not unknown:
            return True
        heads = await self.messages.heads(unknown)
        visible = True
        for room in unknown:
            queue = self._queues[room]
            queue.tail = heads.get(room, 0)
            visible = visible and queue.tail >= queue.lost_at
            queue.lost_at = 0
        return visible

    def _next_batch(self) -> list[Message]:
        """The next drafts of every room, a fair share each; rooms that met a collision lately come last.

        A room that began to wait while the tails were read is left for the next batch.
        """
        known = [room for room in self._waiting if self._queues[room].tail is not None]
        rooms = sorted(known, key=lambda room: self._queues[room].contended)
        share = max(1, self.bounds.batch // len(rooms))
        batch: list[Message] = []
        size = 0
        for room in rooms:
            queue = self._queues[room]
            assert queue.tail is not None
            seq = queue.tail
            for pending in islice(queue.pending.values(), share):
                size += pending.draft.weight()
                if batch and (size > self.bounds.batch_bytes or len(batch) >= self.bounds.batch):
                    return batch
                seq += 1
                batch.append(pending.draft.placed(seq))
        return batch

    def _mark_doubtful(self, batch: Sequence[Message]) -> None:
        self.doubted += 1
        self._doubt = list(batch)
        for message in batch:
            queue = self._queues[message.room]
            queue.tail = None
            queue.pending[message.uuid].doubtful = True

    async def _read_back(self) -> bool:
        """Asks the log itself what became of the messages in doubt; settles those that are there."""
        by_room: dict[str, list[str]] = {}
        for message in self._doubt:
            by_room.setdefault(message.room, []).append(message.uuid)
        found: list[Message] = []
        for room, uuids in by_room.items():
            found += sorted((await self.messages.find(room, uuids)).values(), key=lambda m: m.seq)
        self._doubt = []
        self._settle(found, repeated=True)
        return bool(found)

    def _collided(self, rest: Sequence[Message], taken: str) -> None:
        """The first of the rest met what was there before. Where one is a repeat, many often are: when a crowd of
        clients sends again what another node stored, all of it is looked up at once."""
        self.collisions += 1
        queue = self._queues[rest[0].room]
        if taken == "uuid":
            self._doubt = list(rest)
        else:
            queue.tail, queue.lost_at, queue.contended = None, rest[0].seq, True

    def _settle(self, messages: Sequence[Message], *, repeated: bool) -> None:
        """These are durable: out of the queue, told to the node and the bus, then answered."""
        by_room: dict[str, list[Message]] = {}
        settled: list[tuple[_Pending, Message]] = []
        for message in messages:
            queue = self._queues[message.room]
            settled.append((queue.pending.pop(message.uuid), message))
            by_room.setdefault(message.room, []).append(message)
        for room, part in by_room.items():
            queue = self._queues[room]
            if not repeated:
                queue.tail, queue.contended = part[-1].seq, False
            del self._waiting[room]
            if queue.pending:
                self._waiting[room] = None  # at the end: every room has its turn
            self.observe(part)
        self.durable += len(settled)
        self.appended += len(settled)
        for pending, _ in settled:
            self._count -= 1
            self._bytes -= pending.draft.weight()
        try:
            for room, part in by_room.items():
                for run in runs(part):
                    self.stored(room, run)
        finally:
            self._answer(settled, repeated=repeated)

    def _answer(self, settled: Sequence[tuple[_Pending, Message]], *, repeated: bool) -> None:
        for pending, message in settled:
            pending.promise.resolve(Posted(message, repeated=repeated and not pending.doubtful))

    # -- memory ----------------------------------------------------------------------------------------

    def _queue(self, room: str) -> _Queue:
        queue = self._queues.get(room)
        if queue is None:
            queue = self._queues[room] = _Queue()
            self._evict_rooms()
        self._queues.move_to_end(room)
        return queue

    def _evict_rooms(self) -> None:
        for room in list(self._queues):
            if len(self._queues) <= self.bounds.rooms:
                return
            if not self._queues[room].pending and next(reversed(self._queues)) != room:
                del self._queues[room]

    def _remember(self, message: Message) -> None:
        key = (message.room, message.uuid)
        if key in self._recent:
            self._recent.move_to_end(key)
            return
        self._recent[key] = message
        self._recent_bytes += message.weight()
        while len(self._recent) > self.bounds.recent or self._recent_bytes > self.bounds.recent_bytes:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= oldest.weight()
