"""One conversation with one websocket client, without I/O: what both dialects share.

Frames are handled strictly in the order in which they came. A request that changes what later ones mean (a join, a
leave) holds them back until it is settled; posts do not wait for each other, so that many fit into one round trip
of the store. So a post that is refused (the queue is full) must not be passed by those behind it: they are refused,
too, until the client starts over with one of them. When too much is in flight, or the client posts faster than it
may, reading stops: TCP tells the client to slow down, nothing is refused, nothing is lost, and the order stands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterator
from itertools import count
from typing import Any, Protocol

import msgspec
from attrs import define, field

from eftchat.domain.errors import ChatError, Internal, Overloaded
from eftchat.domain.limits import Bucket, Limits
from eftchat.domain.messages import Body, Kind, Posted
from eftchat.feeds import Reader
from eftchat.ports import Dialect, Loop, Promise
from eftchat.rooms import Joined, Rooms, Seat

REFUSED_KEPT = 1_000
"""Refused posts of a room that a connection remembers: more than any client keeps in flight."""


GIVEN_UP = 10.0
"""Seconds without a post after which a client has plainly given up what was refused."""


class Socket(Protocol):
    """What a conversation needs of the transport below it."""

    def write(self, data: bytes) -> None:
        """Websocket frames, ready made. After the close nothing happens."""

    def writable(self) -> bool:
        """False while the buffer towards the client is full."""

    def stop_reading(self) -> None: ...

    def read_on(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Ends the connection with a close frame."""


class Settings(msgspec.Struct, frozen=True):
    """What every conversation of a node is given."""

    node: str
    limits: Limits = Limits()
    heartbeat_ms: int = 20_000


@define(eq=False)
class Sitting:
    """A seat and the reader that keeps it posted; no reader when a newer connection reads instead."""

    seat: Seat
    reader: Reader | None


@define(eq=False)
class Conversation(ABC):
    """Base of the dialects. Whoever owns the socket calls `received`, `drained` and `lost`."""

    rooms: Rooms
    loop: Loop
    socket: Socket
    settings: Settings
    id: str
    """Unique in the cluster."""
    dialect: Dialect
    sittings: dict[str, Sitting] = field(factory=dict, init=False)
    gone: bool = field(default=False, init=False)
    _inbox: deque[bytes | None] = field(factory=deque, init=False)
    _held: int = field(default=0, init=False)
    """What the frames in the inbox wait for: joins, and debts of rate."""
    _inflight: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)
    _deaf: bool = field(default=False, init=False)
    _bucket: Bucket = field(init=False)
    _holders: Iterator[int] = field(factory=count, init=False)
    _refused: dict[str, set[str]] = field(factory=dict, init=False)
    """By room: the posts that were refused since one last went through."""
    _refused_at: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._bucket = Bucket(self.settings.limits.post_burst, self.loop.seconds())

    # -- from the socket -------------------------------------------------------------------------------

    def received(self, payload: bytes | None) -> None:
        """A whole text frame; None stands for a binary one, which no dialect has."""
        if not self._deaf:
            self._inbox.append(payload)
            self._go_on()

    def drained(self) -> None:
        """The socket is writable again."""
        self._go_on()
        for sitting in list(self.sittings.values()):
            if sitting.reader is not None:
                sitting.reader.wake()

    def lost(self) -> None:
        """The socket is gone. What is in flight is still stored; names are let go."""
        self.gone = True
        self._inbox.clear()
        for room in list(self.sittings):
            self.leave(room)

    def last_orders(self) -> None:
        """What came is finished; what comes from now on is as if it were never read."""
        self._deaf = True

    @property
    def busy(self) -> bool:
        """Whether something that came is not finished."""
        return bool(self._inbox or self._held or self._inflight)

    # -- for the dialects ------------------------------------------------------------------------------

    @abstractmethod
    def handle(self, payload: bytes | None) -> None:
        """Answers one frame; may call `hold`, `in_flight` and `throttle`."""

    def hold(self, work: Coroutine[Any, Any, None]) -> None:
        """Frames behind this one wait until the work is done."""
        self._held += 1
        self.loop.spawn(self._hold(work), "a request")

    def in_flight(self, work: Coroutine[Any, Any, None]) -> None:
        """The work goes on beside later frames; too many of them stop the reading."""
        self._inflight += 1
        self.loop.spawn(self._fly(work), "a request")

    def throttle(self) -> None:
        """Counts one request that costs the store work; over the rate, later frames wait as long as it takes."""
        limits = self.settings.limits
        self._bucket, wait = self._bucket.take(self.loop.seconds(), limits.post_rate, limits.post_burst)
        if wait > 0.0:
            self._held += 1
            self.loop.call_later(wait, self._release)

    async def refusing(self, work: Awaitable[None], identity: Any) -> None:
        """Awaits the work; what it refuses is answered as an error to the request of this identity."""
        try:
            await work
        except ChatError as error:
            self.refuse(error, identity)
        except Exception:
            self.refuse(Internal(), identity)
            raise

    @abstractmethod
    def refuse(self, error: ChatError, identity: Any) -> None:
        """Sends the error in the dialect's own way."""

    def holder(self) -> str:
        """A fresh name for a hold on a user name: letting an older one go cannot touch it."""
        return f"{self.id}.{next(self._holders)}"

    def sit(self, joined: Joined, *, read: bool = True) -> Sitting:
        """Takes the place that a join gave, and reads on from its cursor. Replaces an earlier one in the room."""
        earlier = self.sittings.pop(joined.seat.room.id, None)
        if earlier is not None:
            if earlier.reader is not None:
                earlier.reader.close()
            self.rooms.leave(earlier.seat)
        sitting = self.sittings[joined.seat.room.id] = Sitting(joined.seat, None)
        if read:
            sitting.reader = joined.feed.attach(self, joined.cursor)
            if joined.stirred:
                self.rooms.rosters.owe(sitting.reader)
        return sitting

    def post(self, seat: Seat, uuid: str, kind: Kind, body: Body) -> Promise[Posted]:
        """Posts in the order in which the client sends. Raises Overloaded.

        Behind a refused post only one of those refused is let in: a client that sends it again has seen the
        refusal and starts over, with the oldest that it still wants to send.
        """
        refused = self._refused.setdefault(seat.room.id, set())
        if not self._inflight and self.loop.seconds() - self._refused_at > GIVEN_UP:
            refused.clear()
        if refused and uuid not in refused:
            self._refused_at = self.loop.seconds()
            if len(refused) < REFUSED_KEPT:
                refused.add(uuid)
            raise Overloaded(
                "A message before this one was refused; send that one again", retry_after_ms=1_000
            )
        refused.clear()
        try:
            return self.rooms.post(seat, uuid, kind, body)
        except Overloaded:
            self._refused_at = self.loop.seconds()
            refused.add(uuid)
            raise

    def leave(self, room: str) -> None:
        """Gives the place in the room up."""
        sitting = self.sittings.pop(room)
        self._refused.pop(room, None)
        if sitting.reader is not None:
            sitting.reader.close()
        self.rooms.leave(sitting.seat)

    # -- the outlet that feeds write to ----------------------------------------------------------------

    def writable(self) -> bool:
        """False while the socket's buffer is full, and for ever once it is gone."""
        return not self.gone and self.socket.writable()

    def write(self, data: bytes) -> None:
        """Hands ready-made frames to the socket."""
        if not self.gone:
            self.socket.write(data)

    # -- order and back-pressure -----------------------------------------------------------------------

    def _go_on(self) -> None:
        while self._inbox and self._free():
            self.handle(self._inbox.popleft())
        full = bool(self._inbox) or not self._free()
        if full and not self._stopped and not self.gone:
            self._stopped = True
            self.socket.stop_reading()
        elif self._stopped and not full and not self.gone:
            self._stopped = False
            self.socket.read_on()

    def _free(self) -> bool:
        """Whether the next frame may be handled."""
        return not self._held and self._inflight < self.settings.limits.inflight and self.socket.writable()

    def _release(self) -> None:
        self._held -= 1
        if not self.gone:
            self._go_on()

    async def _hold(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._release()

    async def _fly(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._inflight -= 1
            if self._stopped and not self.gone:
                self._go_on()
