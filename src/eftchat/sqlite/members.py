"""The port `Members` on SQLite. Only `first_joined` is on the disk: claims end with the process anyway."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence

import attrs

from eftchat.domain.errors import NameTaken
from eftchat.domain.messages import Claim, Member
from eftchat.sqlite.database import Database

_LIVES = "NOT cut AND node IN (SELECT node FROM leases WHERE until > :now)"
_HERE = "room = :room AND folded = :folded"
_THESE = "session != '' AND session IN (SELECT value FROM json_each(:sessions))"


@attrs.define
class SqliteMembers:
    """Claims on names in tables that live in memory; `seconds` is the clock by which leases run out."""

    _database: Database
    _seconds: Callable[[], float]

    async def enlist(self, id: str, node: str, ttl_ms: int) -> bool:
        now = self._seconds()
        put = """
            INSERT INTO ids VALUES (:id, :node, :until) ON CONFLICT (id)
            DO UPDATE SET node = :node, until = :until WHERE node = :node OR until <= :now"""
        values = {"id": id, "node": node, "until": now + ttl_ms / 1000, "now": now}
        return await self._database.run(lambda c: c.execute(put, values).rowcount == 1)

    async def renew(self, node: str, ttl_ms: int) -> None:
        until = self._seconds() + ttl_ms / 1000
        await self._database.run(
            lambda c: c.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (node, until))
        )

    async def claim(self, claim: Claim) -> bool:
        values = self._values(claim)

        def work(connection: sqlite3.Connection) -> bool:
            query = f"SELECT user FROM holds WHERE {_HERE} AND {_LIVES}"
            living = connection.execute(query, values).fetchall()
            if any(user != claim.member.user for (user,) in living):
                raise NameTaken
            # What the member left behind on dead nodes is no news any more: it is here.
            connection.execute(f"DELETE FROM holds WHERE {_HERE} AND user = :user AND NOT ({_LIVES})", values)
            # A lapsed claim whose name is taken over never lives again, but its end is still to be told.
            connection.execute(f"UPDATE holds SET cut = 1 WHERE {_HERE} AND user != :user", values)
            connection.execute(
                "INSERT OR REPLACE INTO holds (room, folded, holder, user, name, node, session)"
                " VALUES (:room, :folded, :holder, :user, :name, :node, :session)",
                values,
            )
            return not living

        return await self._database.run(work)

    async def release(self, claim: Claim) -> bool:
        values = self._values(claim)

        def work(connection: sqlite3.Connection) -> bool:
            mine = f"{_HERE} AND user = :user"
            one = connection.execute(f"DELETE FROM holds WHERE {mine} AND holder = :holder", values)
            living = connection.execute(f"SELECT 1 FROM holds WHERE {mine} AND {_LIVES}", values).fetchone()
            if not one.rowcount or living:
                return False
            # Dead ones: the member's leaving is told by this answer, not once more by `lapsed`.
            connection.execute(f"DELETE FROM holds WHERE {mine}", values)
            return True

        return await self._database.run(work)

    async def present(self, room: str) -> list[Member]:
        living = f"SELECT user, name FROM holds WHERE room = :room AND {_LIVES}"
        query = f"{living} GROUP BY folded ORDER BY name, user"
        values = {"room": room, "now": self._seconds()}
        return await self._database.run(lambda c: [Member(*row) for row in c.execute(query, values)])

    async def held(self, sessions: Sequence[str]) -> list[Claim]:
        return await self._kept(_THESE, {"sessions": json.dumps(sessions)})

    async def hanging(self, node: str) -> list[Claim]:
        return await self._kept("node = :node", {"node": node})

    async def adopt(self, sessions: Sequence[str], node: str) -> None:
        values = {"sessions": json.dumps(sessions), "node": node}
        move = f"UPDATE holds SET node = :node WHERE NOT cut AND {_THESE}"
        await self._database.run(lambda c: c.execute(move, values).rowcount)

    async def _kept(self, which: str, values: dict[str, str]) -> list[Claim]:
        """The claims that nobody took over."""
        columns = "room, folded, user, name, holder, node, session"
        query = f"SELECT {columns} FROM holds WHERE NOT cut AND {which}"
        return await self._database.run(lambda c: [_claim(*row) for row in c.execute(query, values)])

    async def forget(self, node: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM ids WHERE node = ?", (node,))
            connection.execute("DELETE FROM leases WHERE node = ?", (node,))
            connection.execute("DELETE FROM holds WHERE node = ?", (node,))

        await self._database.run(work)

    async def lapsed(self) -> list[Claim]:
        values = {"now": self._seconds()}
        last = f"""
            SELECT room, folded, user, name, max(holder), node, session FROM holds AS dead
            WHERE NOT ({_LIVES}) AND NOT EXISTS (
                SELECT 1 FROM holds
                WHERE room = dead.room AND folded = dead.folded AND user = dead.user AND {_LIVES}
            ) GROUP BY room, folded, user"""

        def work(connection: sqlite3.Connection) -> list[Claim]:
            rows = connection.execute(last, values).fetchall()
            connection.execute(f"DELETE FROM holds WHERE NOT ({_LIVES})", values)
            connection.execute("DELETE FROM leases WHERE until <= :now", values)
            return [_claim(*row) for row in rows]

        return await self._database.run(work)

    async def first_joined(self, room: str, user: str, seq: int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            connection.execute("INSERT OR IGNORE INTO first_joined VALUES (?, ?, ?)", (room, user, seq))
            query = "SELECT seq FROM first_joined WHERE room = ? AND user = ?"
            kept: int = connection.execute(query, (room, user)).fetchone()[0]
            return kept

        return await self._database.run(work)

    def _values(self, claim: Claim) -> dict[str, object]:
        return {
            "room": claim.room,
            "folded": claim.folded,
            "holder": claim.holder,
            "node": claim.node,
            "session": claim.session,
            "user": claim.member.user,
            "name": claim.member.name,
            "now": self._seconds(),
        }


def _claim(room: str, folded: str, user: str, name: str, *rest: str) -> Claim:
    """A row as the claim that it is."""
    return Claim(room, folded, Member(user, name), *rest)
