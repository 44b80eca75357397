"""One process of the cluster: on a leash, so that it cannot outlive this one, with its output in a file."""

from __future__ import annotations

import importlib.resources
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

Kind = Literal["node", "router"]
State = Literal["new", "starting", "up", "leaving", "left", "dead"]

OVERTIME = 5.0
"""Seconds that a process may take longer than its grace before it is killed."""


class Recipe(msgspec.Struct, frozen=True):
    """What a member is: how its command line is made for each of its runs, and where clients find it.

    `url` is the one for clients, `probe` the one that answers 200 when it serves.
    """

    kind: Kind
    number: int
    port: int
    command: Callable[[int], Sequence[str]]
    environment: Mapping[str, str]
    url: str
    probe: str
    grace: float


class _Leash(ProcessProtocol):
    def __init__(self, ended: Callable[[int], None]) -> None:
        self._ended = ended

    def processEnded(self, reason: Failure) -> None:
        number, status = getattr(reason.value, "signal", None), getattr(reason.value, "exitCode", None)
        self._ended(128 + number if number is not None else int(status or 0))


@define(eq=False)
class Member:
    """A node or a router. It keeps its ports over all its runs, and is only started again when asked."""

    reactor: Any
    recipe: Recipe
    log: Path
    state: State = field(default="new", init=False)
    detail: str = field(default="", init=False)
    runs: int = field(default=0, init=False)
    _leash: Any = field(default=None, init=False)
    _pid: int | None = field(default=None, init=False)
    _waiting: list[Deferred[None]] = field(factory=list, init=False)

    @property
    def name(self) -> str:
        """As people call it: "node 2"."""
        return f"{self.recipe.kind} {self.recipe.number}"

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._leash is not None

    @property
    def pid(self) -> int | None:
        """The process itself, not its leash; None while there is none."""
        if self._leash is not None and self._pid is None:
            self._pid = _child_of(int(self._leash.pid))
        return self._pid

    def start(self) -> None:
        """Starts the process; not while one runs."""
        if self.running:
            raise RuntimeError(f"{self.name} runs")
        self.runs += 1
        self.tell("starting", "")
        leash = str(importlib.resources.files("eftchat") / "ops" / "leash.py")
        grace = str(self.recipe.grace + OVERTIME)
        holding = [sys.executable, "-I", "-S", leash, "--grace", grace, "--"]
        command = [*holding, *self.recipe.command(self.runs)]
        with self.log.open("ab") as out:
            self._leash = self.reactor.spawnProcess(
                _Leash(self._ended),
                command[0],
                command,
                env=dict(self.recipe.environment),
                childFDs={0: "w", 1: out.fileno(), 2: out.fileno()},
            )

    def leave(self) -> None:
        """SIGTERM: it has its grace to leave in good order."""
        if self.running:
            self.tell("leaving", "")
            self._signal("TERM")

    def kill(self) -> None:
        """kill -9, of the process itself: it is gone at once, its leash cleans up behind it."""
        if self.running:
            self.detail = "killed"
            if self.pid is None:
                self._signal("KILL")
            else:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def gone(self) -> Deferred[None]:
        """Fires when there is no process (any more)."""
        waiter: Deferred[None] = Deferred()
        if self.running:
            self._waiting.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    def tell(self, state: State, detail: str) -> None:
        """What has become of it."""
        self.state, self.detail = state, detail

    def last_words(self) -> str:
        """The last line of its output."""
        with suppress(OSError):
            lines = self.log.read_text("utf-8", "replace").splitlines()[-20:]
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self._leash.signalProcess(name)

    def _ended(self, status: int) -> None:
        leaving = self.state == "leaving"
        self._leash = self._pid = None
        if leaving and status == 0:
            self.tell("left", "in good order")
        elif self.detail == "killed":
            self.tell("dead", "killed with -9")
        else:
            self.tell("dead", f"status {status}: {self.last_words()}")
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)


def _child_of(pid: int) -> int | None:
    """The only child of a leash, once it has one."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None
    with suppress(OSError):  # no Linux
        found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
        return int(found.stdout.split()[0]) if found.stdout.split() else None
    return None
