"""The WAMP sessions on the routers of a node, and where they sit: known to every node alike.

*Theory of operation.* Routers spread the calls of a session over all nodes, so a seat cannot be the affair of the
node that served the join. It is a claim in the store that names its session. A node that is asked something on
behalf of a session reads what that session holds, once, and keeps it until the session leaves, the line to the
router falls, or another node says that it changed. That word (`uris.SEATS_CHANGED`) goes over the session's own
router, before the answer to the join or leave that it is about: the router hands it to a node before any call that
the client makes knowing that answer.

A session's number is drawn by its router from 2^53, and nobody else can choose it: it alone names the session, over
all routers. A router needs a name only for the *lease* on which the claims of its sessions hang. That is not a
node's: the node that served the join may die while the session lives. All nodes on a router renew one lease, so it
lapses when none of them sees the router any more. Its name is the number of the subscription to "a session left",
which every node on the router has: it is the same for all of them, and the router draws a new one when nobody had
it, thus surely after a restart.

When a session leaves, every node on its router hears it, and each lets go of what the session held; the store tells
one of them that it was the last. So a node that dies on the way is no harm. A session that left while no node was
there is found by the next one that comes: whatever hangs on the router's lease and is not among the sessions that
the router lists, is let go; and what those that it lists hang on a lease of before is moved to this one.

What is promised of order: a session that waits for each answer has its posts stored in that order. Two calls that
are under way at the same time may be served by two nodes, and then neither comes first.

Rejected: a lease per session (a renewal each); a lease per node, adopted by others when it lapses (the name is free
in between); the router's address or its process id as its name (nodes may know it by different addresses; a
container has the same process id after each start).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from attrs import define, field
from autobahn.wamp.exception import ApplicationError
from twisted.logger import Logger

from eftchat.domain.backoff import full_jitter
from eftchat.domain.errors import Unavailable
from eftchat.domain.limits import Bucket, Limits
from eftchat.ports import Loop, Promise
from eftchat.rooms import Rooms, Seat
from eftchat.wamp.line import Line, LineDown, State
from eftchat.wire import uris

AT_ONCE = 500
"""Sessions that the store is asked about at a time."""


@define(eq=False)
class Visitor:
    """One WAMP session, as long as this node hears of it."""

    session: int
    station: Station
    bucket: Bucket
    seats: dict[str, Seat] | None = None
    """By room; None while this node does not know."""
    joining: set[str] = field(factory=set)
    gone: bool = False
    inflight: int = 0
    looking: Promise[None] | None = None

    @property
    def id(self) -> str:
        """Unique in the cluster."""
        return str(self.session)

    def forget(self) -> None:
        """What is known of its seats is out of date, also what is being read."""
        self.seats = self.looking = None


@define(eq=False)
class Station:
    """One router, as this node is on it or not."""

    line: Line
    entered: Promise[str]
    """The name of the router's lease, when all is in order there."""
    lease: str = ""
    """Empty while the line is down."""
    inside: bool = False
    visitors: dict[int, Visitor] = field(factory=dict)


@define(eq=False)
class Visitors:
    """Who is there, on any number of routers."""

    rooms: Rooms
    loop: Loop
    limits: Limits
    _stations: list[Station] = field(factory=list, init=False)
    _departed: dict[str, None] = field(factory=dict, init=False)
    """Sessions that left, until the store knows it."""
    _freeing: bool = field(default=False, init=False)
    _log: Logger = field(factory=lambda: Logger("eftchat.wamp.visitors"), init=False)

    def add(self, line: Line) -> Station:
        """Watches over the sessions of this line's router from its next join on."""
        station = Station(line, self.loop.promise())
        self._stations.append(station)
        line.on_state(partial(self._line_is, station))
        line.listen(
            uris.SESSION_LEFT,
            lambda args, _: self._left(station, args),
            lambda subscription: self._arrived(station, f"router.{subscription}"),
        )
        line.listen(uris.SEATS_CHANGED, lambda _, given: self._changed(station, given))
        return station

    def __len__(self) -> int:
        """How many sessions this node knows, seated or not."""
        return sum(len(station.visitors) for station in self._stations)

    @property
    def seated(self) -> int:
        """How many sessions this node knows to be members of a room."""
        return sum(bool(visitor.seats) for station in self._stations for visitor in station.visitors.values())

    def visitor(self, station: Station, session: int) -> Visitor:
        """The session; made known when it is new."""
        found = station.visitors.get(session)
        if found is None:
            bucket = Bucket(self.limits.post_burst, self.loop.seconds())
            found = station.visitors[session] = Visitor(session, station, bucket)
        return found

    def forget(self) -> None:
        """All that is known of seats is read anew: they may have been lost."""
        for station in self._stations:
            for visitor in station.visitors.values():
                visitor.forget()

    # -- seats -----------------------------------------------------------------------------------------

    async def seats(self, visitor: Visitor) -> dict[str, Seat]:
        """Where the session sits, by room. Waits only when that is not known. May raise Unavailable.

        Those who wait go on in the order in which they came.
        """
        while visitor.seats is None:
            if self.rooms.fenced:  # what the store says now may not hold when the leases have lapsed
                raise Unavailable("This node cannot reach the store; try again", retry_after_ms=500)
            looking = visitor.looking
            if looking is None:
                looking = visitor.looking = self.loop.promise()
                self.loop.spawn(self._look(visitor, looking), "looking for seats")
            await looking.wait()
        return visitor.seats

    async def _look(self, visitor: Visitor, looking: Promise[None]) -> None:
        try:
            claims = await self.rooms.members.held([visitor.id])
            seats = {claim.room: await self.rooms.seat(claim) for claim in claims}
        except Exception as error:
            if visitor.looking is looking:
                visitor.looking = None
            looking.reject(error)
            return
        if visitor.looking is looking:  # else it changed while it was read
            visitor.seats, visitor.looking = seats, None
        looking.resolve(None)

    async def leave(self, visitor: Visitor, room: str) -> None:
        """Gives up all that the session holds in the room. May raise Unavailable."""
        claims = await self.rooms.members.held([visitor.id])
        for seat in [await self.rooms.seat(claim) for claim in claims if claim.room == room]:
            await self.rooms.let_go(seat)
        self.seated_anew(visitor, room, None)

    def seated_anew(self, visitor: Visitor, room: str, seat: Seat | None) -> None:
        """The session has this seat in the room now, or none: known here, and soon to all. Call it when the store
        has it, and before the session is answered."""
        visitor.looking = None
        if visitor.seats is not None:
            visitor.seats = {place: kept for place, kept in visitor.seats.items() if place != room}
            if seat is not None:
                visitor.seats[room] = seat
        visitor.station.line.publish(uris.SEATS_CHANGED, {"session": visitor.session})

    def _changed(self, station: Station, given: Any) -> None:
        """Another node says that a session has other seats now."""
        visitor = station.visitors.get(given.get("session"))
        if visitor is not None:
            visitor.forget()

    # -- coming and going ------------------------------------------------------------------------------

    def _line_is(self, station: Station, state: State) -> None:
        if state != "up":
            self._out(station)

    def _out(self, station: Station) -> None:
        """The line is down: what is known of the router's sessions is out of date, its lease is left to others."""
        if station.lease:
            self.rooms.part(station.lease)
        station.lease = ""
        self._retry(station)
        for visitor in station.visitors.values():
            visitor.gone = True
            visitor.forget()
        station.visitors.clear()

    def _retry(self, station: Station) -> None:
        """Who waits to be let in is refused for now."""
        waiting, station.entered = station.entered, self.loop.promise()
        if not station.inside:
            waiting.reject(Unavailable("The members cannot be reached; try again", retry_after_ms=500))
        station.inside = False

    def _arrived(self, station: Station, lease: str) -> None:
        """The line is up, and we are told of everyone who leaves from now on; who left before that?"""
        self._out(station)
        station.lease = lease
        self.loop.spawn(self._enter(station, lease), "asking a router who is there")

    async def _enter(self, station: Station, lease: str) -> None:
        attempt = 0
        while station.lease == lease:
            try:
                await self._take_over(station, lease)
            except LineDown:
                return  # tried again when it is back
            except (Unavailable, ApplicationError) as error:
                self._log.warn("who is on a router cannot be told yet: {why}", why=str(error))
                if station.lease == lease:
                    self._retry(station)
                attempt += 1
                await self.loop.sleep(full_jitter(attempt, self.rooms.rng, base=0.05, cap=2.0))
            else:
                if station.lease == lease:
                    station.inside = True
                    station.entered.resolve(lease)
                return

    async def _take_over(self, station: Station, lease: str) -> None:
        """Renews the router's lease; what hangs on it is that of its sessions, and nobody else's."""
        await self.rooms.share(lease)
        hanging = await self.rooms.members.hanging(
            lease
        )  # asked first: who holds something now has come before
        present = [str(session) for session in await station.line.call(uris.SESSION_LIST)]
        for some in _parts(present):
            await self.rooms.members.adopt(some, lease)
        here = set(present)
        self._depart(claim.session for claim in hanging if claim.session not in here)

    def _left(self, station: Station, args: Any) -> None:
        """The router says that a session left."""
        if args and isinstance(args[0], int):
            visitor = station.visitors.pop(args[0], None)
            if visitor is not None:
                visitor.gone = True
            self._depart([str(args[0])])

    def _depart(self, sessions: Iterable[str]) -> None:
        """These are gone; what they hold is let go, by every node that hears it."""
        self._departed.update(dict.fromkeys(sessions))
        if self._departed and not self._freeing:
            self._freeing = True
            self.loop.spawn(self._free(), "letting go of what sessions held")

    async def _free(self) -> None:
        attempt = 0
        try:
            while self._departed:
                some = list(self._departed)[:AT_ONCE]
                try:
                    claims = await self.rooms.members.held(some)
                    seats = [await self.rooms.seat(claim) for claim in claims]
                except Unavailable:
                    if self.rooms.refusing:
                        return  # this node leaves; the others have heard it, too
                    attempt += 1
                    await self.loop.sleep(full_jitter(attempt, self.rooms.rng, base=0.05, cap=2.0))
                    continue
                for session in some:
                    del self._departed[session]
                for seat in seats:
                    self.rooms.leave(seat)
        finally:
            self._freeing = False


def _parts(sessions: Sequence[str]) -> Iterable[Sequence[str]]:
    return (sessions[start : start + AT_ONCE] for start in range(0, len(sessions), AT_ONCE))
