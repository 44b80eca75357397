"""The port `Messages` on MongoDB. One batch is one ordered insert, acknowledged by a majority's journals."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs
import bson
from bson.raw_bson import RawBSONDocument

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Message, Room
from eftchat.mongo.documents import Document, from_message, to_message
from eftchat.mongo.indexes import SEQ_INDEX, UUID_INDEX
from eftchat.mongo.link import PASSING, Link, Lost, NotSent, Refused
from eftchat.ports import Appended, OutcomeUnknown

T = TypeVar("T")

AWAY = "The database cannot be reached"
_DUPLICATE = 11000
_MESSAGE_BYTES = 32_000_000
"""A command's documents; MongoDB takes at most 48 MB, of all things in it."""


async def certainly(work: Awaitable[T]) -> T:
    """For calls that may be repeated: applied or not, the answer to a failure is to try again."""
    try:
        return await work
    except (NotSent, Lost) as error:
        raise Unavailable(AWAY) from error


@attrs.define
class MongoMessages:
    """The logs of all rooms. What is answered is durable on a majority, and reads see only that."""

    _link: Link

    async def open(self, room: str, name: str, epoch: str) -> Room:
        found = await certainly(self._link.rows({"find": "rooms", "filter": {"_id": room}, "limit": 1}))
        if not found:
            made = await certainly(
                upsert(self._link, "rooms", room, {"$setOnInsert": {"name": name, "epoch": epoch}})
            )
            found = [made]
        return Room(found[0]["_id"], found[0]["name"], found[0]["epoch"])

    async def append(self, batch: Sequence[Message]) -> Appended:
        stored = 0
        for documents in _parts(batch):
            try:
                answer = await self._link.write(
                    {"insert": "messages", "ordered": True}, {"documents": documents}
                )
            except Lost as error:
                raise OutcomeUnknown(str(error)) from error
            except NotSent as error:
                if stored:
                    raise OutcomeUnknown(str(error)) from error
                raise Unavailable(AWAY) from error
            for failed in answer.get("writeErrors", ()):
                return Appended(stored + failed["index"], _taken(failed))
            stored += len(documents)
        return Appended(stored)

    async def find(self, room: str, uuids: Sequence[str]) -> Mapping[str, Message]:
        found = await self._find({"room": room, "uuid": {"$in": list(uuids)}}, len(uuids), {})
        return {message.uuid: message for message in found}

    async def heads(self, rooms: Sequence[str]) -> Mapping[str, int]:
        pipeline: list[Document] = [
            {"$match": {"room": {"$in": list(rooms)}}},
            # In this form, and only downwards, MongoDB reads one index key per room.
            {"$sort": {"room": -1, "seq": -1}},
            {"$group": {"_id": "$room", "seq": {"$first": "$seq"}}},
        ]
        size = {"batchSize": len(rooms) + 1}
        found = await certainly(
            self._link.rows({"aggregate": "messages", "pipeline": pipeline, "cursor": size})
        )
        return dict.fromkeys(rooms, 0) | {head["_id"]: int(head["seq"]) for head in found}

    async def after(self, room: str, seq: int, limit: int) -> list[Message]:
        return await self._find({"room": room, "seq": {"$gt": seq}}, limit, {"seq": 1})

    async def before(self, room: str, seq: int, limit: int) -> list[Message]:
        return (await self._find({"room": room, "seq": {"$lt": seq}}, limit, {"seq": -1}))[::-1]

    async def _find(self, query: Document, limit: int, order: Document) -> list[Message]:
        if limit < 1:  # MongoDB takes 0 for "no limit"
            return []
        command = {"find": "messages", "filter": query, "sort": order, "limit": limit, "batchSize": limit}
        return [to_message(document) for document in await certainly(self._link.rows(command))]


async def upsert(link: Link, collection: str, key: Any, update: Document | list[Document]) -> Document:
    """The document after `update`, made when it was not there."""
    command = {
        "findAndModify": collection,
        "query": {"_id": key},
        "update": update,
        "new": True,
        "upsert": True,
    }
    try:
        answer = await link.write(command)
    except Refused as error:
        if error.code != _DUPLICATE:
            raise
        answer = await link.write(command)  # somebody made it between this command's look and its insert
    value: Document = answer["value"]
    return value


def _parts(batch: Sequence[Message]) -> Iterator[list[RawBSONDocument]]:
    """The batch as documents, in as few commands as they fit into: one, unless the bodies are huge."""
    part: list[RawBSONDocument] = []
    size = 0
    for message in batch:
        encoded = bson.encode({"_id": bson.ObjectId(), **from_message(message)})
        if part and size + len(encoded) > _MESSAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(RawBSONDocument(encoded))
        size += len(encoded)
    if part:
        yield part


def _taken(failed: Mapping[str, Any]) -> Literal["seq", "uuid"]:
    """What the message collided with. Raises what else it may have met."""
    code = failed.get("code", 0)
    if code != _DUPLICATE:
        raise OutcomeUnknown(f"code {code}") if code in PASSING else Refused(code, "a message")
    keys = failed.get("keyPattern", {})
    if "seq" in keys or SEQ_INDEX in failed.get("errmsg", ""):
        return "seq"
    assert "uuid" in keys or UUID_INDEX in failed.get("errmsg", "")
    return "uuid"
