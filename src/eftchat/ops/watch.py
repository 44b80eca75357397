"""Looks at the node once a second and writes a line to the log when something begins, or ends, to be wrong."""

from __future__ import annotations

from attrs import define, field
from twisted.logger import Logger

from eftchat.lease import Lease
from eftchat.ports import Loop, Timer
from eftchat.rooms import Rooms

EVERY = 1.0
BEHIND_FOR = 30.0
"""Seconds for which some readers have to be behind, without a pause, before it is said."""


@define(eq=False)
class Watch:
    """The watch over one node."""

    rooms: Rooms
    lease: Lease
    loop: Loop
    _timer: Timer | None = field(default=None, init=False)
    _away_since: float | None = field(default=None, init=False)
    _refused: int = field(default=0, init=False)
    _resets: int = field(default=0, init=False)
    _held: bool = field(default=True, init=False)
    _behind_since: float | None = field(default=None, init=False)
    _behind_said: bool = field(default=False, init=False)
    _log: Logger = field(factory=lambda: Logger("eftchat.node"), init=False)

    def start(self) -> None:
        """Begins to look."""
        self._timer = self.loop.call_later(EVERY, self._look)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.start()
        self._look_at_store()
        self._look_at_lease()
        self._look_at_counts()
        self._look_at_readers()

    def _look_at_store(self) -> None:
        now, log = self.loop.seconds(), self.rooms.log
        away = log.away or self.lease.away
        if away and self._away_since is None:
            self._away_since = now
            self._log.error("the store is away; {waiting} posts wait", waiting=log.waiting)
        elif not away and self._away_since is not None:
            seconds, self._away_since = now - self._away_since, None
            self._log.warn("the store is back after {seconds:.0f} s", seconds=seconds)

    def _look_at_lease(self) -> None:
        held = self.lease.held
        if held != self._held:
            self._held = held
            if held:
                self._log.warn("the lease is held again: open for members")
            else:
                self._log.error("the lease has lapsed: members were sent away, nobody is let in")

    def _look_at_counts(self) -> None:
        refused, self._refused = self.rooms.log.refused - self._refused, self.rooms.log.refused
        resets, self._resets = self.rooms.resets - self._resets, self.rooms.resets
        if refused:
            self._log.error("the queue is full: {refused} posts refused in a second", refused=refused)
        if resets:
            self._log.warn("{resets} readers came with a cursor of another log", resets=resets)

    def _look_at_readers(self) -> None:
        now, behind = self.loop.seconds(), self.rooms.feeds.reading()["behind"]
        if not behind:
            self._behind_since, self._behind_said = None, False
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since >= BEHIND_FOR and not self._behind_said:
            self._behind_said = True
            self._log.warn(
                "{behind} readers are behind, some for {seconds:.0f} s", behind=behind, seconds=BEHIND_FOR
            )
