"""The port `Messages` on SQLite. One batch is one transaction, so one wait for the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
import msgspec

from eftchat.domain.messages import Message, Room
from eftchat.ports import Appended
from eftchat.sqlite.database import Database

_COLUMNS = "room, seq, uuid, kind, user, name, at, body"
_TAKEN: Mapping[str, Literal["seq", "uuid"]] = {
    "SQLITE_CONSTRAINT_PRIMARYKEY": "seq",
    "SQLITE_CONSTRAINT_UNIQUE": "uuid",
}


@attrs.define
class SqliteMessages:
    """The logs of all rooms in one file. What is answered is on the disk."""

    _database: Database

    async def open(self, room: str, name: str, epoch: str) -> Room:
        def work(connection: sqlite3.Connection) -> Room:
            connection.execute("INSERT OR IGNORE INTO rooms VALUES (?, ?, ?)", (room, name, epoch))
            query = "SELECT id, name, epoch FROM rooms WHERE id = ?"
            return Room(*connection.execute(query, (room,)).fetchone())

        return await self._database.run(work)

    async def append(self, batch: Sequence[Message]) -> Appended:
        def work(connection: sqlite3.Connection) -> Appended:
            before = connection.total_changes
            insert = f"INSERT INTO messages ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            try:
                connection.executemany(insert, map(_row, batch))
            except sqlite3.IntegrityError as error:
                # Undone is only the row that collided: those before it stay in the transaction.
                return Appended(connection.total_changes - before, _TAKEN[error.sqlite_errorname])
            return Appended(len(batch))

        return await self._database.write(work)

    async def find(self, room: str, uuids: Sequence[str]) -> Mapping[str, Message]:
        def work(connection: sqlite3.Connection) -> dict[str, Message]:
            found: dict[str, Message] = {}
            for uuid in uuids:
                query = f"SELECT {_COLUMNS} FROM messages WHERE room = ? AND uuid = ?"
                found.update((uuid, _message(row)) for row in connection.execute(query, (room, uuid)))
            return found

        return await self._database.run(work)

    async def heads(self, rooms: Sequence[str]) -> Mapping[str, int]:
        def work(connection: sqlite3.Connection) -> dict[str, int]:
            query = "SELECT coalesce(max(seq), 0) FROM messages WHERE room = ?"
            return {room: connection.execute(query, (room,)).fetchone()[0] for room in rooms}

        return await self._database.run(work)

    async def after(self, room: str, seq: int, limit: int) -> list[Message]:
        query = f"SELECT {_COLUMNS} FROM messages WHERE room = ? AND seq > ? ORDER BY seq LIMIT ?"
        return await self._page(query, room, seq, limit)

    async def before(self, room: str, seq: int, limit: int) -> list[Message]:
        query = f"SELECT {_COLUMNS} FROM messages WHERE room = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
        return (await self._page(query, room, seq, limit))[::-1]

    async def _page(self, query: str, room: str, seq: int, limit: int) -> list[Message]:
        def work(connection: sqlite3.Connection) -> list[Message]:
            return _messages(connection.execute(query, (room, seq, max(0, limit))))

        return await self._database.run(work)


def _row(message: Message) -> tuple[Any, ...]:
    return (
        message.room,
        message.seq,
        message.uuid,
        message.kind,
        message.user,
        message.name,
        message.at,
        msgspec.json.encode(dict(message.body)),
    )


def _messages(rows: Iterable[tuple[Any, ...]]) -> list[Message]:
    return [_message(row) for row in rows]


def _message(row: tuple[Any, ...]) -> Message:
    *head, body = row
    return Message(*head, msgspec.json.decode(body))  # type: ignore[call-arg]  # as many as _COLUMNS
