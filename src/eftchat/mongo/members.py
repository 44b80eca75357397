"""The port `Members` on MongoDB.

All holds on one name in one room are one document, so that a name has one owner: a document per connection
under any unique index could not say "several connections, but one user". It is changed by compare-and-swap on
its `version`, a fresh ObjectId with each write: after a write of unknown outcome a look at the version tells
whether it was applied, so that a member's coming and going is answered exactly once.

Ids and leases are compared with the server's clock (`$$NOW`); the clocks of the nodes do not matter. A document is
read before its leases, in one aggregation: a claim that is seen implies that the renewal before it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
import msgspec
from bson import ObjectId
from twisted.internet.defer import Deferred, DeferredList

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Claim, Member
from eftchat.mongo.documents import (
    Document,
    Hold,
    Holds,
    Place,
    claimed,
    cleared,
    from_holds,
    released,
    to_place,
)
from eftchat.mongo.link import Link, Lost, NotSent, Refused
from eftchat.mongo.messages import AWAY, certainly, upsert

T = TypeVar("T")
Decide = Callable[[Place], tuple[Holds, T]]

_TRIES = 20
"""Compare-and-swaps before giving up: so many others changed one name in the meantime."""
_AT_ONCE = 32
"""Lapsed names that are cleared side by side."""
_DUPLICATE = 11000
_JOINED: Sequence[Document] = (
    {"$lookup": {"from": "leases", "localField": "holds.lease", "foreignField": "_id", "as": "leases"}},
    {"$set": {"now": "$$NOW"}},
)
_EMPTIED: Document = {"$set": {"emptied": {"$cond": [{"$eq": ["$holds", []]}, "$$NOW", "$$REMOVE"]}}}


@attrs.define
class MongoMembers:
    """Claims on names, shared by all nodes."""

    _link: Link

    async def enlist(self, id: str, node: str, ttl_ms: int) -> bool:
        mine: Document = {"$eq": ["$node", {"$literal": node}]}
        # What is not there sorts before every date: a new document is free.
        free: Document = {"$or": [mine, {"$lte": ["$until", "$$NOW"]}]}
        until: Document = {"$cond": [free, {"$add": ["$$NOW", ttl_ms]}, "$until"]}
        taken: Document = {"$cond": [free, {"$literal": node}, "$node"]}
        found = await certainly(upsert(self._link, "nodes", id, [{"$set": {"node": taken, "until": until}}]))
        return bool(found["node"] == node)

    async def renew(self, node: str, ttl_ms: int) -> None:
        update: list[Document] = [{"$set": {"until": {"$add": ["$$NOW", ttl_ms]}}}]
        await certainly(upsert(self._link, "leases", node, update))

    async def claim(self, claim: Claim) -> bool:
        return await self._swap(claim.room, claim.folded, lambda place: claimed(place, claim))

    async def release(self, claim: Claim) -> bool:
        return await self._swap(claim.room, claim.folded, lambda place: released(place, claim))

    async def present(self, room: str) -> list[Member]:
        documents = await self._places({"room": room})
        living = [place.living() for place in map(to_place, documents)]
        members = [Member(holds[0].user, holds[0].name) for holds in living if holds]
        return sorted(members, key=lambda member: (member.name, member.user))

    async def held(self, sessions: Sequence[str]) -> list[Claim]:
        wanted = set(sessions) - {""}
        claims = await self._kept({"holds.session": {"$in": sorted(wanted)}})
        return [claim for claim in claims if claim.session in wanted]

    async def hanging(self, node: str) -> list[Claim]:
        return [claim for claim in await self._kept({"holds.lease": node}) if claim.node == node]

    async def _kept(self, query: Document) -> list[Claim]:
        """The claims that nobody took over, in the documents that the query finds."""
        command = {"find": "claims", "filter": query, "projection": {"holds": 1}}
        rows = await certainly(self._link.rows(command))
        holds = [(row["_id"], msgspec.convert(hold, Hold)) for row in rows for hold in row["holds"]]
        return [hold.claim(**key) for key, hold in holds if hold.lease is not None]

    async def adopt(self, sessions: Sequence[str], node: str) -> None:
        wanted = sorted(set(sessions) - {""})
        others = {"$elemMatch": {"session": {"$in": wanted}, "lease": {"$nin": [None, node]}}}
        # A hold without a session, or without a lease, is not among these, whatever its type.
        these = {"$and": [{"$in": ["$$this.session", {"$literal": wanted}]}, {"$ne": ["$$this.lease", None]}]}
        moved = {"$mergeObjects": ["$$this", {"$literal": {"node": node, "lease": node}}]}
        each = {"$map": {"input": "$holds", "in": {"$cond": [these, moved, "$$this"]}, "as": "this"}}
        change = {
            "q": {"holds": others},
            "u": [{"$set": {"holds": each, "version": ObjectId()}}],
            "multi": True,
        }
        await certainly(self._link.write({"update": "claims", "updates": [change]}))

    async def forget(self, node: str) -> None:
        others = {"$filter": {"input": "$holds", "cond": {"$ne": ["$$this.node", {"$literal": node}]}}}
        clear = {
            "q": {"holds.node": node},
            "u": [{"$set": {"holds": others, "version": ObjectId()}}, _EMPTIED],
            "multi": True,
        }
        await certainly(self._link.write({"delete": "leases", "deletes": [{"q": {"_id": node}, "limit": 1}]}))
        await certainly(self._link.write({"update": "claims", "updates": [clear]}))
        await certainly(self._link.write({"delete": "nodes", "deletes": [{"q": {"node": node}, "limit": 0}]}))

    async def lapsed(self) -> list[Claim]:
        running = [{"$match": {"$expr": {"$gt": ["$until", "$$NOW"]}}}, {"$project": {"_id": 1}}]
        leases = await certainly(self._link.rows({"aggregate": "leases", "pipeline": running, "cursor": {}}))
        dead = {"holds": {"$elemMatch": {"lease": {"$nin": [lease["_id"] for lease in leases]}}}}
        command = {"find": "claims", "filter": dead, "projection": {"_id": 1}}
        keys = [row["_id"] for row in await certainly(self._link.rows(command))]
        gone: list[Claim] = []
        for start in range(0, len(keys), _AT_ONCE):
            clearing = [Deferred.fromCoroutine(self._clear(**key)) for key in keys[start : start + _AT_ONCE]]
            for succeeded, claims in await DeferredList(clearing, consumeErrors=True):
                gone += claims if succeeded else []  # the next call finds those that failed
        return gone

    async def first_joined(self, room: str, user: str, seq: int) -> int:
        key = {"room": room, "user": user}
        made = await certainly(upsert(self._link, "first_joined", key, {"$setOnInsert": {"seq": seq}}))
        return int(made["seq"])

    async def _clear(self, room: str, folded: str) -> list[Claim]:
        return await self._swap(room, folded, lambda place: cleared(place, room, folded))

    async def _places(self, query: Document) -> list[Document]:
        command = {"aggregate": "claims", "pipeline": [{"$match": query}, *_JOINED], "cursor": {}}
        return await certainly(self._link.rows(command))

    async def _swap(self, room: str, folded: str, decide: Decide[T]) -> T:
        """Changes the holds as `decide` says and returns its answer, as if nobody else did at that time."""
        tried: dict[ObjectId, T] = {}
        for _ in range(_TRIES):
            documents = await self._places({"_id": {"room": room, "folded": folded}})
            place = to_place(documents[0]) if documents else Place()
            if place.version in tried:
                return tried[place.version]
            holds, answer = decide(place)
            if holds == place.holds:
                return answer
            version = ObjectId()
            tried[version] = answer
            try:
                if await self._replace(room, folded, place, holds, version):
                    return answer
            except Lost:
                continue
            except NotSent as error:
                raise Unavailable(AWAY) from error
        raise Unavailable("Too many changes at once")

    async def _replace(self, room: str, folded: str, place: Place, holds: Holds, version: ObjectId) -> bool:
        """Whether the document still was what `place` says and is now changed."""
        key = {"room": room, "folded": folded}
        stored = from_holds(holds)
        if place.version is None:
            document = {"_id": key, "room": room, "holds": stored, "version": version}
            answer = await self._link.write({"insert": "claims", "documents": [document]})
            return _applied(answer)
        change: list[Any] = [{"$set": {"holds": {"$literal": stored}, "version": version}}, _EMPTIED]
        update = {"q": {"_id": key, "version": place.version}, "u": change}
        return _applied(await self._link.write({"update": "claims", "updates": [update]}))


def _applied(answer: Document) -> bool:
    """Whether the one write of a command changed something; raises for failures other than a duplicate."""
    for failed in answer.get("writeErrors", ()):
        if failed["code"] != _DUPLICATE:
            raise Refused(failed["code"], "a claim")
        return False
    return bool(answer["n"])
