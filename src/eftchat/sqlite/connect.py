"""Opens the embedded store: its folder, its lock, its file and its schema.

Only one process has a data folder open: an flock on `lock` keeps the others out. The kernel drops it with the
process, however that ends, so nothing is left to clean up after a crash. (SQLite's own exclusive mode was
rejected: it also keeps out the `sqlite3` shell, with which an operator may look and back up while we run.)
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any

import attrs

from eftchat.ports import CannotStart
from eftchat.sqlite.database import Database
from eftchat.sqlite.members import SqliteMembers
from eftchat.sqlite.messages import SqliteMessages

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE rooms (id TEXT PRIMARY KEY, name TEXT NOT NULL, epoch TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE messages (
    room TEXT NOT NULL, seq INTEGER NOT NULL, uuid TEXT NOT NULL, kind TEXT NOT NULL, user TEXT NOT NULL,
    name TEXT NOT NULL, at INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (room, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX messages_uuid ON messages (room, uuid);
CREATE TABLE first_joined (
    room TEXT NOT NULL, user TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (room, user)
) WITHOUT ROWID;
"""

# Claims hang on connections of this process: they end with it, so they need no disk.
_PRESENCE = """
CREATE TEMP TABLE ids (id TEXT PRIMARY KEY, node TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE leases (node TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE holds (
    room TEXT NOT NULL, folded TEXT NOT NULL, holder TEXT NOT NULL, user TEXT NOT NULL, name TEXT NOT NULL,
    node TEXT NOT NULL, session TEXT NOT NULL, cut INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room, folded, holder)
) WITHOUT ROWID;
CREATE INDEX temp.holds_node ON holds (node);
CREATE INDEX temp.holds_session ON holds (session);
"""


class StoreUnusable(CannotStart):
    """The data folder cannot be used as it is; the text says what is wrong with it."""


class StoreInUse(StoreUnusable):
    """Another process has the data folder open."""


@attrs.define
class SqliteStore:
    """The open embedded store. `close` ends it; the ports are not to be called afterwards."""

    messages: SqliteMessages
    members: SqliteMembers
    _database: Database
    _lock: int

    async def close(self) -> None:
        """Finishes the work under way, closes the file and frees the folder for others."""
        try:
            await self._database.close()
        finally:
            os.close(self._lock)


async def connect(reactor: Any, folder: Path) -> SqliteStore:
    """The store whose data is in `folder`, made when it is not there.

    Raises StoreInUse when another process (or this one) has it open, StoreUnusable when the folder cannot be
    made or written or holds something else.
    """
    lock = _locked(folder)
    database = Database(reactor, folder / "eftchat.sqlite3")
    try:
        await database.open(_prepare)
    except sqlite3.Error as error:
        os.close(lock)
        raise StoreUnusable(f"The data folder {folder} cannot be used: {error}") from None
    except BaseException:
        os.close(lock)
        raise
    return SqliteStore(SqliteMessages(database), SqliteMembers(database, reactor.seconds), database, lock)


def _locked(folder: Path) -> int:
    """A file descriptor that holds the folder's lock until it is closed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnusable(f"The data folder {folder} cannot be made or written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise StoreInUse(
            f"The data folder {folder} is in use by process {owner or 'unknown'}: choose another"
        ) from None
    except OSError as error:
        os.close(lock)
        raise StoreUnusable(f"The data folder {folder} cannot be locked: {error.strerror}") from None
    return lock


def _prepare(connection: sqlite3.Connection) -> None:
    """Durability settings and schema. Runs in the store's thread, outside a transaction."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA temp_store=MEMORY")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreUnusable(f"The data was written by a newer eftchat (schema {version}): upgrade this one")
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    connection.executescript(_PRESENCE)
