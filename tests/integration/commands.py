"""The commands as they are typed: child processes with their output in a file, for tests without a reactor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 60.0


def until(true: Callable[[], Any], what: Callable[[], str] = lambda: "", seconds: float = PATIENCE) -> None:
    """Waits until it is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"did not happen within {seconds} s: {what()}"
        time.sleep(0.05)


class Command:
    """One `eftchat ...`."""

    def __init__(self, output: Path, *words: str, stdin: str = "", **environment: str) -> None:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("EFTCHAT_")}
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "eftchat.cli", *words],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env={**clean, "COLUMNS": "200", **environment},
            )
        self.output = output
        assert self.process.stdin is not None
        self.process.stdin.write(stdin.encode())
        self.process.stdin.close()

    @property
    def said(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def says(self, text: str, seconds: float = PATIENCE) -> None:
        """Waits for the text in its output, while it lives."""
        until(lambda: text in self.said or self.process.poll() is not None, lambda: self.said, seconds)
        assert text in self.said, self.said

    def ends(self, seconds: float = PATIENCE) -> int:
        """Waits for its end; the exit code."""
        return self.process.wait(seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal; the exit code."""
        self.process.send_signal(number)
        return self.ends()

    def family(self) -> list[psutil.Process]:
        """Itself and everything below it."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]


@contextmanager
def commands(folder: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands, and kills at the end those that still run."""
    started: list[Command] = []

    def start(*words: str, **environment: str) -> Command:
        started.append(Command(folder / f"output-{len(started)}", *words, **environment))
        return started[-1]

    try:
        yield start
    finally:
        for command in started:
            if command.process.poll() is None:
                command.process.kill()
                command.process.wait(PATIENCE)


def all_gone(processes: list[psutil.Process], seconds: float = PATIENCE) -> None:
    """Waits until none of them is there any more."""
    _, alive = psutil.wait_procs(processes, seconds)
    assert not alive, [process.cmdline() for process in alive]
