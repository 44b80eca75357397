"""Websockets of a simulated world: bytes under way in both directions, which a cut may catch on the way.

A wire joins one client to one conversation of one node. Towards the client it carries real frame bytes, and
may break off in the middle of one; towards the node it carries whole messages, which Autobahn would have made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Protocol

from attrs import define, field

from eftchat.bridge.connection import Conversation
from eftchat.testing.stage import Stage


class Far(Protocol):
    """The client's end of a wire."""

    def received(self, data: bytes) -> None:
        """Bytes came."""

    def closed(self, code: int) -> None:
        """The connection is over; 1006 when nobody said so."""


class Near(Protocol):
    """What a wire needs to know of its node."""

    @property
    def dead(self) -> bool: ...

    def act(self) -> bool:
        """Counts an effect; False when the node is dead by now, and the effect must not be."""

    def hung_up(self, wire: Wire) -> None:
        """The wire has ended."""


class Closed(Exception):
    """A close frame arrived."""


@define(eq=False)
class Frames:
    """The receiving side of RFC 6455, as far as our servers use it: unmasked, final text frames."""

    _buffer: bytes = field(default=b"", init=False)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that are complete now."""
        self._buffer += data
        while len(self._buffer) >= 2:
            if self._buffer[0] != 0x81:
                raise ValueError(f"no final text frame: {self._buffer[:16]!r}")
            start, size = 2, self._buffer[1]
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self._buffer[2:start], "big")
            if len(self._buffer) < start + size:
                return
            payload, self._buffer = self._buffer[start : start + size], self._buffer[start + size :]
            yield payload


@define(eq=False)
class Wire:
    """One websocket: the `Socket` of a conversation, and what its client holds in its hand."""

    stage: Stage
    rng: Random
    near: Near
    far: Far
    hop: float
    high_water: int
    conversation: Conversation = field(init=False)
    far_open: bool = field(default=True, init=False)
    near_open: bool = field(default=True, init=False)
    _closing: bool = field(default=False, init=False)
    _up: deque[bytes] = field(factory=deque, init=False)
    _down: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    _full: bool = field(default=False, init=False)
    _broken: bool = field(default=False, init=False)
    _stalled: bool = field(default=False, init=False)
    _reading: bool = field(default=True, init=False)
    _going_up: bool = field(default=False, init=False)
    _going_down: bool = field(default=False, init=False)

    # -- the node's end: the port Socket ---------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Bytes towards the client."""
        if not self.talking or not self.near.act():
            return
        self._size += len(data)
        self._full = self._full or self._size > self.high_water
        if not self._broken:
            self._down.append(data)
            self._schedule_down()

    def writable(self) -> bool:
        """Whether the buffer has room."""
        return self.talking and not self._full

    def stop_reading(self) -> None:
        """What the client sends stays on its way."""
        self._reading = False

    def read_on(self) -> None:
        """And comes on."""
        self._reading = True
        self._schedule_up()

    def close(self, code: int, reason: str) -> None:
        """A close frame behind what was written; what the client sent before it knows still arrives."""
        if self.talking and self.near.act():
            self._closing = True
            self.stage.clock.callLater(self._delay(), self._close_far, code)
            self.stage.clock.callLater(self._delay() * 2, self._lost)

    def abort(self) -> None:
        """Ends the connection at once; the client finds it gone."""
        if self.near_open and self.near.act():
            self._lost()
            self.cut(self._delay(), 0.0)

    @property
    def whole(self) -> bool:
        """It carries bytes in both directions, whether or not its ends have noticed that it does not."""
        return self.far_open and self.talking and not self._broken

    @property
    def talking(self) -> bool:
        """Neither side has ended it, as far as the node knows."""
        return self.near_open and not self._closing

    # -- the client's end ------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """A message towards the node."""
        if self.far_open and not self._broken:
            self._up.append(payload)
            self._schedule_up()

    def hang_up(self) -> None:
        """The client closes: what it sent before arrives."""
        if self.far_open:
            self.far_open = False
            self.stage.clock.callLater(self._delay() * 2, self._lost)

    def stall(self, seconds: float) -> None:
        """The client does not read for a while."""
        if not self._stalled:
            self._stalled = True
            self.stage.clock.callLater(seconds, self._resume)

    # -- what may happen on the way --------------------------------------------------------------------

    def cut(self, far_after: float, near_after: float) -> None:
        """The network breaks: of what is under way, in both directions, some beginning still arrives."""
        if self._broken:
            return
        self._broken = True
        keep = self.rng.randint(0, len(self._up))
        while len(self._up) > keep:
            self._up.pop()
        data = b"".join(self._down)
        self._down = [data[: self.rng.randint(0, len(data))]] if data else []
        self.stage.clock.callLater(far_after, self._close_far, 1006)
        self.stage.clock.callLater(near_after, self._lost)

    def node_died(self) -> None:
        """Some beginning of what was written still arrives, then the client finds the connection gone."""
        self.near_open = False
        self.cut(self._delay() * self.rng.choice((1, 1, 50)), 0.0)

    # -- the flow --------------------------------------------------------------------------------------

    def _delay(self) -> float:
        return self.hop * (0.5 + self.rng.random())

    def _schedule_up(self) -> None:
        if self._up and self._reading and not self._going_up:
            self._going_up = True
            self.stage.clock.callLater(self._delay(), self._flow_up)

    def _schedule_down(self) -> None:
        if self._down and not self._stalled and not self._going_down:
            self._going_down = True
            self.stage.clock.callLater(self._delay(), self._flow_down)

    def _flow_up(self) -> None:
        self._going_up = False
        while self._up and self._reading and self.near_open and not self.near.dead:
            self.conversation.received(self._up.popleft())

    def _flow_down(self) -> None:
        self._going_down = False
        if self._stalled or not self.far_open:
            return
        data, self._down = b"".join(self._down), []
        if not self._broken:
            self._size = 0
        self.far.received(data)
        if self._full and not self._broken:
            self._full = False
            if self.near_open and not self.near.dead:
                self.conversation.drained()

    def _resume(self) -> None:
        self._stalled = False
        self._schedule_down()

    def _close_far(self, code: int) -> None:
        if self.far_open:
            self._stalled = False
            self._flow_down()
            if self.far_open:
                self.far_open = False
                self.far.closed(code)

    def _lost(self) -> None:
        if self.near_open and not self.near.dead:
            self._flow_up()
            self.near_open = False
            self.near.hung_up(self)
            self.conversation.lost()
