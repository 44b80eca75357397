"""Any number of coroutines that wait for one moment."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred


@define(eq=False)
class Waiters:
    """Whoever awaits `wait()` goes on at the next `release` or `fail`. Cancelling a wait affects no other."""

    _waiting: list[Deferred[None]] = field(factory=list, init=False)

    def wait(self) -> Deferred[None]:
        """A Deferred of one's own; safe to cancel, or to `addTimeout`."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def release(self) -> None:
        """Everyone goes on."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def fail(self, error: Exception) -> None:
        """Everyone gets the error."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.errback(error)
