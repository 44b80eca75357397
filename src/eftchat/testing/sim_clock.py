"""One node's view of the clock: when the node dies, its timers vanish, and nothing of it runs afterwards."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from eftchat.ops.loop import TwistedLoop
from eftchat.testing.stage import Stage


@define(eq=False)
class _Never:
    """A timer of a dead node."""

    def active(self) -> bool:
        return False

    def cancel(self) -> None:
        """It never comes anyway."""


@define(eq=False)
class NodeClock:
    """Time for one node, and the count of what it did to the world around it."""

    stage: Stage
    dead: bool = field(default=False, init=False)
    effects: int = field(default=0, init=False)
    last_effect: int | None = field(default=None, init=False)
    """The node dies before it has an effect beyond this many."""
    dies: Callable[[], None] | None = field(default=None, init=False)

    def seconds(self) -> float:
        """The simulated time."""
        return self.stage.clock.rightNow

    def callLater(self, delay: float, call: Callable[..., object], *args: object) -> Any:
        """A call that vanishes with the node."""
        if self.dead:
            return _Never()
        return self.stage.clock.callLater(delay, self._run, call, args)

    def _run(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        if not self.dead:
            call(*args)

    def act(self) -> bool:
        """Asked before every effect on the world: False when the node is dead, or dies just now."""
        self.effects += 1
        if self.last_effect is not None and self.effects > self.last_effect and not self.dead and self.dies:
            self.dies()
        return not self.dead

    def kill(self) -> None:
        """All timers vanish."""
        self.dead = True
        self.stage.clock.drop(self)


@define(eq=False)
class NodeLoop(TwistedLoop):
    """One node's tasks. Those of a dead node end without a word, whenever Python finds them."""

    node: NodeClock = field(kw_only=True)

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Runs the coroutine; its errors count as long as the node lives."""
        Deferred.fromCoroutine(work).addErrback(self._failed, what)

    def _failed(self, failure: Failure, what: str) -> None:
        if not self.node.dead:
            self._log.failure("{what} failed", failure, what=what)
