"""Time and tasks for the core, on any Twisted reactor: the real one, or `task.Clock` in tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from eftchat.ports import Timer

T = TypeVar("T")


@define(eq=False)
class SettledOnce(Generic[T]):
    """A promise that any number may await; settling it a second time is an error."""

    _waiters: list[Deferred[None]] = field(factory=list, init=False)
    _settled: bool = field(default=False, init=False)
    _value: T | None = field(default=None, init=False)
    _error: Exception | None = field(default=None, init=False)

    def resolve(self, value: T) -> None:
        """The value is there: everyone who waits goes on, now."""
        self._value = value
        self._settle()

    def reject(self, error: Exception) -> None:
        """There will be no value: everyone who waits gets the error."""
        self._error = error
        self._settle()

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError("a promise is settled once")
        self._settled = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def wait(self) -> Awaitable[T]:
        """The value, or the error, when it is there."""
        return self

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._settled:
            waiter: Deferred[None] = Deferred()
            self._waiters.append(waiter)
            yield from waiter.__await__()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # settled: it is a T


class _DelayedCall(Protocol):
    def active(self) -> bool: ...

    def cancel(self) -> None: ...


class Ticking(Protocol):
    """What of a reactor is needed here; zope's interfaces say nothing to a type checker."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, call: Callable[..., object], /, *args: object) -> _DelayedCall: ...


@define(eq=False)
class _Timer:
    _call: _DelayedCall

    def active(self) -> bool:
        return bool(self._call.active())

    def cancel(self) -> None:
        if self._call.active():
            self._call.cancel()


@define(eq=False)
class TwistedLoop:
    """The port `Loop` on a reactor."""

    reactor: Ticking
    _log: Logger = field(factory=lambda: Logger("eftchat.loop"), init=False)

    def seconds(self) -> float:
        """Seconds since 1970 (since 0 on a `task.Clock`)."""
        return float(self.reactor.seconds())

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        """Calls once, after `delay` seconds."""
        return _Timer(self.reactor.callLater(delay, call))

    def sleep(self, delay: float) -> Awaitable[None]:
        """Done after `delay` seconds."""
        done: Deferred[None] = Deferred()
        self.reactor.callLater(delay, done.callback, None)
        return done

    def promise(self) -> SettledOnce[Any]:
        """A new promise."""
        return SettledOnce()

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Runs the coroutine on its own; an error that escapes is logged, not lost."""
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: self._log.failure("{what} failed", failure, what=what)
        )
