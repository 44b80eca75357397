"""The Crossbar.io router as a child process: configured, started, watched, started again, never left behind.

    RouterSettings -> render -> cbdir/config.json -> leash -> crossbar (controller -> worker)

Crossbar is a program here, not a library: nothing of it is imported, and a node that talks to routers
elsewhere does not need it installed.

*Theory of operation.* The first start is a question with an answer: `ready` fires, or fails with a
`RouterUnavailable` that says what to do. From then on the router is kept alive: whenever it ends unasked it
is started again, after a delay with full jitter that grows while it does not stay up. What cannot be left to
this process is done by the leash (see its docstring): crossbar lives in a session of its own, so that a
Ctrl-C reaches only the node, and it dies with the process that holds this object, also by kill -9.

*Ready* means: `/ws-ready` shows the random name given to this very start, so that another program on the port
is never taken for ours. Crossbar opens the nodes' listener before the clients' one, and the paths of that in
alphabetical order: when `/ws-ready` answers, all else is there.

The nodes' ticket goes to the router through its environment; it is in no file and on no command line.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.resources
import json
import os
import re
import shutil
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from importlib.resources.abc import Traversable
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from eftchat.domain.backoff import full_jitter
from eftchat.wamp.router_settings import RouterSettings, RouterUnavailable, load_template, render

__all__ = ["RouterProcess", "RouterSettings", "RouterUnavailable", "explain", "find_crossbar", "render"]

TICKET_VARIABLE = "EFTCHAT_NODE_TICKET"

_OURS = "EFTCHAT_"
_KEPT_LINES = 200
_LONGEST_LINE = 4096
_READY_PATH = "/ws-ready"
_PROBE_TIMEOUT = 2.0
_STABLE_AFTER = 30.0
_CANNOT_LISTEN = re.compile(r"Couldn't listen on (?P<interface>\S+):(?P<port>\d+): (?P<why>.*)")
_INVALID = re.compile(r"\bInvalid [\w ]+ configuration: (?P<why>.+)")
_GOING = re.compile(r"received SIGTERM|Received SIGTERM")
_LOG_PREFIX = re.compile(r"^\S+ \[\w+ +\d+\] ?")


def explain(lines: Iterable[str], ending: str) -> str:
    """Why a router ended, in one sentence, from the last lines it wrote and from how its process ended."""
    said = [_LOG_PREFIX.sub("", line).strip() for line in lines]
    for line in said:
        if found := _CANNOT_LISTEN.search(line):
            if "in use" in found["why"]:
                return f"port {found['port']} on {found['interface']} is taken by another program"
            why = found["why"].rstrip(".")
            return f"the router cannot listen on {found['interface']}:{found['port']} ({why})"
        if "already running from node directory" in line:
            return line.rstrip(".")
        if found := _INVALID.search(line):
            return f"Crossbar refuses its configuration: {found['why']}"
    for line, following in pairwise(said):
        if line == "Invalid node configuration" and following:
            return f"Crossbar refuses its configuration: {following}"
    last = next((line for line in reversed(said) if line and not _GOING.search(line)), "nothing")
    return f"the router ended ({ending}); its last words: {last}"


def find_crossbar(path: str | None, python: str = sys.executable) -> Path:
    """The crossbar program: beside the running Python, else on `path`. RouterUnavailable if nowhere."""
    beside = Path(python).parent / "crossbar"
    if os.access(beside, os.X_OK):
        return beside
    if found := shutil.which("crossbar", path=path or os.defpath):
        return Path(found)
    raise RouterUnavailable("crossbar is not installed: pip install 'eftchat[router]'")


def refuse_taken(interface: str, port: int) -> None:
    """RouterUnavailable, with the reason, if nobody could listen there now: seconds sooner than crossbar."""
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((interface, port))
        except OSError as refused:
            if refused.errno == errno.EADDRINUSE:
                why = f"port {port} on {interface} is taken by another program"
            else:
                why = f"the router cannot listen on {interface}:{port} ({refused.strerror})"
            raise RouterUnavailable(why) from refused


class _Output(ProcessProtocol):
    """What the leashed router writes, cut into lines; and its end."""

    transport: Any  # IProcessTransport, once it runs

    def __init__(self, on_line: Callable[[str], None], on_end: Callable[[_Output, str], None]) -> None:
        self._on_line, self._on_end, self._rest = on_line, on_end, b""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LONGEST_LINE:]
        for line in lines:
            self._on_line(line[:_LONGEST_LINE].decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        signal, status = getattr(reason.value, "signal", None), getattr(reason.value, "status", None)
        self._on_end(self, f"signal {signal}" if signal is not None else f"status {status}")


class _Question(Protocol):
    """One GET; `answer` fires with all that came back, head and body, once the other side has closed."""

    transport: Any  # ITCPTransport, once connected

    def __init__(self, path: str) -> None:
        self._path, self._heard = path, b""
        self.answer: Deferred[bytes] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        self.transport.write(f"GET {self._path} HTTP/1.0\r\n\r\n".encode())

    def dataReceived(self, data: bytes) -> None:
        self._heard += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        if not self.answer.called:
            self.answer.callback(self._heard)


def _ignore_state(_state: str, _detail: str) -> None:
    """Nobody wants to know."""


@define(eq=False)
class RouterProcess:
    """One Crossbar router, kept alive from `start` to `stop`.

    The router inherits `environment`, without the node's own settings and secrets in it (`EFTCHAT_*`), plus
    the ticket and `secrets` (variables for its authenticator). `on_state` is told "starting", "ready",
    "died", "restarting", "stopped", with a detail in words; it must not raise. All happens in the reactor's
    thread.
    """

    reactor: Any  # IReactorProcess, IReactorTCP and IReactorTime in one
    settings: RouterSettings
    ticket: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    rng: Random = field(repr=False)
    on_state: Callable[[str, str], None] = _ignore_state
    secrets: Mapping[str, str] = field(factory=dict, repr=False)
    template_folder: Traversable | None = None
    grace: float = 5.0
    start_timeout: float = 90.0

    _log: Logger = field(factory=Logger, init=False, repr=False)
    _lines: deque[str] = field(factory=lambda: deque(maxlen=_KEPT_LINES), init=False, repr=False)
    _waiting: list[Deferred[None]] = field(factory=list, init=False, repr=False)
    _stopped: list[Deferred[None]] = field(factory=list, init=False, repr=False)
    _output: _Output | None = field(default=None, init=False, repr=False)
    _probing: Deferred[None] | None = field(default=None, init=False, repr=False)
    _restart: IDelayedCall | None = field(default=None, init=False, repr=False)
    _failure: RouterUnavailable | None = field(default=None, init=False, repr=False)
    _verdict: str = field(default="", init=False, repr=False)
    _instance: str = field(default="", init=False)
    _ready_since: float | None = field(default=None, init=False)
    _was_ready: bool = field(default=False, init=False)
    _attempt: int = field(default=0, init=False)

    @property
    def lines(self) -> list[str]:
        """The last lines the router wrote, over all its starts, oldest first."""
        return list(self._lines)

    @property
    def pid(self) -> int | None:
        """The leash's process id while one runs; its only child is the router."""
        running = self._output.transport if self._output is not None else None
        return None if running is None else int(running.pid)

    @property
    def ready(self) -> Deferred[None]:
        """Fires when the router serves: at once, or at its next start. Each reading gives a new Deferred.

        Fails with RouterUnavailable when the first start failed or the router was stopped.
        """
        if self._failure is not None:
            return fail(self._failure)
        if self._ready_since is not None:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        return waiter

    def start(self) -> None:
        """Begin; once in the life of this object.

        RouterUnavailable says what can be seen at once: crossbar is not installed, its directory cannot be
        written, a port is taken. `ready` says the rest.
        """
        if not self.ticket:
            raise ValueError("the nodes' ticket is empty")
        if self._output is not None or self._failure is not None or self._restart is not None:
            raise RuntimeError("a RouterProcess is started once")
        try:
            self._launch()
        except RouterUnavailable as refused:
            self._give_up(refused)
            raise

    def stop(self) -> Deferred[None]:
        """End the router for good: SIGTERM, SIGKILL after the grace. Fires when nothing of it is left."""
        if self._failure is None:
            self._give_up(RouterUnavailable("the router was stopped"))
        if self._restart is not None:
            restart, self._restart = self._restart, None
            restart.cancel()  # type: ignore[misc]  # the interface's methods have no self
            self._tell("stopped", "")
        if self._output is None:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._stopped.append(gone)
        if len(self._stopped) == 1:
            self._signal("TERM")
            backstop = self.reactor.callLater(self.grace + 5.0, self._signal, "KILL")
            gone.addCallback(lambda _: backstop.cancel() if backstop.active() else None)
        return gone

    def _launch(self) -> None:
        """Write the configuration and spawn crossbar on its leash."""
        self._tell("starting", "")
        self._instance = f"{self.rng.getrandbits(64):016x}"
        crossbar = find_crossbar(self.environment.get("PATH"))
        refuse_taken(self.settings.node_interface, self.settings.node_port)
        refuse_taken(self.settings.client_interface, self.settings.client_port)
        arguments = self._command(crossbar, self._write_config())
        environment = {name: text for name, text in self.environment.items() if not name.startswith(_OURS)}
        environment |= {**self.secrets, TICKET_VARIABLE: self.ticket}
        output = self._output = _Output(self._heard, self._ended)
        self.reactor.spawnProcess(output, arguments[0], arguments, env=environment)
        self._probing = Deferred.fromCoroutine(self._probe(output))
        self._probing.addErrback(self._probe_failed, output)

    def _command(self, crossbar: Path, config: Path) -> list[str]:
        """The leash is found as a file and run as a program: it starts faster so, and it is no import."""
        leash = str(importlib.resources.files("eftchat") / "ops" / "leash.py")
        holding = [sys.executable, "-I", "-S", leash, "--grace", str(self.grace), "--"]
        starting = [str(crossbar), "start", "--cbdir", str(config.parent), "--config", str(config)]
        return [*holding, *starting, "--loglevel", "warn", "--logformat", "standard", "--color", "false"]

    def _write_config(self) -> Path:
        config = render(self.settings, template=load_template(self.template_folder), instance=self._instance)
        folder = self.settings.cbdir.absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / "config.json"
            path.write_text(json.dumps(config, indent=2), "utf-8")
        except OSError as refused:
            why = f"cannot write to the router's directory {folder} ({refused.strerror})"
            raise RouterUnavailable(why) from refused
        return path

    async def _probe(self, output: _Output) -> None:
        """Ask until this start of the router serves, has ended, or has taken too long."""
        deadline = self.reactor.seconds() + self.start_timeout
        for attempt in count():
            serves = await self._serves()
            if output is not self._output or self._stopped:
                return
            if serves:
                return self._became_ready()
            if self.reactor.seconds() >= deadline:
                self._verdict = f"the router did not serve within {self.start_timeout:.0f} s"
                return self._signal("TERM")
            await deferLater(self.reactor, min(0.05 * 1.25 ** min(attempt, 32), 0.5))

    async def _serves(self) -> bool:
        """Whether this very start of the router, and no other program, answers."""
        where = HostnameEndpoint(
            self.reactor, self.settings.client_host, self.settings.client_port, timeout=_PROBE_TIMEOUT
        )
        try:
            question = await connectProtocol(where, _Question(_READY_PATH))
            answer = await question.answer.addTimeout(_PROBE_TIMEOUT, self.reactor)
        except Exception as failed:  # refused, reset, timed out: each means "not yet"
            self._log.debug("the router does not answer yet: {why}", why=repr(failed))
            return False
        return self._instance.encode() in answer

    def _probe_failed(self, failure: Failure, output: _Output) -> None:
        if output is self._output:
            self._log.failure("watching the router's start failed", failure)
            self._signal("TERM")

    def _became_ready(self) -> None:
        self._ready_since, self._was_ready = self.reactor.seconds(), True
        self._tell("ready", self.settings.client_url)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def _heard(self, line: str) -> None:
        self._lines.append(line)
        self._log.debug("router: {line}", line=line)

    def _ended(self, output: _Output, ending: str) -> None:
        """The leash is gone, and the router with it."""
        self._output = None
        stable = self._ready_since is not None and self.reactor.seconds() - self._ready_since >= _STABLE_AFTER
        self._ready_since = None
        if self._probing is not None:
            self._probing.cancel()
        if self._failure is not None:  # stop() or a start given up
            self._tell("stopped", "")
            stopped, self._stopped = self._stopped, []
            for gone in stopped:
                gone.callback(None)
            return
        why, self._verdict = self._verdict or explain(self._lines, ending), ""
        self._died(why, stable)

    def _died(self, why: str, stable: bool) -> None:
        self._tell("died", why)
        if not self._was_ready:
            self._give_up(RouterUnavailable(why))
            return
        self._attempt = 0 if stable else self._attempt + 1
        delay = full_jitter(self._attempt, self.rng, base=0.25, cap=15.0)
        self._tell("restarting", f"in {delay:.1f} s")
        self._restart = self.reactor.callLater(delay, self._start_again)

    def _start_again(self) -> None:
        self._restart = None
        try:
            self._launch()
        except RouterUnavailable as refused:
            self._died(str(refused), stable=False)

    def _give_up(self, failure: RouterUnavailable) -> None:
        self._failure = failure
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(failure)

    def _signal(self, name: str) -> None:
        """To the leash, which sees to the rest."""
        if self._output is not None and self._output.transport is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self._output.transport.signalProcess(name)

    def _tell(self, state: str, detail: str) -> None:
        self._log.info("router {state}: {detail}", state=state, detail=detail, port=self.settings.client_port)
        self.on_state(state, detail)
