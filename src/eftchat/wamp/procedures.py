"""The procedures `eftchat.api.*`: what WAMP clients ask of a node, by keyword arguments as in v2.

Who calls is known by the session id that the router vouches for; where it sits, every node can tell (`visitors`).
Members who came this way have no reader: events reach them from the router.

There is no back-pressure over WAMP: who posts too fast, or has too much in flight, is refused and told when
to come again. Each node counts for itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from typing import Any

import msgspec
from attrs import define, field
from twisted.logger import Logger

from eftchat.domain import names
from eftchat.domain.errors import BadParams, NotJoined, RateLimited, TooManyRooms
from eftchat.domain.limits import Limits
from eftchat.domain.messages import Page
from eftchat.ports import Loop, Promise
from eftchat.rooms import Ask, Rooms, Seat
from eftchat.wamp.errors import refused
from eftchat.wamp.events import EVENT_BYTES, EVENT_MESSAGES
from eftchat.wamp.line import Call, Line
from eftchat.wamp.visitors import Station, Visitor, Visitors
from eftchat.wire import schema, uris

_BUSY_RETRY_MS = 100
_NO_WAIT = 0.001
"""Who waited as told must not be refused for a rounding error."""


@define(eq=False)
class Procedures:
    """Serves WAMP clients on any number of routers, on top of Rooms."""

    rooms: Rooms
    loop: Loop
    limits: Limits = Limits()
    visitors: Visitors = field(init=False)
    _inflight: int = field(default=0, init=False)
    _idle: list[Promise[None]] = field(factory=list, init=False)
    _log: Logger = field(factory=lambda: Logger("eftchat.wamp.procedures"), init=False)

    def __attrs_post_init__(self) -> None:
        self.visitors = Visitors(self.rooms, self.loop, self.limits)

    def serve(self, line: Line) -> None:
        """Serves on this line from its next join on."""
        station = self.visitors.add(line)
        for name, method in METHODS.items():
            line.serve(uris.procedure(name), partial(self._answer, station, name, method))

    @property
    def seated(self) -> int:
        """How many sessions this node knows to be members of a room."""
        return self.visitors.seated

    def idle(self) -> Promise[None]:
        """Kept when no call is being answered any more: at once, or when the last one was."""
        promise: Promise[None] = self.loop.promise()
        if self._inflight == 0:
            promise.resolve(None)
        else:
            self._idle.append(promise)
        return promise

    # -- answering -------------------------------------------------------------------------------------

    async def _answer(self, station: Station, name: str, method: Method, call: Call) -> object:
        """The result of one call; raises ApplicationError only. Runs synchronously up to its first wait, so
        that the posts of a session are stored in the order of its calls."""
        self._inflight += 1
        try:
            if call.session is None:
                raise RuntimeError("the router does not disclose callers")
            visitor = self.visitors.visitor(station, call.session)
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
        """Counts one request that costs the store work; raises RateLimited, uncounted, when it is too soon."""
        rate, burst = self.limits.post_rate, self.limits.post_burst
        bucket, wait = visitor.bucket.take(self.loop.seconds(), rate, burst)
        if wait > _NO_WAIT:
            text = f"At most {rate:g} requests a second"
            raise RateLimited(text, retry_after_ms=ceil(wait * 1000))
        visitor.bucket = bucket

    async def _seat(self, visitor: Visitor, room: str) -> Seat:
        """The visitor's place in the room; raises NotJoined. May wait and raise Unavailable: `Visitors.seats`."""
        seat = (await self.visitors.seats(visitor)).get(names.name(room, "params.room").folded)
        if seat is None:
            raise NotJoined
        return seat

    # -- the procedures --------------------------------------------------------------------------------

    async def _join(self, visitor: Visitor, call: Call) -> object:
        params = schema.params(schema.Join, call.kwargs)
        room = names.name(params.room, "params.room")
        member = names.name(params.name, "params.name")
        lease = await visitor.station.entered.wait()
        mine = (await self.visitors.seats(visitor)).keys() | visitor.joining
        if room.folded not in mine and len(mine) >= self.limits.rooms:
            raise TooManyRooms(f"At most {self.limits.rooms} rooms a session")
        # A fresh holder for each join: letting an older one go cannot touch it.
        holder = f"{visitor.id}.{self.rooms.rng.getrandbits(32):08x}"
        user, start = params.user or call.authid or visitor.id, params.start(self.limits.history)
        ask = Ask(room, member, user, holder, start, session=visitor.id, lease=lease)
        visitor.joining.add(room.folded)
        try:
            joined = await self.rooms.join(ask)
        finally:
            visitor.joining.discard(room.folded)
        await self._sit(visitor, joined.seat)
        return {**_fitting(schema.shown_joined(joined)), "topics": _topics(joined.key)}

    async def _sit(self, visitor: Visitor, seat: Seat) -> None:
        """Takes the seat; it replaces an earlier one in the room."""
        if visitor.gone:
            self.rooms.leave(seat)
            raise NotJoined
        earlier = (visitor.seats or {}).get(seat.room.id)
        if earlier is not None:
            await self.rooms.let_go(earlier)
        self.visitors.seated_anew(visitor, seat.room.id, seat)

    async def _leave(self, visitor: Visitor, call: Call) -> object:
        room = schema.params(schema.InRoom, call.kwargs).room
        seat = await self._seat(visitor, room)
        await self.visitors.leave(visitor, seat.room.id)
        return {}

    async def _post(self, visitor: Visitor, call: Call) -> object:
        params = schema.params(schema.Post, call.kwargs)
        uuid = names.uuid(params.uuid, "params.uuid")
        body = schema.text_body(params.body, self.limits.text)
        seat = await self._seat(visitor, params.room)
        self._pass(visitor)
        return schema.shown_posted(await self.rooms.post(seat, uuid, params.kind, body).wait())

    async def _typing(self, visitor: Visitor, call: Call) -> object:
        params = schema.params(schema.TypingIn, call.kwargs)
        seat = await self._seat(visitor, params.room)
        self._pass(visitor)
        self.rooms.typing(seat, params.on, session=visitor.session)
        return {}

    async def _since(self, visitor: Visitor, call: Call) -> object:
        page = await self._page(visitor, call, self.rooms.since)
        return schema.shown_page(schema.nearest(page, EVENT_MESSAGES, EVENT_BYTES))

    async def _before(self, visitor: Visitor, call: Call) -> object:
        page = await self._page(visitor, call, self.rooms.before)
        return schema.shown_page(schema.nearest(page, EVENT_MESSAGES, EVENT_BYTES, backwards=True))

    async def _page(
        self, visitor: Visitor, call: Call, read: Callable[[names.Name, int, int], Awaitable[Page]]
    ) -> Page:
        params = schema.params(schema.Range, call.kwargs)
        self._pass(visitor)
        return await read(names.name(params.room, "params.room"), params.seq, params.limit)

    async def _members(self, visitor: Visitor, call: Call) -> object:
        room = names.name(schema.params(schema.InRoom, call.kwargs).room, "params.room")
        self._pass(visitor)
        return _fitting(schema.shown_members(await self.rooms.present(room)))

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
    "typing": Procedures._typing,
    "members": Procedures._members,
    "key": Procedures._key,
}


def _fitting(result: dict[str, Any]) -> dict[str, Any]:
    """A result with so many of its members as a router lets through to a client; `more` tells of others."""
    size = 0
    for here, member in enumerate(result["members"]):
        size += len(msgspec.json.encode(member))
        if size > EVENT_BYTES:
            return {**result, "members": result["members"][:here], "more": True}
    return result


def _topics(key: str) -> dict[str, str]:
    return {"messages": uris.messages_topic(key), "presence": uris.presence_topic(key)}
