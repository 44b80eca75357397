"""The leash ends what it holds, whole, whoever dies first; shown with small shell commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LEASH = Path(__file__).parents[2] / "src" / "eftchat" / "ops" / "leash.py"
PATIENCE = 10.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Held:
    """A leashed shell command, which writes its pids, one a line, to the file that it finds in $PIDS."""

    def __init__(self, folder: Path, script: str, grace: float) -> None:
        self.file = folder / "pids"
        self.file.touch()
        command = [sys.executable, "-I", "-S", str(LEASH), "--grace", str(grace), "--", "sh", "-c", script]
        environment = {**os.environ, "PIDS": str(self.file)}
        self.leash = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)

    def pids(self, number: int) -> list[int]:
        until(lambda: self.file.read_text().count("\n") == number)
        return [int(line) for line in self.file.read_text().split()]

    def status(self) -> int:
        return self.leash.wait(PATIENCE)

    def let_go(self) -> None:
        assert self.leash.stdin is not None
        self.leash.stdin.close()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Held]]:
    held: list[Held] = []

    def start(script: str, grace: float = PATIENCE) -> Held:
        held.append(Held(tmp_path, script, grace))
        return held[-1]

    yield start
    for one in held:
        one.leash.kill()
        one.leash.wait(PATIENCE)
        one.let_go()


TWO = "sleep 1000 & echo $! >> $PIDS; echo $$ >> $PIDS; wait"
STUBBORN = "trap '' TERM; " + TWO + "; wait"


def test_the_status_is_the_commands_own(hold: Callable[..., Held]) -> None:
    assert hold("exit 7").status() == 7


def test_death_by_a_signal_is_told_as_shells_do(hold: Callable[..., Held]) -> None:
    assert hold("kill -KILL $$").status() == 128 + signal.SIGKILL


def test_the_command_hears_nothing_on_its_input(hold: Callable[..., Held]) -> None:
    assert hold("read line && exit 1; exit 5").status() == 5


@pytest.mark.parametrize("script", [TWO, STUBBORN])
def test_letting_go_ends_the_command_and_its_children(hold: Callable[..., Held], script: str) -> None:
    held = hold(script, grace=0.3)
    pids = held.pids(2)
    held.let_go()
    assert held.status() in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
    assert not any(map(alive, pids))


def test_a_command_that_cleans_up_on_sigterm_is_given_the_time(hold: Callable[..., Held]) -> None:
    held = hold("trap 'exit 9' TERM; echo $$ >> $PIDS; while :; do sleep 0.01; done")
    held.pids(1)
    held.leash.terminate()
    assert held.status() == 9


def test_what_a_command_leaves_behind_goes_with_it(hold: Callable[..., Held]) -> None:
    held = hold("sleep 1000 & echo $! >> $PIDS; exit 3")
    assert held.status() == 3
    assert not any(map(alive, held.pids(1)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_killing_the_leash_kills_the_command(hold: Callable[..., Held]) -> None:
    held = hold("echo $$ >> $PIDS; exec sleep 1000")
    [pid] = held.pids(1)
    held.leash.kill()
    until(lambda: not alive(pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_what_a_terminal_says_is_for_the_holder(hold: Callable[..., Held], number: int) -> None:
    held = hold("echo $$ >> $PIDS; exec sleep 1000")
    [pid] = held.pids(1)
    held.leash.send_signal(number)
    held.leash.send_signal(signal.SIGCHLD)
    with pytest.raises(subprocess.TimeoutExpired):
        held.leash.wait(0.1)
    assert alive(pid)


def test_the_command_is_in_a_session_of_its_own(hold: Callable[..., Held]) -> None:
    held = hold(TWO)
    child, shell = held.pids(2)
    assert os.getsid(child) == os.getsid(shell) == os.getpgid(child) == shell


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["true"], 2, "must follow --"),
        (["--"], 2, "no command"),
        (["--grace", "x", "--", "true"], 2, "could not convert"),
        (["--grace", "-1", "--", "true"], 2, "0 to 3600"),
        (["--hurry", "--", "true"], 2, "unknown option --hurry"),
        (["--", "/no/such/program"], 127, "cannot start /no/such/program"),
    ],
)
def test_what_cannot_be_run_is_said(arguments: list[str], status: int, said: str) -> None:
    command = [sys.executable, "-m", "eftchat.ops.leash", *arguments]
    done = subprocess.run(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(LEASH.parents[2])},
    )
    assert done.returncode == status
    assert said in done.stderr
