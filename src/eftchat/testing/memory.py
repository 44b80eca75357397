"""Twins of the store's ports that live in memory: one object is the store of a whole simulated cluster.

Every method does its work at once, in one step, and never waits; so two callers can never see half of it.
The same contract suite that judges MongoDB and SQLite judges these. Nothing here fails on its own: faults
are injected around them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import msgspec

from eftchat.domain.errors import NameTaken
from eftchat.domain.messages import Claim, Member, Message, Room
from eftchat.ports import Appended


@attrs.define
class _Log:
    """One room's messages under their two identities."""

    by_seq: dict[int, Message] = attrs.field(factory=dict)
    by_uuid: dict[str, Message] = attrs.field(factory=dict)
    head: int = 0

    def run(self, seqs: Iterable[int]) -> list[Message]:
        """The messages at these places, up to the first that is not there."""
        found = []
        for seq in seqs:
            if seq not in self.by_seq:
                break
            found.append(self.by_seq[seq])
        return found


@attrs.define
class MemoryMessages:
    """`Messages` in memory."""

    _rooms: dict[str, Room] = attrs.field(factory=dict, init=False)
    _logs: defaultdict[str, _Log] = attrs.field(factory=lambda: defaultdict(_Log), init=False)

    async def open(self, room: str, name: str, epoch: str) -> Room:
        return self._rooms.setdefault(room, Room(room, name, epoch))

    async def append(self, batch: Sequence[Message]) -> Appended:
        for stored, message in enumerate(batch):
            log = self._logs[message.room]
            if message.uuid in log.by_uuid:
                return Appended(stored, "uuid")
            if message.seq in log.by_seq:
                return Appended(stored, "seq")
            log.by_seq[message.seq] = message
            log.by_uuid[message.uuid] = message
            log.head = max(log.head, message.seq)
        return Appended(len(batch))

    async def find(self, room: str, uuids: Sequence[str]) -> Mapping[str, Message]:
        stored = self._log(room).by_uuid
        return {uuid: stored[uuid] for uuid in uuids if uuid in stored}

    async def heads(self, rooms: Sequence[str]) -> Mapping[str, int]:
        return {room: self._log(room).head for room in rooms}

    async def after(self, room: str, seq: int, limit: int) -> list[Message]:
        return self._log(room).run(range(seq + 1, seq + 1 + limit))

    async def before(self, room: str, seq: int, limit: int) -> list[Message]:
        log = self._log(room)
        last = min(seq - 1, log.head)
        return log.run(range(last, last - limit, -1))[::-1]

    def _log(self, room: str) -> _Log:
        """The room's log for reading: asking for it does not make it."""
        return self._logs.get(room) or _Log()


@attrs.define
class MemoryMembers:
    """`Members` in memory. `seconds` is the store's own clock, by which leases run out."""

    _seconds: Callable[[], float]
    _ids: dict[str, tuple[str, float]] = attrs.field(factory=dict, init=False)
    """Which node has each id, and until when."""
    _leases: dict[str, float] = attrs.field(factory=dict, init=False)
    _holds: dict[tuple[str, str], dict[str, Claim]] = attrs.field(factory=dict, init=False)
    """The claims on each (room, folded name), by holder: the living ones are all of one user."""
    _cut: set[Claim] = attrs.field(factory=set, init=False)
    """Lapsed claims whose name another user took over: no lease, however often renewed, revives them."""
    _joined: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)

    async def enlist(self, id: str, node: str, ttl_ms: int) -> bool:
        owner, until = self._ids.get(id, (node, 0.0))
        if owner != node and until > self._seconds():
            return False
        self._ids[id] = node, self._seconds() + ttl_ms / 1000
        return True

    async def renew(self, node: str, ttl_ms: int) -> None:
        self._leases[node] = self._seconds() + ttl_ms / 1000

    async def claim(self, claim: Claim) -> bool:
        holds = self._holds.get((claim.room, claim.folded), {})
        living = [hold for hold in holds.values() if self._lives(hold)]
        if any(hold.member.user != claim.member.user for hold in living):
            raise NameTaken
        # What the member left behind on dead nodes is no news any more: it is here.
        kept = {h.holder: h for h in holds.values() if self._lives(h) or not _same(h, claim)}
        self._cut.update(hold for hold in kept.values() if not _same(hold, claim))
        self._cut.discard(claim)
        self._holds[claim.room, claim.folded] = {**kept, claim.holder: claim}
        return not living

    async def release(self, claim: Claim) -> bool:
        holds = self._holds.get((claim.room, claim.folded), {})
        hold = holds.get(claim.holder)
        if hold is None or not _same(hold, claim):
            return False
        del holds[claim.holder]
        mine = [hold for hold in holds.values() if _same(hold, claim)]
        if any(self._lives(hold) for hold in mine):
            return False
        for hold in mine:  # dead ones: the member's leaving is told by this answer, not once more by `lapsed`
            del holds[hold.holder]
        return True

    async def present(self, room: str) -> list[Member]:
        found = {}
        for (where, folded), holds in self._holds.items():
            living = [hold.member for hold in holds.values() if self._lives(hold)]
            if where == room and living:
                found[folded] = living[0]
        return sorted(found.values(), key=lambda member: (member.name, member.user))

    async def held(self, sessions: Sequence[str]) -> list[Claim]:
        wanted = set(sessions) - {""}
        return [hold for hold in self._kept() if hold.session in wanted]

    async def hanging(self, node: str) -> list[Claim]:
        return [hold for hold in self._kept() if hold.node == node]

    async def adopt(self, sessions: Sequence[str], node: str) -> None:
        for hold in await self.held(sessions):
            moved = msgspec.structs.replace(hold, node=node)
            self._holds[hold.room, hold.folded][hold.holder] = moved

    def _kept(self) -> list[Claim]:
        """All claims but those whose name another user took over."""
        return [hold for holds in self._holds.values() for hold in holds.values() if hold not in self._cut]

    async def forget(self, node: str) -> None:
        self._leases.pop(node, None)
        self._ids = {id: kept for id, kept in self._ids.items() if kept[0] != node}
        for place, holds in self._holds.items():
            self._holds[place] = {hold.holder: hold for hold in holds.values() if hold.node != node}

    async def lapsed(self) -> list[Claim]:
        gone: list[Claim] = []
        for place, holds in self._holds.items():
            living = {hold.holder: hold for hold in holds.values() if self._lives(hold)}
            here = {hold.member.user for hold in living.values()}
            dead = {hold.member.user: hold for hold in holds.values() if hold.holder not in living}
            gone.extend(hold for user, hold in dead.items() if user not in here)
            self._holds[place] = living
        self._holds = {place: holds for place, holds in self._holds.items() if holds}
        self._cut.clear()
        return gone

    async def first_joined(self, room: str, user: str, seq: int) -> int:
        return self._joined.setdefault((room, user), seq)

    def _lives(self, claim: Claim) -> bool:
        runs: bool = self._leases.get(claim.node, float("-inf")) > self._seconds()
        return runs and claim not in self._cut


def _same(hold: Claim, claim: Claim) -> bool:
    """Whether both are of one user."""
    return hold.member.user == claim.member.user
