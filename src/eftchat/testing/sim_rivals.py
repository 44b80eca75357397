"""Clients that contend for one name in one room: each comes, stays a while and goes, and says nothing."""

from __future__ import annotations

from typing import Any

from attrs import define

from eftchat.testing.sim_clients import Line, Place, V2Client


@define(eq=False)
class Rival(V2Client):
    """Wants a name that others want too. Refused, it tries again; in, it goes after a while."""

    def entered(self, place: Place) -> None:
        """The name is its own, until it goes."""
        self.stage.clock.callLater(self.rng.uniform(0.2, 3.0), self._go, self.line, place)

    def _go(self, line: Line | None, place: Place) -> None:
        if line is self.line and line is not None and place.joined and not self.over:
            if self.rng.random() < 0.5:
                self.leave(place)
                self.stage.clock.callLater(self.rng.uniform(0.2, 2.0), self._rejoin, line, place)
            else:
                self.drop()

    def resumes_at(self, place: Place) -> int | None:
        """It comes as somebody new each time."""
        return None

    def _must_be_retryable(self, method: str, error: dict[str, Any]) -> None:
        if error["data"]["reason"] != "name_taken":
            super()._must_be_retryable(method, error)

    def unsettled(self) -> str | None:
        """It wants nothing more when the others are done."""
        return None
