"""A model of a MongoDB replica set of three: a primary, its oplog, a majority, elections, roll-backs.

What a majority has is one growing log, `Durable`; a reader sees a prefix of it. In front of that the primary
has a tail of entries that are not durable yet. An entry becomes durable when the first of the two secondaries
has it and the primary knows. When the primary is killed, the secondary that is further ahead wins: entries
that it has go on to become durable, the rest is rolled back. A primary that was parted from the others goes
on answering some nodes for a while: it takes writes that will never be durable, judges collisions by them, and
shows an old prefix.

Uniqueness is judged by what the primary has, durable or not, as MongoDB does: a collision is no proof that
what was met will stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from attrs import define, field

from eftchat.domain.messages import Message, Room
from eftchat.ports import Appended
from eftchat.testing.plan import StoreFaults
from eftchat.testing.stage import Stage

Outcome = Appended | Room | None
"""What became of a write; None: whoever waited cannot know."""
Answer = Callable[[Outcome], None]
Row = tuple[int, Message]
"""A message and its place among all that became durable, 1, 2, 3 ..."""


@define(eq=False)
class Durable:
    """What a majority has. Every query is about a prefix: the first `size` entries."""

    size: int = 0
    rooms: dict[str, tuple[int, Room]] = field(factory=dict)
    rows: dict[str, list[Row]] = field(factory=dict)
    by_seq: dict[tuple[str, int], Row] = field(factory=dict)
    by_uuid: dict[tuple[str, str], Row] = field(factory=dict)

    def add(self, op: Message | Room) -> None:
        """One more entry is durable."""
        self.size += 1
        if isinstance(op, Room):
            self.rooms[op.id] = (self.size, op)
            return
        row = (self.size, op)
        self.rows.setdefault(op.room, []).append(row)
        self.by_seq[op.room, op.seq] = row
        self.by_uuid[op.room, op.uuid] = row

    def room(self, room: str, size: int) -> Room | None:
        """The room, when it was made by then."""
        made, found = self.rooms.get(room, (size + 1, None))
        return found if made <= size else None

    def find(self, room: str, uuids: Sequence[str], size: int) -> dict[str, Message]:
        """Those of the uuids that were there by then."""
        rows = ((uuid, self.by_uuid.get((room, uuid))) for uuid in uuids)
        return {uuid: row[1] for uuid, row in rows if row is not None and row[0] <= size}

    def head(self, room: str, size: int) -> int:
        """The highest seq by then."""
        return max((m.seq for at, m in self.rows.get(room, ()) if at <= size), default=0)

    def log(self, room: str, size: int | None = None) -> list[Message]:
        """The room's messages by then, by seq."""
        rows = self.rows.get(room, ())
        found = [m for at, m in rows if size is None or at <= size]
        return sorted(found, key=lambda m: m.seq)


@define(eq=False)
class _Entry:
    op: Message | Room
    arrived: float
    """When the faster secondary has it."""
    known: float
    """When the primary knows that."""
    waiting: list[tuple[Answer, Outcome]] = field(factory=list)


@define(eq=False)
class Tail:
    """What one primary has beyond the durable prefix that it knows. `base` None: it knows all."""

    durable: Durable
    base: int | None = None
    entries: list[_Entry] = field(factory=list)

    def taken(self, message: Message) -> list[str]:
        """Which of the message's identities are in use here."""
        seq, uuid = (message.room, message.seq), (message.room, message.uuid)
        found = []
        if self._has(self.durable.by_seq.get(seq)) or any(seq == (m.room, m.seq) for m in self._mine()):
            found.append("seq")
        if self._has(self.durable.by_uuid.get(uuid)) or any(uuid == (m.room, m.uuid) for m in self._mine()):
            found.append("uuid")
        return found

    def making(self, room: str) -> _Entry | None:
        """The entry that makes the room, when there is one."""
        for entry in self.entries:
            if isinstance(entry.op, Room) and entry.op.id == room:
                return entry
        return None

    def _has(self, row: Row | None) -> bool:
        return row is not None and (self.base is None or row[0] <= self.base)

    def _mine(self) -> Iterator[Message]:
        return (entry.op for entry in self.entries if isinstance(entry.op, Message))


@define(eq=False)
class ReplicaSet:
    """The database of a simulated cluster."""

    stage: Stage
    faults: StoreFaults
    trip: float
    """Seconds that a write takes to be durable, typically."""
    durable: Durable = field(factory=Durable, init=False)
    up: bool = field(default=True, init=False)
    """There is a primary."""
    tail: Tail = field(init=False)
    stale: dict[str, Tail] = field(factory=dict, init=False)
    """Nodes that talk to a primary which is none any more, and what that one has."""
    _rng: Random = field(init=False)
    _parked: list[Callable[[], None]] = field(factory=list, init=False)
    _marks: list[tuple[float, int]] = field(factory=lambda: [(0.0, 0)], init=False)

    def __attrs_post_init__(self) -> None:
        self._rng = self.stage.rng("replica set")
        self.tail = Tail(self.durable)

    # -- requests --------------------------------------------------------------------------------------

    def receive(self, node: str, write: Sequence[Message] | Room, answer: Answer) -> None:
        """A write has arrived. Without a primary it waits for one."""
        tail = self.stale.get(node)
        if tail is None and not self.up:
            self._parked.append(lambda: self.receive(node, write, answer))
        elif isinstance(write, Room):
            self._make(tail or self.tail, write, answer)
        else:
            self._append(tail or self.tail, write, answer)

    def seen_by(self, node: str) -> int:
        """How long a prefix a majority read of this node sees."""
        tail = self.stale.get(node)
        if tail is not None and tail.base is not None:
            return tail.base
        if self._rng.random() < self.faults.lag:
            since = self.stage.clock.rightNow - self._rng.uniform(0.0, 1.0)
            return max(size for at, size in self._marks if at <= since or at == 0.0)
        return self.durable.size

    def _append(self, tail: Tail, batch: Sequence[Message], answer: Answer) -> None:
        stored, taken = self.insert(tail, batch)
        outcome = Appended(stored, "seq" if taken == "seq" else "uuid") if taken else Appended(stored)
        if stored:
            tail.entries[-1].waiting.append((answer, outcome))
        else:
            answer(outcome)

    def insert(self, tail: Tail, batch: Sequence[Message]) -> tuple[int, str | None]:
        """An ordered insert: how many went in, and what the next one collided with."""
        for stored, message in enumerate(batch):
            taken = tail.taken(message)
            if taken:
                return stored, self._rng.choice(taken)
            self._enter(tail, message)
        return len(batch), None

    def _make(self, tail: Tail, room: Room, answer: Answer) -> None:
        found = self.durable.room(room.id, self.durable.size)
        if found is not None:
            answer(found)
            return
        entry = tail.making(room.id) or self._enter(tail, room)
        assert isinstance(entry.op, Room)
        entry.waiting.append((answer, entry.op))

    def _enter(self, tail: Tail, op: Message | Room) -> _Entry:
        """A new entry of a primary's oplog, on its way to the secondaries."""
        now = self.stage.clock.rightNow
        slow = self._rng.uniform(0.5, 3.0) if self._rng.random() < self.faults.slow else 0.0
        last = tail.entries[-1] if tail.entries else None
        arrived = max(now + self.trip * self._rng.uniform(0.2, 1.0) + slow, last.arrived if last else 0.0)
        known = max(arrived + self.trip * self._rng.uniform(0.1, 1.0), last.known if last else 0.0)
        entry = _Entry(op, arrived, known)
        tail.entries.append(entry)
        if tail is self.tail and (last is None or known > last.known):
            self.stage.clock.callLater(known - now, self._commit, known)
        return entry

    def _commit(self, now: float) -> None:
        """What is known by now to be on a majority is durable; whoever waited for it is told."""
        told: list[tuple[Answer, Outcome]] = []
        entries = self.tail.entries
        while self.up and entries and entries[0].known <= now:
            entry = entries.pop(0)
            self.durable.add(entry.op)
            told += entry.waiting
        if told or self._marks[-1][1] != self.durable.size:
            self._marks.append((now, self.durable.size))
        for answer, outcome in told:
            answer(outcome)

    # -- what may happen to it -------------------------------------------------------------------------

    def step_down(self, seconds: float) -> None:
        """The primary hands over what it has. Nobody is told what became of the writes under way."""
        if self.up:
            self.stage.tell("store", f"the primary steps down, {len(self.tail.entries)} not durable yet")
            self._fall(len(self.tail.entries), seconds)

    def kill(self, seconds: float) -> None:
        """The primary is gone; so is what no secondary has."""
        if self.up:
            kept = self._arrived()
            lost = len(self.tail.entries) - kept
            self.stage.tell("store", f"the primary is killed: {kept} entries survive, {lost} are rolled back")
            self._fall(kept, seconds)

    def part(self, nodes: Sequence[str], seconds: float) -> None:
        """The primary is parted from its secondaries, and these nodes go on talking to it."""
        if self.up and not self.stale:
            old = Tail(self.durable, self.durable.size, list(self.tail.entries))
            self.stage.tell("store", f"the primary is parted; {', '.join(nodes)} do not notice")
            self._fall(self._arrived(), seconds * 0.3)
            self.stale = dict.fromkeys(nodes, old)
            self.stage.clock.callLater(seconds, self._rejoin)

    def heal(self) -> None:
        """No more faults; it has a primary at once."""
        self.faults = StoreFaults()
        self._rejoin()
        self._elect()

    def _arrived(self) -> int:
        now = self.stage.clock.rightNow
        return sum(entry.arrived <= now for entry in self.tail.entries)

    def _fall(self, kept: int, seconds: float) -> None:
        told = [waiting for entry in self.tail.entries for waiting in entry.waiting]
        self.up = False
        self.tail = Tail(
            self.durable, None, [_Entry(e.op, e.arrived, e.known) for e in self.tail.entries[:kept]]
        )
        self.stage.clock.callLater(seconds, self._elect)
        for answer, _ in told:
            answer(None)

    def _elect(self) -> None:
        if self.up:
            return
        self.up = True
        self.stage.tell("store", "there is a primary")
        now = self.stage.clock.rightNow
        for entry in self.tail.entries:
            entry.known = max(entry.known, now + self.trip)
        if self.tail.entries:
            for at in sorted({entry.known for entry in self.tail.entries}):
                self.stage.clock.callLater(at - now, self._commit, at)
        parked, self._parked = self._parked, []
        for request in parked:
            request()

    def _rejoin(self) -> None:
        """The parted primary finds out, and rolls back what only it had."""
        stale, self.stale = self.stale, {}
        tails = {id(tail): tail for tail in stale.values()}
        for tail in tails.values():
            self.stage.tell("store", f"the parted primary gives up; {len(tail.entries)} entries were its own")
            for entry in tail.entries:
                for answer, _ in entry.waiting:
                    answer(None)
