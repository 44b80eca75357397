"""Planted mistakes: each is one that a maintainer could make, and the simulation must catch every one of them.

A mutation replaces methods for the time of a run; nothing of it stays. One that is no longer caught says that
the simulation has gone blind, or that the code has changed under the mutation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from eftchat.bridge.connection import Conversation
from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Body, Draft, Kind, Message, Posted
from eftchat.domain.timeline import judge, runs
from eftchat.feeds import Feed, Feeds, Reader, _Entry
from eftchat.lease import Lease
from eftchat.log import Log
from eftchat.ports import Outlet, Promise
from eftchat.rooms import Rooms, Seat
from eftchat.testing.replica_set import Answer, ReplicaSet, Tail


@frozen
class Mutation:
    """One planted mistake."""

    name: str
    what: str
    changes: tuple[tuple[type, str, Callable[..., Any]], ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The mistake is there as long as the block runs."""
        before = [(where, method, getattr(where, method)) for where, method, _ in self.changes]
        try:
            for where, method, changed in self.changes:
                setattr(where, method, changed)
            yield
        finally:
            for where, method, original in before:
                setattr(where, method, original)


_next_batch = Log._next_batch
_mark_doubtful = Log._mark_doubtful
_collided = Log._collided
_post = Log.post


# -- the log -----------------------------------------------------------------------------------------------


def _published_first(log: Log) -> list[Message]:
    batch = _next_batch(log)
    for room in dict.fromkeys(message.room for message in batch):
        for run in runs([message for message in batch if message.room == room]):
            log.stored(room, run)
    return batch


def _tail_runs_ahead(log: Log) -> list[Message]:
    batch = _next_batch(log)
    for message in batch:
        log._queues[message.room].tail = message.seq
    return batch


def _doubtful_but_counted(log: Log, batch: Sequence[Message]) -> None:
    tails = {message.room: log._queues[message.room].tail for message in batch}
    _mark_doubtful(log, batch)
    for room, tail in tails.items():
        log._queues[room].tail = tail


def _taken_for_stored(log: Log, batch: Sequence[Message]) -> None:
    log._settle(batch, repeated=False)


def _taken_for_failed(log: Log, batch: Sequence[Message]) -> None:
    for message in batch:
        queue = log._queues[message.room]
        pending = queue.pending.pop(message.uuid)
        queue.tail = None
        if not queue.pending:
            del log._waiting[message.room]
        log._count -= 1
        log._bytes -= pending.draft.weight()
        pending.promise.reject(Unavailable("Not stored"))


def _sent_again_as_new(log: Log, batch: Sequence[Message]) -> None:
    for message in batch:
        queue = log._queues[message.room]
        queue.tail = None
        old = dict(queue.pending)
        queue.pending.clear()
        for uuid, pending in old.items():
            if uuid == message.uuid:
                draft = pending.draft
                fresh = (draft.kind, draft.user, draft.name, draft.at, draft.body)
                pending.draft = Draft(draft.room, f"{uuid}.", *fresh)
            queue.pending[pending.draft.uuid] = pending


def _back_of_the_queue(log: Log, rest: Sequence[Message], taken: str) -> None:
    _collided(log, rest, taken)
    queue = log._queues[rest[0].room]
    queue.pending[rest[0].uuid] = queue.pending.pop(rest[0].uuid)


def _answered_at_once(log: Log, draft: Draft) -> Promise[Posted]:
    known = log.recent(draft.room, draft.uuid)
    promise = _post(log, draft)
    if known is not None:
        return promise
    at_once: Promise[Posted] = log.loop.promise()
    at_once.resolve(Posted(draft.placed((log._queues[draft.room].tail or 0) + 1), repeated=False))
    return at_once


# -- feeds -------------------------------------------------------------------------------------------------


def _fetched_then_subscribed(feed: Feed, outlet: Outlet, cursor: int) -> Reader:
    feed.feeds.stay(feed)
    reader = Reader(feed, outlet, cursor)
    reader.catching_up = True
    feed.readers[reader] = None

    async def fetch() -> None:
        try:
            page = await feed.feeds.messages.after(feed.room.id, cursor, 1_000)
        except Unavailable:
            page = []
        if page and not reader.closed:
            feed._write(reader, [_Entry(message) for message in page])
        reader.cursor = feed.head
        reader.catching_up = False

    feed.feeds.loop.spawn(fetch(), "fetching, then subscribing")
    return reader


async def _no_check(feeds: Feeds, rooms: list[str]) -> None:
    """Heads are never compared."""


def _hole_skipped(feed: Feed, messages: Sequence[Message]) -> None:
    verdict, repeats = judge(feed.head, messages[0].seq, messages[-1].seq)
    if verdict != "ignore":
        feed._advance(messages[repeats:])
    feed.reaches(messages[-1].seq)


def _cursor_first(feed: Feed, reader: Reader, entries: list[_Entry]) -> None:
    dialect = reader.outlet.dialect
    reader.cursor = entries[-1].message.seq
    for chunk in feed._chunks(entries, dialect):
        if reader.closed or not reader.outlet.writable():
            return
        reader.outlet.write(dialect.pack(feed.room, [e.bytes_for(dialect, feed.room) for e in chunk]))


def _woken_twice(feed: Feed, reader: Reader) -> None:
    if not reader.closed and reader.cursor < feed.head:
        reader.catching_up = True
        feed.feeds.loop.spawn(feed._catch_up(reader), "catching up")


async def _ring_is_enough(feed: Feed, cursor: int) -> list[_Entry]:
    if feed._ring:
        return [entry for entry in feed._ring if entry.message.seq > cursor]
    page = await feed.feeds.messages.after(feed.room.id, cursor, feed.feeds.reach.page)
    return [_Entry(message) for message in page if message.seq <= feed.head]


# -- rooms, doors, the lease -------------------------------------------------------------------------------


async def _one_look(rooms: Rooms, feed: Feed, seq: int) -> bool:
    if feed.head >= seq:
        return True
    return (await rooms.messages.heads([feed.room.id])).get(feed.room.id, 0) >= seq


async def _claim_forgotten(rooms: Rooms, seat: Seat) -> bool:
    return await rooms.members.claim(seat.claim)


def _refused_is_passed(talk: Conversation, seat: Seat, uuid: str, kind: Kind, body: Body) -> Promise[Posted]:
    return talk.rooms.post(seat, uuid, kind, body)


def _no_fence(lease: Lease) -> None:
    """Whoever sits here goes on sitting."""


# -- the store ---------------------------------------------------------------------------------------------

_insert = ReplicaSet.insert
_taken = Tail.taken


def _unordered(replicas: ReplicaSet, tail: Tail, batch: Sequence[Message]) -> tuple[int, str | None]:
    first: tuple[int, str | None] = (len(batch), None)
    for place, message in enumerate(batch):
        stored, taken = _insert(replicas, tail, [message])
        if not stored and first[1] is None:
            first = (place, taken)
    return first


def _uuid_is_no_key(tail: Tail, message: Message) -> list[str]:
    return [key for key in _taken(tail, message) if key == "seq"]


_append = ReplicaSet._append


def _primary_alone(replicas: ReplicaSet, tail: Tail, batch: Sequence[Message], answer: Answer) -> None:
    _append(replicas, tail, batch, answer)
    if tail.entries and tail.entries[-1].waiting:
        told, outcome = tail.entries[-1].waiting.pop()
        told(outcome)


MUTATIONS = {
    mutation.name: mutation
    for mutation in (
        Mutation(
            "publish-before-persist",
            "a batch is shown before the store has it",
            ((Log, "_next_batch", _published_first),),
        ),
        Mutation(
            "tail-before-majority",
            "the tail moves with the attempt, not with the answer",
            ((Log, "_next_batch", _tail_runs_ahead), (Log, "_mark_doubtful", _doubtful_but_counted)),
        ),
        Mutation(
            "unknown-is-stored",
            "no read-back: a write of unknown outcome is taken for stored",
            ((Log, "_mark_doubtful", _taken_for_stored),),
        ),
        Mutation(
            "unknown-is-failed",
            "no read-back: a write of unknown outcome is refused to its sender",
            ((Log, "_mark_doubtful", _taken_for_failed),),
        ),
        Mutation(
            "unknown-is-sent-as-new",
            "no read-back: a write of unknown outcome is sent again under a new uuid",
            ((Log, "_mark_doubtful", _sent_again_as_new),),
        ),
        Mutation(
            "unordered-batch",
            "a batch does not stop at the first message that collides",
            ((ReplicaSet, "insert", _unordered),),
        ),
        Mutation(
            "fetch-then-subscribe",
            "a reader gets the history first and is made live then",
            ((Feed, "attach", _fetched_then_subscribed),),
        ),
        Mutation("no-head-check", "heads are never compared", ((Feeds, "_check", _no_check),)),
        Mutation("no-dedupe", "(room, uuid) is not unique", ((Tail, "taken", _uuid_is_no_key),)),
        Mutation(
            "acknowledge-before-persist",
            "a post is answered when it is queued",
            ((Log, "post", _answered_at_once),),
        ),
        Mutation(
            "back-of-the-queue",
            "a draft that lost its place waits behind the others",
            ((Log, "_collided", _back_of_the_queue),),
        ),
        Mutation(
            "cursor-before-write",
            "a reader's cursor moves over what its transport did not take",
            ((Feed, "_write", _cursor_first),),
        ),
        Mutation(
            "hole-skipped", "a hole is not read before what follows it", ((Feed, "deliver", _hole_skipped),)
        ),
        Mutation("woken-twice", "a reader catches up twice at once", ((Feed, "wake", _woken_twice),)),
        Mutation(
            "ring-is-enough",
            "a reader behind the ring reads on in it",
            ((Feed, "_entries_after", _ring_is_enough),),
        ),
        Mutation(
            "one-look-at-the-head",
            "a cursor beyond what one read sees is not believed",
            ((Rooms, "_reaches", _one_look),),
        ),
        Mutation(
            "claim-forgotten",
            "a claim without an answer is not let go",
            ((Rooms, "_claim", _claim_forgotten),),
        ),
        Mutation(
            "refused-is-passed",
            "posts behind a refused one are let in",
            ((Conversation, "post", _refused_is_passed),),
        ),
        Mutation("no-fence", "a node without a lease keeps its clients", ((Lease, "_close", _no_fence),)),
        Mutation(
            "primary-alone",
            "a write is answered when the primary has it",
            ((ReplicaSet, "_append", _primary_alone),),
        ),
    )
}
