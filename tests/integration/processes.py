"""`eftchat up` as a child process, for tests that start it, kill it and start it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.threads import deferToThread

START_TIMEOUT = 30.0


@define(eq=False)
class Up:
    """One `eftchat up` on ports and a data folder of its own, the same over all its starts."""

    data: Path
    port: int
    router_port: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = field(default=None, init=False)

    @property
    def chat_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/chat"

    @property
    def wamp_url(self) -> str:
        return f"ws://127.0.0.1:{self.router_port}/ws"

    def command(self) -> list[str]:
        given = ["--port", str(self.port), "--router-port", str(self.router_port), "--data", str(self.data)]
        return [sys.executable, "-m", "eftchat.cli", "up", *given, *self.options]

    async def start(self) -> None:
        """Done when raw clients are served."""
        await deferToThread(self._start)

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("Stop:"):
                return
        raise AssertionError("eftchat up did not start:\n" + "".join(said))

    def kill(self) -> None:
        """kill -9, of this process only."""
        assert self.process is not None
        self.process.kill()
        self._close()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code: Any = await deferToThread(self._rest)
        return int(code)

    def _rest(self) -> int:
        assert self.process is not None and self.process.stdout is not None
        self.process.stdout.read()
        return self.process.wait(START_TIMEOUT)

    def _close(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.wait(START_TIMEOUT)
        self.process.stdout.close()
