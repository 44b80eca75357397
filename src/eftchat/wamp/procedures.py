"""The procedures `eftchat.api.*`: what WAMP clients ask of a node, by keyword arguments as in v2.

Who calls is known by the session id that the router vouches for, and by the router it came through. Members
who came this way have no reader: events reach them from the router. Their names are let go when the router
says that the session left; when the line to the router was away, those who left meanwhile are found by asking
it who is there; and when it does not come back in time, all who came through it are taken for gone.

Routers spread calls over all nodes. What a session holds is known only to the node that served its join: a
post that reaches another one is refused with `not_joined` (see `_seat`).

There is no back-pressure over WAMP: who posts too fast, or has too much in flight, is refused and told when
to come again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from typing import Any

from attrs import define, field
from twisted.logger import Logger

from eftchat.domain import names
from eftchat.domain.errors import BadParams, NotJoined, RateLimited, TooManyRooms
from eftchat.domain.limits import Bucket, Limits
from eftchat.domain.messages import Page
from eftchat.ports import Loop, Promise, Timer
from eftchat.rooms import Ask, Rooms, Seat
from eftchat.wamp import events
from eftchat.wamp.errors import refused
from eftchat.wamp.line import Call, Line, LineDown, State
from eftchat.wire import schema, uris

GRACE = 10.0
"""Seconds for which sessions of a router that is away keep their names: as long as members of a dead node."""

_BUSY_RETRY_MS = 100
_NO_WAIT = 0.001
"""Who waited as told must not be refused for a rounding error."""


@define(eq=False)
class Visitor:
    """One WAMP session, as long as its router has it. `id` is unique in the cluster."""

    id: str
    bucket: Bucket
    seats: dict[str, Seat] = field(factory=dict)
    joining: set[str] = field(factory=set)
    gone: bool = False
    inflight: int = 0
    joins: int = 0

    def holder(self) -> str:
        """A fresh name for a hold on a user name: letting an older one go cannot touch it."""
        self.joins += 1
        return f"{self.id}.{self.joins}"


@define(eq=False)
class Procedures:
    """Serves WAMP clients on any number of routers, on top of Rooms."""

    rooms: Rooms
    loop: Loop
    limits: Limits = Limits()
    grace: float = GRACE
    _visitors: dict[tuple[int, int], Visitor] = field(factory=dict, init=False)
    _deadlines: dict[int, Timer] = field(factory=dict, init=False)
    _inflight: int = field(default=0, init=False)
    _idle: list[Promise[None]] = field(factory=list, init=False)
    _log: Logger = field(factory=lambda: Logger("eftchat.wamp.procedures"), init=False)

    def serve(self, router: int, line: Line) -> None:
        """Serves on this line from its next join on. `router` is a number that no other line has here."""
        line.on_state(partial(self._router_is, router))
        line.listen(
            uris.SESSION_LEFT, lambda args, _: self._left(router, args), partial(self._ask, router, line)
        )
        for name, method in METHODS.items():
            line.serve(uris.procedure(name), partial(self._answer, router, name, method))

    @property
    def visitors(self) -> int:
        """How many sessions this node knows, seated or not."""
        return len(self._visitors)

    @property
    def seated(self) -> int:
        """How many sessions are members of a room through this node."""
        return sum(1 for visitor in self._visitors.values() if visitor.seats)

    def idle(self) -> Promise[None]:
        """Kept when no call is being answered any more: at once, or when the last one was."""
        promise: Promise[None] = self.loop.promise()
        if self._inflight == 0:
            promise.resolve(None)
        else:
            self._idle.append(promise)
        return promise

    # -- who is there ----------------------------------------------------------------------------------

    def _visitor(self, router: int, session: int) -> Visitor:
        found = self._visitors.get((router, session))
        if found is None:
            bucket = Bucket(self.limits.post_burst, self.loop.seconds())
            found = Visitor(f"{self.rooms.node}.w.{router}.{session}", bucket)
            self._visitors[router, session] = found
        return found

    def _free(self, key: tuple[int, int]) -> None:
        visitor = self._visitors.pop(key, None)
        if visitor is not None:
            visitor.gone = True
            for seat in visitor.seats.values():
                self.rooms.leave(seat)

    def send_away(self) -> None:
        """Gives all seats up: who calls next is told to join again."""
        for key in list(self._visitors):
            self._free(key)

    def _left(self, router: int, args: Any) -> None:
        """The router says that a session left."""
        if args and isinstance(args[0], int):
            self._free((router, args[0]))

    def _ask(self, router: int, line: Line) -> None:
        """From now on we are told who leaves; who left before that?"""
        known = [key for key in self._visitors if key[0] == router]
        if known:
            self.loop.spawn(self._recount(line, known), "asking a router who is there")

    async def _recount(self, line: Line, known: list[tuple[int, int]]) -> None:
        try:
            present = set(await line.call(uris.SESSION_LIST))
        except LineDown:
            return  # asked again when it is back
        for key in known:
            if key[1] not in present:
                self._free(key)

    def _router_is(self, router: int, state: State) -> None:
        deadline = self._deadlines.pop(router, None)
        if deadline is not None:
            deadline.cancel()
        if state == "down":
            self._deadlines[router] = self.loop.call_later(self.grace, lambda: self._lost(router))
        elif state == "stopped":
            self._lost(router)

    def _lost(self, router: int) -> None:
        """The router is away for too long: who is still there cannot be told."""
        self._deadlines.pop(router, None)
        for key in [key for key in self._visitors if key[0] == router]:
            self._free(key)

    # -- answering -------------------------------------------------------------------------------------

    async def _answer(self, router: int, name: str, method: Method, call: Call) -> object:
        """The result of one call; raises ApplicationError only. Runs synchronously up to its first wait, so
        that the posts of a session are stored in the order of its calls."""
        self._inflight += 1
        try:
            if call.session is None:
                raise RuntimeError("the router does not disclose callers")
            visitor = self._visitor(router, call.session)
            visitor.inflight += 1
            try:
                return await self._admitted(visitor, method, call)
            finally:
                visitor.inflight -= 1
        except Exception as error:
            raise refused(error, uris.procedure(name)) from None
        finally:
            self._inflight -= 1
            self._tell_idle()

    async def _admitted(self, visitor: Visitor, method: Method, call: Call) -> object:
        if visitor.inflight > self.limits.inflight:
            text = f"At most {self.limits.inflight} calls at a time"
            raise RateLimited(text, retry_after_ms=_BUSY_RETRY_MS)
        if call.args:
            raise BadParams("params: by name, not by position")
        return await method(self, visitor, call)

    def _tell_idle(self) -> None:
        if self._inflight == 0:
            waiting, self._idle = self._idle, []
            for promise in waiting:
                promise.resolve(None)

    def _pass(self, visitor: Visitor) -> None:
        """Counts one post; raises RateLimited, and does not count it, when it came too soon."""
        rate, burst = self.limits.post_rate, self.limits.post_burst
        bucket, wait = visitor.bucket.take(self.loop.seconds(), rate, burst)
        if wait > _NO_WAIT:
            text = f"At most {rate:g} posts a second"
            raise RateLimited(text, retry_after_ms=ceil(wait * 1000))
        visitor.bucket = bucket

    def _seat(self, visitor: Visitor, room: names.Name) -> Seat:
        """The visitor's place in the room; raises NotJoined.

        A look-up over the whole cluster, by the visitor's router and session, would go here.
        """
        seat = visitor.seats.get(room.folded)
        if seat is None:
            raise NotJoined
        return seat

    # -- the procedures --------------------------------------------------------------------------------

    async def _join(self, visitor: Visitor, call: Call) -> object:
        params = schema.params(schema.Join, call.kwargs)
        room = names.name(params.room, "params.room")
        member = names.name(params.name, "params.name")
        mine = visitor.seats.keys() | visitor.joining
        if room.folded not in mine and len(mine) >= self.limits.rooms:
            raise TooManyRooms(f"At most {self.limits.rooms} rooms a session")
        user = params.user or call.authid or visitor.id
        ask = Ask(room, member, user, visitor.holder(), params.start(self.limits.history))
        visitor.joining.add(room.folded)
        try:
            joined = await self.rooms.join(ask)
        finally:
            visitor.joining.discard(room.folded)
        self._sit(visitor, joined.seat)
        return {**schema.shown_joined(joined), "topics": _topics(joined.key)}

    def _sit(self, visitor: Visitor, seat: Seat) -> None:
        """Takes the seat; it replaces an earlier one in the room."""
        if visitor.gone:
            self.rooms.leave(seat)
            raise NotJoined
        earlier = visitor.seats.get(seat.room.id)
        visitor.seats[seat.room.id] = seat
        if earlier is not None:
            self.rooms.leave(earlier)

    async def _leave(self, visitor: Visitor, call: Call) -> object:
        room = names.name(schema.params(schema.InRoom, call.kwargs).room, "params.room")
        self.rooms.leave(self._seat(visitor, room))
        del visitor.seats[room.folded]
        return {}

    async def _post(self, visitor: Visitor, call: Call) -> object:
        params = schema.params(schema.Post, call.kwargs)
        uuid = names.uuid(params.uuid, "params.uuid")
        body = schema.text_body(params.body, self.limits.text)
        seat = self._seat(visitor, names.name(params.room, "params.room"))
        self._pass(visitor)
        return schema.shown_posted(await self.rooms.post(seat, uuid, params.kind, body).wait())

    async def _since(self, visitor: Visitor, call: Call) -> object:
        page = await self._page(call, self.rooms.since)
        fitting = next(events.parts(page.room, page.messages), [])
        return schema.shown_page(Page(page.room, fitting, page.head))

    async def _before(self, visitor: Visitor, call: Call) -> object:
        page = await self._page(call, self.rooms.before)
        nearest = next(events.parts(page.room, page.messages[::-1]), [])
        return schema.shown_page(Page(page.room, nearest[::-1], page.head))

    async def _page(self, call: Call, read: Callable[[names.Name, int, int], Awaitable[Page]]) -> Page:
        params = schema.params(schema.Range, call.kwargs)
        return await read(names.name(params.room, "params.room"), params.seq, params.limit)

    async def _members(self, visitor: Visitor, call: Call) -> object:
        room = names.name(schema.params(schema.InRoom, call.kwargs).room, "params.room")
        return {"members": [schema.shown_member(member) for member in await self.rooms.present(room)]}

    async def _key(self, visitor: Visitor, call: Call) -> object:
        room = names.name(schema.params(schema.InRoom, call.kwargs).room, "params.room")
        return self.rooms.key(room.folded)


Method = Callable[[Procedures, Visitor, Call], Awaitable[object]]

METHODS: dict[str, Method] = {
    "join": Procedures._join,
    "leave": Procedures._leave,
    "post": Procedures._post,
    "since": Procedures._since,
    "before": Procedures._before,
    "members": Procedures._members,
    "key": Procedures._key,
}


def _topics(key: str) -> dict[str, str]:
    return {"messages": uris.messages_topic(key), "presence": uris.presence_topic(key)}
