"""The stores under contract: each test that takes `store` runs against every adapter of the ports.

A store under test is seen by two nodes. For MongoDB these are two links to one replica set; in memory and in
SQLite, which serve a single process, both are the same object.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from eftchat import mongo, sqlite
from eftchat.domain.messages import Message
from eftchat.ports import Members, Messages
from eftchat.testing.memory import MemoryMembers, MemoryMessages
from eftchat.testing.mongod import ReplicaSet

BOUND = 60.0
"""Seconds that one test may take."""

_databases = itertools.count()


@attrs.define
class Store:
    """A store as two nodes see it."""

    kind: str
    messages: Messages
    members: Members
    other_messages: Messages
    other_members: Members
    _reopen: Callable[[], Awaitable[Any]] | None = None

    async def reopen(self) -> None:
        """Closes the store and opens it again (not for the one in memory)."""
        assert self._reopen is not None
        again = await self._reopen()
        self.messages, self.members = again.messages, again.members


def pytest_itemcollected(item: pytest.Item) -> None:
    """Bounds every asynchronous test in time."""
    if isinstance(item, pytest.Function) and getattr(item.obj, "_pytest_twisted_mark", None) == "async_test":
        test = item.obj

        @functools.wraps(test)
        def bounded(**arguments: Any) -> Deferred[None]:
            return Deferred.fromCoroutine(test(**arguments)).addTimeout(BOUND, reactor)

        item.obj = bounded


@pytest.fixture(scope="session")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Three members, started once. Without a mongod this fails, and says how to get one."""
    started = ReplicaSet.start(tmp_path_factory.mktemp("mongod"))
    yield started
    started.stop()


@pytest_twisted.async_yield_fixture(params=["memory", "sqlite", "mongo"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store."""
    opened: list[Any] = []

    async def remember(opening: Awaitable[Any]) -> Any:
        opened.append(await opening)
        return opened[-1]

    if request.param == "memory":
        messages, members = MemoryMessages(), MemoryMembers(reactor.seconds)
        yield Store("memory", messages, members, messages, members)
    elif request.param == "sqlite":

        async def reopen() -> Any:
            for each in opened:
                await each.close()
            opened.clear()
            return await remember(sqlite.connect(reactor, tmp_path / "data"))

        one = await reopen()
        yield Store("sqlite", one.messages, one.members, one.messages, one.members, reopen)
    else:
        uri = database_uri(request.getfixturevalue("replica_set"))

        async def connect() -> Any:
            return await remember(mongo.connect(reactor, uri))

        one, two = await connect(), await connect()
        yield Store("mongo", one.messages, one.members, two.messages, two.members, connect)
    for each in opened:
        await each.close()


def database_uri(replica_set: ReplicaSet) -> str:
    """The set's URI with a database nobody has used."""
    return replica_set.uri.replace("/?", f"/contract{next(_databases)}?")


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Waits for something to become true, by asking again and again, for 10 s at most."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        deadline = reactor.seconds() + 10
        while not await condition():
            assert reactor.seconds() < deadline, "did not happen in time"
            await deferLater(reactor, 0.02)

    return wait


@pytest.fixture
def message() -> Callable[..., Message]:
    """Makes messages: `message("room", 7)`; the uuid follows from room and seq unless it is given."""

    def make(room: str, seq: int, uuid: str | None = None, **fields: Any) -> Message:
        body = fields.pop("body", {"text": f"message {seq}"})
        at = fields.pop("at", 1_700_000_000_000)
        return Message(room, seq, uuid or f"{room}-{seq}", "text", "ann", "Ann", at, body)

    return make
