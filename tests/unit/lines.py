"""A line to a router that is only a wish: it remembers what was asked of it, and tests play the router."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from eftchat.wamp.line import Call, Effective, Endpoint, Heard, LineDown, State, nothing
from eftchat.wire import uris


@define(eq=False)
class FakeLine:
    """See `line.Line`."""

    topics: dict[str, tuple[Heard, Effective]] = field(factory=dict)
    endpoints: dict[str, Endpoint] = field(factory=dict)
    observers: list[Callable[[State], None]] = field(factory=list)
    published: list[tuple[str, Mapping[str, Any]]] = field(factory=list)
    present: list[int] | None = field(factory=list)
    """The sessions that the router has; None when it cannot be asked."""
    alive: bool = True
    others: list[FakeLine] = field(factory=list)
    """Other nodes' lines to the same router."""

    def listen(self, topic: str, heard: Heard, effective: Effective = nothing) -> None:
        self.topics[topic] = heard, effective

    def unlisten(self, topic: str) -> None:
        del self.topics[topic]

    def serve(self, procedure: str, endpoint: Endpoint) -> None:
        self.endpoints[procedure] = endpoint

    def on_state(self, told: Callable[[State], None]) -> None:
        self.observers.append(told)

    def publish(self, topic: str, payload: Mapping[str, Any], but: int | None = None) -> bool:
        if self.alive:
            self.published.append((topic, payload))
            for other in self.others:
                if topic in other.topics:
                    other.event(topic, **payload)
        return self.alive

    async def call(self, procedure: str) -> Any:
        if self.present is None:
            raise LineDown
        return self.present

    # -- the router's part -----------------------------------------------------------------------------

    def becomes(self, state: State) -> None:
        for told in self.observers:
            told(state)

    def event(self, topic: str, *args: Any, **kwargs: Any) -> None:
        self.topics[topic][0](args, kwargs)

    def effective(self, topic: str, subscription: int = 1) -> None:
        self.topics[topic][1](subscription)

    def comes_up(self, subscription: int = 1) -> None:
        """As a link does it."""
        self.effective(uris.SESSION_LEFT, subscription)
        self.becomes("up")

    def invoke(self, session: int | None, method: str, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """A call from a client's session."""
        return Deferred.fromCoroutine(
            self.endpoints[f"eftchat.api.{method}"](Call(session, f"auth{session}", args, kwargs))
        )
