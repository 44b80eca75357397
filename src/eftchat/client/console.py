"""Standard input and output on the reactor, without blocking it, and left as they were found."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from zope.interface import implementer

from eftchat.client.waiters import Waiters

LINE_MAX = 256 * 1024
"""Bytes of a line that are kept; no node takes as many."""


class Console(Protocol):
    """What the terminal client needs of the terminal."""

    interactive: bool
    """Someone types: input is a terminal."""
    screen: bool
    """Someone looks: output is a terminal."""

    def say(self, line: str) -> None:
        """A line on the standard output."""

    def note(self, line: str) -> None:
        """A line on the standard error."""

    def read(self, on_line: Callable[[str], object]) -> None:
        """Begins, or goes on, to read lines; they come without their end."""

    def pause(self) -> None:
        """No more lines until `read`."""

    def ended(self) -> Deferred[None]:
        """Done when the standard input has ended and its last line was given."""

    def gone(self) -> Deferred[None]:
        """Done when nobody reads the standard output any more."""

    async def close(self, seconds: float | None) -> None:
        """Writes what is left, for at most so long, and gives the terminal back."""


@define(eq=False)
class Lines:
    """Bytes in any pieces, lines out."""

    _rest: bytes = field(default=b"", init=False)

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *complete, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LINE_MAX]
        return [_text(line) for line in complete]

    def end(self) -> list[str]:
        """The last line, when it has no end."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line[:LINE_MAX].removesuffix(b"\r").decode("utf-8", "replace")


@implementer(IHalfCloseableProtocol)
class _Ends(TwistedProtocol):
    """Both ends, as Twisted tells of them."""

    def __init__(self, console: StdConsole) -> None:
        self.console = console

    def dataReceived(self, data: bytes) -> None:
        """Something was typed."""
        self.console.received(data)

    def readConnectionLost(self) -> None:
        """The input has ended."""
        self.console.input_ended()

    def writeConnectionLost(self) -> None:
        """Nobody reads the output."""
        self.console.output_lost()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Everything is written, or cannot be."""
        self.console.output_lost()


@define(eq=False)
class StdConsole:
    """The process's own standard input, output and error."""

    reactor: Any
    interactive: bool = field(factory=lambda: _is_terminal(sys.__stdin__), init=False)
    screen: bool = field(factory=lambda: _is_terminal(sys.__stdout__), init=False)
    _io: Any = field(init=False)
    _blocking: dict[int, bool] = field(factory=dict, init=False)
    _lines: Lines = field(factory=Lines, init=False)
    _on_line: Callable[[str], object] | None = field(default=None, init=False)
    _waiting: deque[str] = field(factory=deque, init=False)
    _input_over: bool = field(default=False, init=False)
    _output_over: bool = field(default=False, init=False)
    _ended: Waiters = field(factory=Waiters, init=False)
    _gone: Waiters = field(factory=Waiters, init=False)

    def __attrs_post_init__(self) -> None:
        # Copies, so that closing them leaves Python its own; but they share the flag that makes reads not block.
        given = [stream.fileno() for stream in (sys.__stdin__, sys.__stdout__) if stream is not None]
        self._blocking = {fd: os.get_blocking(fd) for fd in given}
        read, write = _copy(sys.__stdin__, os.O_RDONLY), _copy(sys.__stdout__, os.O_WRONLY)
        standard: Any = StandardIO  # Windows has another one, without arguments
        self._io = standard(_Ends(self), stdin=read, stdout=write, reactor=self.reactor)
        self._io.pauseProducing()

    # -- for the terminal client -----------------------------------------------------------------------

    def say(self, line: str) -> None:
        """See Console."""
        if not self._output_over:
            self._io.write(f"{line}\n".encode("utf-8", "backslashreplace"))

    def note(self, line: str) -> None:
        """See Console."""
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            pass  # nobody reads it, or not now: it is only a note

    def read(self, on_line: Callable[[str], object]) -> None:
        """See Console."""
        self._on_line = on_line
        self._give()
        if self._on_line is not None:
            self._io.resumeProducing()

    def pause(self) -> None:
        """See Console."""
        self._on_line = None
        self._io.pauseProducing()

    def ended(self) -> Deferred[None]:
        """See Console."""
        waiting = self._ended.wait()
        self._give()
        return waiting

    def gone(self) -> Deferred[None]:
        """See Console."""
        return self._gone.wait()

    async def close(self, seconds: float | None) -> None:
        """See Console."""
        self._on_line = None
        if not self._output_over:
            written = self._gone.wait()
            if seconds is not None:
                written.addTimeout(seconds, self.reactor, onTimeoutCancel=lambda *_: None)
            self._io.loseConnection()
            await written
        for fd, blocking in self._blocking.items():
            os.set_blocking(fd, blocking)

    # -- from Twisted ----------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes of the input."""
        self._waiting.extend(self._lines.feed(data))
        self._give()

    def input_ended(self) -> None:
        """No more bytes."""
        self._input_over = True
        self._waiting.extend(self._lines.end())
        self._give()

    def output_lost(self) -> None:
        """No more of the output arrives anywhere."""
        self._output_over = True
        self._gone.release()

    def _give(self) -> None:
        """Gives lines for as long as they are wanted."""
        while self._waiting and self._on_line is not None:
            self._on_line(self._waiting.popleft())
        if self._input_over and not self._waiting:
            self._ended.release()


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _copy(stream: TextIO | None, flags: int) -> int:
    """Another descriptor of the same; of nothing at all when the process was started without it.

    Then its number may be anything by now, the reactor's own files even.
    """
    return os.open(os.devnull, flags) if stream is None else os.dup(stream.fileno())
