"""Rooms: enter, leave, post, read. The one place where store and bus meet; no door knows either of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from random import Random

import msgspec
from attrs import define, field

from eftchat.domain import names
from eftchat.domain.backoff import full_jitter
from eftchat.domain.errors import Draining, Unavailable
from eftchat.domain.messages import (
    Body,
    Claim,
    Cursor,
    Draft,
    Entered,
    Kind,
    Left,
    Member,
    Message,
    Page,
    Posted,
    Presence,
    Room,
    Tail,
    Typing,
)
from eftchat.feeds import Feed, Feeds
from eftchat.log import Log
from eftchat.ports import Bus, Loop, Members, Messages, Outlet, Promise
from eftchat.rosters import Rosters

KNOWN_ROOMS = 50_000
LEASE_MS = 10_000
TYPING_AGAIN = 1.0
"""Seconds in which "still typing" is told once."""
READ_LAG = 10.0
"""Seconds by which a majority read may be behind what clients were already shown."""


class Ask(msgspec.Struct, frozen=True):
    """What a client says at the door of a room. `holder` names its connection, unique in the cluster.

    `start` says what it has: a cursor, or nothing but the newest messages. With `remember`, the place where this
    user first began to read the room is kept, and serves where there is no (valid) start. What a WAMP `session`
    asks for hangs on the `lease` of its router; else it is this node's.
    """

    room: names.Name
    member: names.Name
    user: str
    holder: str
    start: Cursor | Tail | None
    history: int = 100
    remember: bool = False
    returning: bool = False
    session: str = ""
    lease: str = ""


@define(eq=False)
class Seat:
    """A connection's place in a room."""

    room: Room
    member: Member
    claim: Claim
    typing: bool = False
    typing_at: float = 0.0


@define(eq=False)
class Joined:
    """The answer to an Ask: the reader that gets everything behind `cursor` is attached by the door."""

    seat: Seat
    feed: Feed
    key: str
    head: int
    cursor: int
    resumed: bool
    entered: bool
    """Nobody held this member's name before: the room was told that it entered."""
    members: Sequence[Member]
    stirred: bool
    """Somebody came or went while the members were read: they may not be quite right."""


@define(eq=False)
class Rooms:
    """All rooms as one node sees them."""

    node: str
    secret: bytes
    messages: Messages
    members: Members
    bus: Bus
    loop: Loop
    rng: Random
    log: Log = field(init=False)
    feeds: Feeds = field(init=False)
    refusing: bool = field(default=False, init=False)
    """Set while the node leaves: who asks to join is sent elsewhere."""
    fenced: bool = field(default=False, init=False)
    """Set while the node's lease may have lapsed: a name that is taken here would not count."""
    releasing: int = field(default=0, init=False)
    """Names that are being let go at the moment."""
    resets: int = field(default=0, init=False)
    """Cursors that belonged to no log here: their readers had to start afresh."""
    rosters: Rosters = field(init=False)
    _ttl_ms: int = field(default=LEASE_MS, init=False)
    _shared: dict[str, None] = field(factory=dict, init=False)
    """Leases that this node renews together with others."""
    _known: OrderedDict[str, Room] = field(factory=OrderedDict, init=False)

    def __attrs_post_init__(self) -> None:
        self.log = Log(self.messages, self.loop, self.rng, self._stored)
        self.feeds = Feeds(self.messages, self.bus, self.loop, self.rng)
        self.rosters = Rosters(lambda room: self.members.present(room), self.feeds, self.loop, self.rng)
        self.feeds.lacking = self.rosters.bring

    # -- what doors ask --------------------------------------------------------------------------------

    async def join(self, ask: Ask) -> Joined:
        """Takes the name in the room. Raises NameTaken, Draining, Unavailable; then nothing is held."""
        if self.refusing:
            raise Draining("This node is leaving; connect again", retry_after_ms=0)
        if self.fenced:
            raise Unavailable("This node cannot reach the store; connect again", retry_after_ms=0)
        room = await self.open(ask.room)
        member = Member(ask.user, ask.member.shown)
        lease = ask.lease or self.node
        seat = Seat(room, member, Claim(room.id, ask.member.folded, member, ask.holder, lease, ask.session))
        first = await self._claim(seat)
        try:
            feed = await self.feeds.open(room)
            cursor, resumed = await self._start(feed, ask)
            self.resets += not resumed
            changes = feed.changes
            present = await self.members.present(room.id)
            stirred = feed.changes != changes
        except BaseException:
            self.leave(seat)
            raise
        if self.feeds.get(room.id) is not feed:
            self.leave(seat)
            raise Unavailable("The room was just closed here; try again", retry_after_ms=0)
        if first:
            self.announce(room, Entered(member, ask.returning))
        return Joined(seat, feed, self.key(room.id), feed.head, cursor, resumed, first, present, stirred)

    async def _claim(self, seat: Seat) -> bool:
        """Takes the name. What may have been taken when no answer came is let go."""
        try:
            return await self.members.claim(seat.claim)
        except Unavailable:
            self.leave(seat)
            raise

    async def _start(self, feed: Feed, ask: Ask) -> tuple[int, bool]:
        """Where the reader begins, and whether that is where it asked for."""
        cursor = await self._valid(feed, ask.start)
        if cursor is not None and not ask.remember:
            return cursor, True
        newest = max(0, feed.head - ask.history)
        if not ask.remember:
            return newest, False
        first = await self.members.first_joined(feed.room.id, ask.user, newest if cursor is None else cursor)
        return (first if cursor is None else cursor), True

    async def _valid(self, feed: Feed, start: Cursor | Tail | None) -> int | None:
        """The seq that `start` means in this log; None when it belongs to another, or there is none."""
        if start is None:
            return None
        if isinstance(start, Tail):
            return max(0, feed.head - start.count)
        if start.epoch is None:
            return 0 if start.seq == 0 else None
        if start.epoch != feed.room.epoch:
            return None
        return start.seq if await self._reaches(feed, start.seq) else None

    async def _reaches(self, feed: Feed, seq: int) -> bool:
        """Whether the log reaches `seq`. Somebody was shown that far: a read that says no may be behind.

        A primary that was deposed and does not know it answers so for some seconds.
        """
        until = self.loop.seconds() + READ_LAG
        attempt = 0
        while feed.head < seq:
            head = (await self.messages.heads([feed.room.id])).get(feed.room.id, 0)
            feed.reaches(head)
            if head >= seq:
                return True
            if self.loop.seconds() >= until:
                return False
            attempt += 1
            await self.feeds.pause(attempt)
        return True

    def leave(self, seat: Seat) -> None:
        """Lets the name go, soon; tells the room when that was the member's last connection."""
        self.loop.spawn(self.let_go(seat), "releasing a name")

    async def let_go(self, seat: Seat) -> None:
        """The same; done when the name is let go, or this node gives up because it leaves."""
        self.releasing += 1
        try:
            await self._release(seat)
        finally:
            self.releasing -= 1

    async def _release(self, seat: Seat) -> None:
        last, attempt = None, 0
        while last is None:
            try:
                last = await self.members.release(seat.claim)
            except Unavailable:
                if self.refusing:
                    return  # the node leaves: `forget` lets go of all that it holds
                # As long as this node renews its lease, nobody else can free the name.
                await self.loop.sleep(full_jitter(attempt, self.rng, base=0.05, cap=2.0))
                attempt += 1
        if last:
            self.announce(seat.room, Left(seat.member))
        elif seat.typing:
            self.announce(seat.room, Typing(seat.member, False))

    async def seat(self, claim: Claim) -> Seat:
        """The place that a claim stands for, which another node may have made. May raise Unavailable."""
        return Seat(await self._of(claim), claim.member, claim)

    async def _of(self, claim: Claim) -> Room:
        """The room that a claim is in. It is there: somebody has claimed a name in it."""
        feed = self.feeds.get(claim.room)
        known = self._known.get(claim.room) if feed is None else feed.room
        return known or await self.messages.open(claim.room, claim.room, "")

    def typing(self, seat: Seat, on: bool, outlet: Outlet | None = None, session: int | None = None) -> None:
        """Tells the others that the member types, or stopped; not the connection that it comes from. What is known
        already is not told again at once."""
        now = self.loop.seconds()
        # A WAMP session may say "on" here and "off" elsewhere: nothing that it says is known already.
        known = on == seat.typing and not seat.claim.session
        if known and (not on or now - seat.typing_at < TYPING_AGAIN):
            return
        seat.typing, seat.typing_at = on, now
        presence = Typing(seat.member, on)
        self.bus.announce(seat.room, presence, session)
        self.rosters.announce(seat.room.id, presence, outlet)

    def post(self, seat: Seat, uuid: str, kind: Kind, body: Body) -> Promise[Posted]:
        """Puts a message into the room's log; kept when it is durable. Raises Overloaded.

        Messages of one seat are stored in the order of these calls.
        """
        at = round(self.loop.seconds() * 1000)
        member = seat.member
        self._know(seat.room)
        return self.log.post(Draft(seat.room.id, uuid, kind, member.user, member.name, at, body))

    async def since(self, room: names.Name, seq: int, limit: int) -> Page:
        """Up to `limit` messages that follow `seq`. May raise Unavailable."""
        found = await self.open(room)
        return Page(found, await self.messages.after(found.id, seq, limit), await self._head(found.id))

    async def before(self, room: names.Name, seq: int, limit: int) -> Page:
        """The `limit` messages that precede `seq`. May raise Unavailable."""
        found = await self.open(room)
        return Page(found, await self.messages.before(found.id, seq, limit), await self._head(found.id))

    async def present(self, room: names.Name) -> Sequence[Member]:
        """Who is in the room. May raise Unavailable."""
        return await self.members.present(room.folded)

    def key(self, room: str) -> str:
        """The room's key, which names its topics."""
        return names.room_key(room, self.secret)

    async def open(self, room: names.Name) -> Room:
        """The room of this name, made when it does not exist. May raise Unavailable."""
        feed = self.feeds.get(room.folded)
        if feed is not None:
            return feed.room
        epoch = f"{self.rng.getrandbits(40):010x}"
        found = await self.messages.open(room.folded, room.shown, epoch)
        self._know(found)
        return found

    def _know(self, room: Room) -> None:
        """Keeps the room at hand for `_stored`; there are more of these than drafts can wait."""
        self._known[room.id] = room
        self._known.move_to_end(room.id)
        if len(self._known) > KNOWN_ROOMS:
            self._known.popitem(last=False)

    async def _head(self, room: str) -> int:
        feed = self.feeds.get(room)
        return feed.head if feed is not None else (await self.messages.heads([room])).get(room, 0)

    # -- what log and bus tell -------------------------------------------------------------------------

    def _stored(self, room: str, messages: Sequence[Message]) -> None:
        """Durable: to the bus, and to the readers here, which need not wait for it."""
        known = self._known.get(room)
        if known is not None:
            self.bus.publish(known, messages)
        self.feeds.deliver(room, messages)

    def announce(self, room: Room, presence: Presence) -> None:
        """Tells everyone in the cluster who came or went."""
        self.bus.announce(room, presence)
        self.rosters.announce(room.id, presence)

    def arrived(self, room: str, epoch: str, messages: Sequence[Message]) -> None:
        """Another node stored these. Of another epoch they are of another log: not for these readers."""
        feed = self.feeds.get(room)
        if feed is None or feed.room.epoch == epoch:
            self.log.observe(messages)
            self.feeds.deliver(room, messages)

    def noticed(self, room: str, presence: Presence) -> None:
        """Another node saw somebody come, go or type."""
        self.rosters.announce(room, presence)

    def watching(self, room: str) -> None:
        """The bus was away from this room for a while, perhaps."""
        self.feeds.check_soon(room)
        self.rosters.missed(room)

    # -- leases ----------------------------------------------------------------------------------------

    async def renew(self, ttl_ms: int) -> None:
        """Renews the lease of this node, and those that it keeps up with others. May raise Unavailable."""
        self._ttl_ms = ttl_ms
        for lease in (self.node, *self._shared):
            await self.members.renew(lease, ttl_ms)

    async def share(self, lease: str) -> None:
        """Renews this lease now, and from now on with the node's own. May raise Unavailable; it is kept up then,
        too."""
        self._shared[lease] = None
        await self.members.renew(lease, self._ttl_ms)

    def part(self, lease: str) -> None:
        """Leaves this lease to others."""
        self._shared.pop(lease, None)

    async def sweep(self) -> None:
        """Tells the rooms of members whose leases have lapsed. May raise Unavailable."""
        for claim in await self.members.lapsed():
            try:
                room = await self._of(claim)
            except Unavailable:  # told once is told now: by the folded name, whose topics are the same
                room = Room(claim.room, claim.room, "")
            self.announce(room, Left(claim.member))
