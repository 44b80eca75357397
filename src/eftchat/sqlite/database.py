"""One SQLite connection in a thread of its own: waiting for the disk never holds up the reactor.

Every piece of work is one transaction, in the order in which it was asked for. What a caller is told after it
is on the disk (`synchronous=FULL` in WAL mode: each commit is an fsync).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from eftchat.domain.errors import Unavailable
from eftchat.ports import OutcomeUnknown

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@attrs.define(eq=False)
class Database:
    """The connection and its thread."""

    _reactor: Any
    _path: Path
    _pool: ThreadPool = attrs.field(factory=lambda: ThreadPool(1, 1, "sqlite"), init=False)
    _connection: sqlite3.Connection | None = attrs.field(default=None, init=False)
    _at_exit: Any = attrs.field(default=None, init=False)

    async def open(self, prepare: Callable[[sqlite3.Connection], None]) -> None:
        """Connects and runs `prepare`; when that raises, nothing is left open."""
        self._pool.start()
        # A store that nobody closed must not keep the process from ending.
        self._at_exit = self._reactor.addSystemEventTrigger("after", "shutdown", self._pool.stop)
        try:
            await deferToThreadPool(self._reactor, self._pool, self._connect, prepare)
        except BaseException:
            await self.close()
            raise

    async def run(self, work: Work[T]) -> T:
        """What `work` answers, committed; for work that may be repeated. Raises Unavailable otherwise."""
        try:
            return await self.write(work)
        except OutcomeUnknown as error:
            raise Unavailable("The store refuses") from error

    async def write(self, work: Work[T]) -> T:
        """What `work` answers, committed. Raises Unavailable when it was not applied.

        Raises OutcomeUnknown when the commit itself failed: the disk may have it.
        """
        answer: T = await deferToThreadPool(self._reactor, self._pool, self._transact, work)
        return answer

    async def close(self) -> None:
        """Closes the connection behind the work under way and ends the thread."""
        await deferToThreadPool(self._reactor, self._pool, self._disconnect)
        self._reactor.removeSystemEventTrigger(self._at_exit)
        self._pool.stop()

    def _connect(self, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        prepare(self._connection)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transact(self, work: Work[T]) -> T:
        if self._connection is None:
            raise Unavailable("The store is closed")
        try:
            with _Transaction(self._connection):
                return work(self._connection)
        except sqlite3.OperationalError as error:
            raise Unavailable(f"The store refuses: {error}") from error


@attrs.define
class _Transaction:
    """Commits what happens inside, or undoes it when it raises."""

    _connection: sqlite3.Connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._undo()
            return
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as failed:
            self._undo()
            raise OutcomeUnknown(str(failed)) from failed

    def _undo(self) -> None:
        if self._connection.in_transaction:  # some failures (a full disk) have undone it already
            self._connection.execute("ROLLBACK")
