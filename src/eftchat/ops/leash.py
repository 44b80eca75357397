"""Run a program that cannot outlive the one who started it.

    python -m eftchat.ops.leash [--grace SECONDS] -- COMMAND [ARGUMENT ...]

The command runs in a session (and process group) of its own, with /dev/null as its input; its output goes
where the leash's output goes. Whoever holds the other end of the leash's stdin holds the leash:

===============================  ==========================================================================
what happens                     what the leash does
===============================  ==========================================================================
stdin ends (the holder died,     SIGTERM to the command; when it has gone, or after the grace, SIGKILL to
even by kill -9), or SIGTERM     what is left of its group
Ctrl-C, quit, hang-up            nothing: these go to the holder as well, who decides what happens
the command ends by itself       SIGKILL to what it left behind in its group
the leash itself is killed -9    the kernel sends the command SIGKILL (PR_SET_PDEATHSIG; Linux only), and
                                 its children find their pipes closed
===============================  ==========================================================================

When the leash ends, the group is empty (on Linux; elsewhere its last members may still be dying).

A terminal's signals go to all of its foreground process group. The command is not in it, and the leash does
not care: so a program that is told to go can still talk to its child before it ends it.

The exit status is the command's own, 128 + n if signal n ended it, 127 if it could not be started. What
leaves its session on purpose (a daemon) is out of reach; the leash is for programs that do not.

Standard library only, and no import of this project: it must start in a few hundredths of a second, also by
path (``python -I -S leash.py -- ...``), next to programs that take seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_USAGE = "usage: leash [--grace SECONDS] -- COMMAND [ARGUMENT ...]"
_DEFAULT_GRACE = 5.0
_LONGEST_GRACE = 3600
_NOT_STARTED = 127
_OF_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def main(argv: list[str]) -> int:
    """Run the command that `argv` (without the program's name) asks for; return the exit status to use."""
    try:
        grace, command = parse(argv)
    except ValueError as bad:
        print(f"leash: {bad}\n{_USAGE}", file=sys.stderr)
        return 2
    wake = _catch_signals()
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_bind_to_kernel(os.getpid())
        )
    except (OSError, subprocess.SubprocessError) as failed:
        print(f"leash: cannot start {command[0]}: {failed}", file=sys.stderr)
        return _NOT_STARTED
    return _hold(child.pid, wake, grace)


def parse(argv: list[str]) -> tuple[float, list[str]]:
    """The grace in seconds and the command. ValueError says what is wrong with `argv`."""
    if "--" not in argv:
        raise ValueError("the command must follow --")
    at = argv.index("--")
    options, command = argv[:at], argv[at + 1 :]
    if not command:
        raise ValueError("no command after --")
    if not options:
        return _DEFAULT_GRACE, command
    name, *value = options
    if name != "--grace" or len(value) != 1:
        raise ValueError(f"unknown option {name}")
    grace = float(value[0])
    if not 0 <= grace <= _LONGEST_GRACE:
        raise ValueError(f"the grace is 0 to {_LONGEST_GRACE} seconds")
    return grace, command


def _catch_signals() -> int:
    """Turn the signals that matter into bytes on a pipe; return the end to read from.

    Installed before the command starts, so that its death cannot be missed. Handlers (unlike SIG_IGN) are not
    inherited through exec: the command starts with the default for each.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(read_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM, *_OF_THE_TERMINAL):
        signal.signal(number, lambda _number, _frame: None)
    return read_end


def _bind_to_kernel(parent: int) -> Callable[[], None] | None:
    """Inherit the command's orphans from now on; return what the child has to do between fork and exec.

    The child asks the kernel for SIGKILL when the leash dies. Linux only; elsewhere None, and neither.
    """
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # here, and before the fork: only Linux pays for it, and the child only calls

    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def _hold(pid: int, wake: int, grace: float) -> int:
    """Wait until the command has ended, by itself or because the leash was pulled; leave nothing behind."""
    stdin = sys.stdin.fileno() if sys.stdin is not None else -1
    watched = [wake] if stdin < 0 else [wake, stdin]
    pulled = False
    while not _has_ended(pid):
        readable = select.select(watched, [], [])[0]
        signals = _read(wake) if wake in readable else b""
        if signal.SIGALRM in signals:
            break
        let_go = stdin in readable and not _read(stdin)
        if let_go:
            watched.remove(stdin)
        if not pulled and (let_go or signal.SIGTERM in signals):
            pulled = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, max(grace, 0.001))
    return _finish(pid)


def _has_ended(pid: int) -> bool:
    """Whether the child has ended, without reaping it: its id, and its group's, stay ours until `_finish`."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _finish(pid: int) -> int:
    """SIGKILL to all that is left in the group; wait until it is empty; return the status to exit with."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(ChildProcessError):
        while True:  # its orphans are ours: their ports and files are free when we say that it is over
            os.waitpid(-pid, 0)
    return code if code >= 0 else 128 - code


def _read(descriptor: int) -> bytes:
    """What is there now; nothing means the end (for the wake pipe: nothing yet)."""
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""
    except OSError:  # a terminal that went away
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
