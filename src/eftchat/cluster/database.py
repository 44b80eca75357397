"""The cluster's own MongoDB replica set: real processes that end with this one, steered from a thread of its own.

The kernel kills a mongod when the thread that started it ends (see `testing.mongod`): so one thread does it all, and
lives as long as the set.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from eftchat.mongo.look import look
from eftchat.ports import CannotStart
from eftchat.testing.mongod import Mongod, NoMongod, NotReady, ReplicaSet

T = TypeVar("T")

LOOK = 0.7
PRIMARY_WITHIN = 15.0


class Seen(msgspec.Struct, frozen=True):
    """How one member does."""

    number: int
    port: int
    pid: int | None
    state: str
    """"primary", "secondary", "starting", "dead" or "left"."""


@define(eq=False)
class Database:
    """A replica set of three."""

    reactor: Any
    folder: Path
    size: int = 3
    _pool: ThreadPool = field(factory=lambda: ThreadPool(1, 1, "mongod"), init=False)
    _set: ReplicaSet | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    async def start(self) -> str:
        """The URI, when a majority takes writes. Raises CannotStart."""
        self._pool.start()
        # A cluster that nobody stopped must not keep the process from ending.
        self.reactor.addSystemEventTrigger("after", "shutdown", self._end)

        def begin() -> None:
            self._set = ReplicaSet.start(self.folder, self.size)

        try:
            await self._run(begin)
        except (NoMongod, NotReady) as error:
            raise CannotStart(f"MongoDB: {error} (or give --mongodb URI)") from None
        return self.members.uri

    @property
    def members(self) -> ReplicaSet:
        """The set, once started."""
        assert self._set is not None
        return self._set

    async def kill(self, number: int | None) -> int:
        """kill -9 of a member, or of the primary; which one it was."""

        def work() -> int:
            members = self.members.members
            member = self._numbered(number) if number else self.members.primary(PRIMARY_WITHIN)
            self.members.kill(member)
            return members.index(member) + 1

        return await self._run(work)

    async def restart(self, number: int) -> None:
        """The member comes back with its data; one that runs is killed first."""
        member = self._numbered(number)
        await self._run(lambda: self.members.restart(member))

    async def seen(self) -> list[Seen]:
        """How all members do."""
        if self._set is None:
            return []
        members = self.members.members
        if self._stopped:
            return [Seen(number, member.port, None, "left") for number, member in enumerate(members, 1)]
        hosts = [("127.0.0.1", member.port) for member in members if member.running]
        said = {seen.host[1]: seen.hello for seen in await look(self.reactor, hosts, LOOK)}
        return [
            Seen(number, member.port, member.pid, _state(member, said.get(member.port)))
            for number, member in enumerate(members, 1)
        ]

    async def stop(self) -> None:
        """Ends all members; the data stays."""

        def end() -> None:
            if self._set is not None:
                self._set.stop()

        if not self._stopped and self._pool.started:
            await self._run(end)
        self._end()

    def _end(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._pool.stop()

    def _numbered(self, number: int) -> Mongod:
        return self.members.members[number - 1]

    def _run(self, work: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self.reactor, self._pool, work)


def _state(member: Mongod, hello: dict[str, Any] | None) -> str:
    if not member.running:
        return "dead"
    if hello and hello.get("ismaster"):
        return "primary"
    return "secondary" if hello and hello.get("secondary") else "starting"
