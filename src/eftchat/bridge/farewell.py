"""How websocket clients are sent elsewhere: each has a slot, and nobody is cut off in the middle of a sentence.

A v2 client is told its slot. It connects elsewhere then, resumes, and closes the connection here by itself: it has
moved, and missed nothing. One that is still here some seconds behind its slot is closed. A v1 client knows no word
for this and is closed in its slot; it returns, as always, after five seconds.

Closing begins with last orders: what the client sent so far is finished and answered, what it sends from then on is
left unread (its outbox has that still).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Protocol

from attrs import define, field

from eftchat.bridge.connection import Conversation
from eftchat.bridge.v2 import V2Conversation, notification
from eftchat.domain.backoff import waves
from eftchat.drain import Notice, Parting
from eftchat.ports import Loop
from eftchat.wire import close_codes

LOOK_EVERY = 0.05
LAST_ORDERS = 5.0
"""Seconds that what is in flight may take once its client's time is over."""
CLOSE_WITHIN = 2.0
"""Seconds that a closing handshake may take."""


class Guest(Protocol):
    """A websocket, as far as it matters here."""

    @property
    def conversation(self) -> Conversation | None: ...

    def write(self, data: bytes) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Sends a close frame and ends the connection."""

    def abort(self) -> None:
        """Ends the connection at once."""


@define(eq=False)
class _Stay:
    """One guest's last minutes. Times are the loop's."""

    told: bool
    slot: float
    until: float
    """From then on it is asked to go."""
    ordered: float | None = None
    """When last orders were called."""
    closed: float | None = None
    """When it was sent a close frame."""


@define(eq=False)
class Farewell:
    """Sees the guests of a node off. `open` are those whose connection is open at the moment."""

    loop: Loop
    rng: Random
    open: Callable[[], Collection[Guest]]
    linger: float = 3.0
    """Seconds that a client that was told may stay behind its slot."""
    parting: Parting = field(default=Parting(), init=False)
    """Of those who are gone by now."""
    _stays: dict[Guest, _Stay] = field(factory=dict, init=False)
    _reason: str = field(default="", init=False)
    _over: bool = field(default=False, init=False)

    def tell(self, notice: Notice) -> int:
        """Gives everyone a slot in the window; how many could be told."""
        self._reason = notice.reason
        now = self.loop.seconds()
        guests = list(self.open())
        self.rng.shuffle(guests)  # those who came together shall not go together
        for guest, after in zip(guests, waves(len(guests), notice.window, self.rng), strict=True):
            told = isinstance(guest.conversation, V2Conversation)
            if told:
                params = {"after_ms": round(after * 1000), "reason": notice.reason}
                guest.write(notification("reconnect", params))
            slot = now + after
            self._stays[guest] = _Stay(told, slot, slot + self.linger if told else slot)
        return sum(stay.told for stay in self._stays.values())

    async def see_off(self) -> None:
        """Done when nobody is open any more, or after `close`. Who came after `tell` is closed at once."""
        while self._look() and not self._over:
            await self.loop.sleep(LOOK_EVERY)

    async def close(self, seconds: float) -> Parting:
        """Closes everyone, last orders or not, and waits so long until they are gone; what became of them all."""
        self._over = True
        until = self.loop.seconds() + seconds
        for guest in list(self.open()):
            self._close(guest, self._stay(guest))
        while self._look() and self.loop.seconds() < until:
            await self.loop.sleep(LOOK_EVERY / 2)
        for guest in list(self.open()):
            guest.abort()
        self._look()
        return self.parting

    def _look(self) -> bool:
        """Whether somebody is still open. Counts who has gone, closes whose time is over."""
        now = self.loop.seconds()
        here = dict.fromkeys(self.open())  # in their order: a simulation shall repeat itself
        for guest in [guest for guest in self._stays if guest not in here]:
            self._gone(self._stays.pop(guest), now)
        for guest in here:
            stay = self._stay(guest)
            if stay.closed is not None:
                self._insist(guest, stay.closed, now)
            elif now >= stay.until:
                self._ask_to_go(guest, stay, now)
        return bool(here)

    def _stay(self, guest: Guest) -> _Stay:
        now = self.loop.seconds()
        return self._stays.setdefault(guest, _Stay(False, now, now))

    def _ask_to_go(self, guest: Guest, stay: _Stay, now: float) -> None:
        if stay.ordered is None:
            stay.ordered = now
            if guest.conversation is not None:
                guest.conversation.last_orders()
        busy = guest.conversation is not None and guest.conversation.busy
        if not busy or now >= stay.ordered + LAST_ORDERS:
            self._close(guest, stay)

    def _insist(self, guest: Guest, closed: float, now: float) -> None:
        if now >= closed + CLOSE_WITHIN:
            guest.abort()

    def _close(self, guest: Guest, stay: _Stay) -> None:
        if stay.closed is None:
            stay.closed = self.loop.seconds()
            guest.close(close_codes.NODE_LEAVING, self._reason)

    def _gone(self, stay: _Stay, now: float) -> None:
        moved = int(stay.told and stay.closed is None)
        self.parting += Parting(moved, 1 - moved, max(0.0, now - stay.slot))
