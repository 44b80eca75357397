"""The node's lease: what its members' names hang on. Renewed while the node lives, lapsed soon after it died.

A node that cannot renew it fences itself: before the lease can lapse, and others may take the names, nobody sits
on a name here any more and nobody is let in. With the next renewal it is open again.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from eftchat.domain.errors import Unavailable
from eftchat.ports import Loop, Timer
from eftchat.rooms import Rooms

TTL = 10.0
RENEWALS = 4
"""How often a lease is renewed in the time that it runs."""
MARGIN = 0.1
"""The part of a lease that is left when the node fences itself."""


@define(eq=False)
class Lease:
    """Renews the lease and sweeps away the claims of nodes that died."""

    rooms: Rooms
    loop: Loop
    ttl: float = TTL
    lapsing: Callable[[], None] = lambda: None
    """Called when the lease is about to lapse: everyone who sits here is sent away, now."""
    _until: float = field(default=0.0, init=False)
    _timer: Timer | None = field(default=None, init=False)
    _fence: Timer | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def held(self) -> bool:
        """Whether the lease certainly runs still."""
        return self.loop.seconds() < self._until

    async def start(self) -> None:
        """Takes the lease and keeps it from now on. Raises Unavailable when that cannot be done."""
        await self._renew()
        self._schedule()

    def stop(self) -> None:
        """No more renewals."""
        self._stopped = True
        for timer in (self._timer, self._fence):
            if timer is not None:
                timer.cancel()

    async def _renew(self) -> None:
        asked = self.loop.seconds()
        await self.rooms.sweep(round(self.ttl * 1000))
        self._until = asked + self.ttl
        self.rooms.fenced = False
        if self._fence is not None:
            self._fence.cancel()
        if not self._stopped:
            left = self._until - MARGIN * self.ttl - self.loop.seconds()
            self._fence = self.loop.call_later(max(0.0, left), self._close)

    def _close(self) -> None:
        self.rooms.fenced = True
        self.lapsing()

    def _schedule(self) -> None:
        if not self._stopped:
            self._timer = self.loop.call_later(self.ttl / RENEWALS, self._due)

    def _due(self) -> None:
        self.loop.spawn(self._tick(), "renewing the lease")

    async def _tick(self) -> None:
        try:
            await self._renew()
        except Unavailable:
            pass  # asked again at the next tick; `held` tells when it is too late
        finally:
            self._schedule()
