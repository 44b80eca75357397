"""The terminal of a running cluster: one table that stays in place, or plain lines where there is no terminal."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from rich.console import Console
from rich.live import Live
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from eftchat.cluster.cluster import Cluster
from eftchat.cluster.table import table
from eftchat.cluster.view import View

EVERY = 1.0


@define(eq=False)
class Screen:
    """Looks at the cluster every second and shows what it sees."""

    reactor: Any
    cluster: Cluster
    console: Console
    _live: Live | None = field(default=None, init=False)
    _last: dict[str, str] = field(factory=dict, init=False)
    _timer: Any = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        """Begins."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        self._turn()

    def say(self, text: str) -> None:
        """A line of its own, above the table."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    async def stop(self) -> None:
        """Shows how it ended, and no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._show(await self.cluster.look())
        if self._live is not None:
            self._live.stop()

    def _turn(self) -> None:
        self._timer = None
        Deferred.fromCoroutine(self._look()).addErrback(
            lambda failure: Logger("eftchat.cluster").failure("looking at the cluster failed", failure)
        )

    async def _look(self) -> None:
        try:
            view = await self.cluster.look()
            if not self._stopped:
                self._show(view)
        finally:
            if not self._stopped:
                self._timer = self.reactor.callLater(EVERY, self._turn)

    def _show(self, view: View) -> None:
        if self._live is not None:
            self._live.update(table(view), refresh=True)
            return
        for member in view.members:
            if self._last.get(member.name) != member.line:
                self._last[member.name] = member.line
                self.say(member.line)
