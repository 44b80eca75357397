"""A line to one router, as the bus and the procedures see it: what they want of it holds until taken back.

The line keeps the wishes, not the session: whenever it comes up (again), they are made true once more.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

Heard = Callable[[Sequence[Any], Mapping[str, Any]], None]
"""Called with the arguments of an event."""

State = Literal["up", "down", "stopped"]


class LineDown(Exception):
    """There is no session on the router at the moment, or it ended before the answer."""


class Call(msgspec.Struct, frozen=True):
    """One call of a procedure, with who calls as the router says: neither can be forged by the caller."""

    session: int | None
    authid: str | None
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


Endpoint = Callable[[Call], Coroutine[Any, Any, object]]
"""Answers a call; what it raises must be an ApplicationError. Runs to its end even if the caller gives up."""


Effective = Callable[[int], None]
"""Called with the router's number of a subscription, the same for all who have it, and drawn anew by the router when
nobody had it any more."""


def nothing(subscription: int) -> None:
    """Nobody wants to know."""


class Line(Protocol):
    """What of a link to a router others use."""

    def listen(self, topic: str, heard: Heard, effective: Effective = nothing) -> None:
        """Events of exactly this topic go to `heard`; `effective` is called each time this begins to hold."""

    def unlisten(self, topic: str) -> None:
        """No more events of the topic."""

    def serve(self, procedure: str, endpoint: Endpoint) -> None:
        """Answers calls of the procedure, shared with other nodes; from the next time the line comes up."""

    def on_state(self, told: Callable[[State], None]) -> None:
        """Tells how the line does from now on: "up" when calls are served, "down", "stopped" for good."""

    def publish(self, topic: str, payload: Mapping[str, Any], but: int | None = None) -> bool:
        """Hands an event to the router, without waiting for it; False when there is none at the moment. It goes to
        all who hear the topic, but for this node and this session."""

    async def call(self, procedure: str, *args: Any) -> Any:
        """Calls a procedure of the router. Raises LineDown, or the router's ApplicationError."""
