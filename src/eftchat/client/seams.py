"""What the client needs of the world: a clock, and a line to a node. Autobahn's line is in `transport`; tests
bring their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that will happen, unless cancelled before."""

    def active(self) -> bool: ...

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What of a reactor is needed here: the real one has it, and so has `twisted.internet.task.Clock`."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, call: Callable[..., object], /, *args: object) -> Timer: ...


class Line(Protocol):
    """The way to one node: a websocket, or a stand-in. After its end every call does nothing."""

    def send(self, payload: bytes) -> None:
        """One text frame. Only between `opened` and `lost`."""

    def close(self, code: int, reason: str) -> None:
        """Says good-bye; the end comes within seconds, whether or not the other side answers."""

    def abort(self) -> None:
        """Ends the line at once; what was not sent is lost."""


class Listener(Protocol):
    """Whoever uses a line."""

    def opened(self) -> None:
        """The handshake is done."""

    def received(self, payload: bytes) -> None:
        """A whole text frame came."""

    def lost(self, code: int | None, reason: str) -> None:
        """The line has ended, or never came about; called exactly once, and nothing after it.

        `code` is the node's close code, None when it gave none.
        """


Dial = Callable[[str, Listener], Line]
"""Begins a line to a websocket URL."""
