"""A room's outbox: what was posted and is not yet known to be durable. Pure: no I/O, no clock.

First in, first out. An entry is `queued`, or in flight; at most `window` are in flight. One that is refused
for now halts the box: nothing goes out until the fate of everything in flight is known, then all that was
refused goes out again, in order, before anything later. So a sender's order can only change where a node
stored a later message after it had refused an earlier one. That becomes less likely each time: a refusal
halves the window, an acknowledgement widens it by one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from random import Random
from typing import Any
from uuid import UUID

from attrs import define, field

from eftchat.client.values import ChatClientError, Posted
from eftchat.client.waiters import Waiters

WINDOW = 64
"""Messages of a room that may be in flight."""


def new_uuid(rng: Random) -> str:
    """A message's identity (RFC 9562, version 4), made of the given chance."""
    return str(UUID(int=rng.getrandbits(128), version=4))


@define(eq=False)
class Sending:
    """A message on its way. Awaiting it, any number of times, gives Posted when it is durable, or raises
    ChatClientError; not awaiting it is fine. It is on its way whether or not somebody waits."""

    uuid: str
    text: str
    posted: Posted | None = field(default=None, init=False)
    error: ChatClientError | None = field(default=None, init=False)
    _waiters: Waiters = field(factory=Waiters, init=False)

    @property
    def settled(self) -> bool:
        """Whether its fate is known: `posted` or `error` is set."""
        return self.posted is not None or self.error is not None

    def __await__(self) -> Generator[Any, Any, Posted]:
        while not self.settled:
            yield from self._waiters.wait().__await__()
        if self.error is not None:
            raise self.error
        assert self.posted is not None
        return self.posted

    def succeed(self, posted: Posted) -> None:
        """It is stored. The first fate stands."""
        if not self.settled:
            self.posted = posted
            self._waiters.release()

    def fail(self, error: ChatClientError) -> None:
        """It will not be stored, or nobody will know. The first fate stands."""
        if not self.settled:
            self.error = error
            self._waiters.release()


@define(eq=False)
class Outbox:
    """See the module."""

    window: int = WINDOW
    _queued: OrderedDict[str, Sending] = field(factory=OrderedDict, init=False)
    _flying: OrderedDict[str, Sending] = field(factory=OrderedDict, init=False)
    _refused: dict[str, ChatClientError] = field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._queued) + len(self._flying)

    def get(self, uuid: str) -> Sending | None:
        """The entry with this uuid, while its fate is not known."""
        return self._flying.get(uuid) or self._queued.get(uuid)

    def add(self, sending: Sending) -> None:
        """Puts it at the end."""
        self._queued[sending.uuid] = sending

    @property
    def halted(self) -> bool:
        """Something was refused for now: nothing goes out before `rewind`."""
        return bool(self._refused)

    @property
    def quiet(self) -> bool:
        """Halted, and nothing is in flight any more whose fate is not known."""
        return self.halted and len(self._refused) == len(self._flying)

    def take(self) -> list[Sending]:
        """What may go out now, in order; it counts as in flight from here on."""
        taken: list[Sending] = []
        while self._queued and len(self._flying) < self.window and not self.halted:
            uuid, sending = self._queued.popitem(last=False)
            self._flying[uuid] = sending
            taken.append(sending)
        return taken

    def remove(self, uuid: str) -> Sending | None:
        """It will never be stored: takes it out, wherever it is. None when its fate was known before."""
        self._refused.pop(uuid, None)
        return self._flying.pop(uuid, None) or self._queued.pop(uuid, None)

    def acknowledge(self, uuid: str) -> Sending | None:
        """It is durable: takes it out, wherever it is. None when that was known before."""
        self.window = min(WINDOW, self.window + 1)
        return self.remove(uuid)

    def refuse(self, uuid: str, error: ChatClientError) -> None:
        """The node did not take it, and may later."""
        if uuid in self._flying:
            if not self.halted:
                self.window = max(1, self.window // 2)
            self._refused[uuid] = error

    def refusals(self) -> list[ChatClientError]:
        """Why it is halted."""
        return list(self._refused.values())

    def rewind(self) -> None:
        """Another connection, or another try: everything goes out again, from the first on."""
        self._flying.update(self._queued)
        self._queued, self._flying = self._flying, OrderedDict()
        self._refused.clear()

    def clear(self, error: ChatClientError) -> None:
        """Nothing goes out any more: every entry fails."""
        everything = [*self._flying.values(), *self._queued.values()]
        self._flying.clear()
        self._queued.clear()
        self._refused.clear()
        for sending in everything:
            sending.fail(error)
