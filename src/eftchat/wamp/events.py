"""Events on room topics: what nodes write and read, the same that WAMP clients see.

One event must fit through the clients' listeners of the routers: what is larger than their message limit is
dropped by the router, for that client, without a word to anybody. Sizes are those of JSON, the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from eftchat.domain.errors import BadParams
from eftchat.domain.messages import Entered, Kind, Left, Member, Message, Presence, Room, Typing
from eftchat.domain.timeline import runs
from eftchat.wire import schema

EVENT_MESSAGES = 500
EVENT_BYTES = 48 * 1024

_encode = msgspec.json.Encoder().encode


def parts(room: Room, messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Splits messages into as few parts as fit into an event or a result each; a part has at least one."""
    return schema.parts(room, messages, EVENT_MESSAGES, EVENT_BYTES)


class _Message(msgspec.Struct, frozen=True):
    seq: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    uuid: str
    kind: Kind
    user: str
    name: str
    at: int
    body: dict[str, Any]


class _Messages(msgspec.Struct, frozen=True):
    epoch: str
    messages: Annotated[list[_Message], Meta(min_length=1)]


class _Presence(msgspec.Struct, frozen=True):
    event: Literal["entered", "left", "typing"]
    member: Member
    returning: bool = False
    on: bool | None = None
    id: Annotated[str, Meta(max_length=128)] = ""


def heard_messages(room: str, given: Mapping[str, Any]) -> tuple[str, Sequence[Message]]:
    """The epoch and the messages (dense, rising) of an event of the room with this id. Raises BadParams."""
    batch = schema.params(_Messages, given)
    messages = [
        Message(room, m.seq, m.uuid, m.kind, m.user, m.name, m.at, m.body)  # fmt: skip
        for m in batch.messages
    ]
    if len(list(runs(messages))) != 1:
        raise BadParams("params.messages: not dense")
    return batch.epoch, messages


def shown_presence(room: Room, presence: Presence) -> dict[str, Any]:
    """The event that tells who came, went or types. Who sends it through several routers adds an `id`."""
    shown = {"event": type(presence).__name__.lower(), **schema.shown_presence(room, presence)}
    if isinstance(presence, Typing):
        return shown
    return {**shown, "returning": isinstance(presence, Entered) and presence.returning}


def heard_presence(given: Mapping[str, Any]) -> Presence:
    """Who came, went or types, out of an event. Raises BadParams."""
    heard = schema.params(_Presence, given)
    if heard.event == "entered":
        return Entered(heard.member, heard.returning)
    if heard.event == "left":
        return Left(heard.member)
    if heard.on is None:
        raise BadParams("params.on: a boolean")
    return Typing(heard.member, heard.on)
