"""The node's lease: what its members' names hang on. Renewed while the node lives, lapsed soon after it died.

With it goes the id by which operators know the node: no two nodes that run have the same.

A node that cannot renew it fences itself: before the lease can lapse, and others may take the names, nobody sits
on a name here any more and nobody is let in. With the next renewal it is open again.

Any node sweeps away what hangs on leases that lapsed, and tells the rooms. But a lease that lapsed is no proof that
its owner died: after the store was away, all have lapsed, and whoever comes back first must not sweep away the
living. So a node sweeps only when it has held its own lease for a whole term without a gap: in that time everyone
who lives has renewed, too.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from eftchat.domain.errors import Unavailable
from eftchat.ports import CannotStart, Loop, Timer
from eftchat.rooms import Rooms

TTL = 10.0
RENEWALS = 4
"""How often a lease is renewed in the time that it runs."""
MARGIN = 0.1
"""The part of a lease that is left when the node fences itself."""


class IdTaken(CannotStart):
    """Another node has the id, or had it until a moment ago."""


@define(eq=False)
class Lease:
    """Renews the lease and sweeps away the claims of those that died."""

    rooms: Rooms
    loop: Loop
    ttl: float = TTL
    lapsing: Callable[[], None] = lambda: None
    """Called when the lease is about to lapse: everyone who sits here is sent away, now."""
    id: str = ""
    """The node's id; without one nothing is asked for."""
    ousted: Callable[[IdTaken], None] = lambda taken: None
    """Called when another node has got the id while this one was cut off from the store."""
    _until: float = field(default=0.0, init=False)
    _since: float = field(default=0.0, init=False)
    """Since when the lease has run without a gap."""
    _timer: Timer | None = field(default=None, init=False)
    _fence: Timer | None = field(default=None, init=False)
    away: bool = field(default=False, init=False)
    """The store could not be reached at the last renewal."""
    _stopped: bool = field(default=False, init=False)
    _sweeping: bool = field(default=False, init=False)

    @property
    def held(self) -> bool:
        """Whether the lease certainly runs still."""
        return self.loop.seconds() < self._until

    async def start(self) -> None:
        """Takes id and lease and keeps them from now on. Raises Unavailable, and IdTaken; both may pass."""
        await self._renew()
        self._schedule()

    def stop(self) -> None:
        """No more renewals."""
        self._stopped = True
        for timer in (self._timer, self._fence):
            if timer is not None:
                timer.cancel()

    async def _renew(self) -> None:
        asked, ttl_ms = self.loop.seconds(), round(self.ttl * 1000)
        if self.id and not await self.rooms.members.enlist(self.id, self.rooms.node, ttl_ms):
            raise IdTaken(f"Another node runs as {self.id}: give each an id of its own")
        await self.rooms.renew(ttl_ms)
        self.away = False
        if self.loop.seconds() >= self._until:
            self._since = self.loop.seconds()
        self._until = asked + self.ttl
        self.rooms.fenced = False
        if self._fence is not None:
            self._fence.cancel()
        if not self._stopped:
            left = self._until - MARGIN * self.ttl - self.loop.seconds()
            self._fence = self.loop.call_later(max(0.0, left), self._close)
        if asked - self._since >= self.ttl and not self._sweeping:
            self._sweeping = True
            self.loop.spawn(self._sweep(), "sweeping away the names of the dead")

    async def _sweep(self) -> None:
        """On its own: many names take long, and the lease must not wait for them."""
        try:
            await self.rooms.sweep()
        except Unavailable:
            pass  # what is left is found by the next one
        finally:
            self._sweeping = False

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
            self.away = True  # asked again at the next tick; `held` tells when it is too late
        except IdTaken as taken:
            self.id = ""  # the names it holds are still its own, to the end of its leaving
            self.ousted(taken)
        finally:
            self._schedule()
