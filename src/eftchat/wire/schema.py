"""The shapes of v2 requests and of what every door answers, checked once, here, at the edge.

Unknown members are ignored. A member that is missing or ill-typed raises BadParams with the path to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from eftchat.domain.errors import BadParams, ChatError
from eftchat.domain.messages import Cursor, Member, Message, Page, Posted, Presence, Room, Tail, Typing
from eftchat.drain import Notice
from eftchat.rooms import Joined

Seq = Annotated[int, Meta(ge=0, le=2**53 - 1)]
S = TypeVar("S", bound=msgspec.Struct)
_encode = msgspec.json.Encoder().encode


class After(msgspec.Struct, frozen=True):
    """A cursor as clients write it."""

    epoch: Annotated[str, Meta(max_length=64)] | None
    seq: Seq

    def cursor(self) -> Cursor:
        """The value that the core reads."""
        return Cursor(self.epoch, self.seq)


class Client(msgspec.Struct, frozen=True):
    """What a client says of itself, for the log."""

    name: Annotated[str, Meta(max_length=64)] = ""
    version: Annotated[str, Meta(max_length=64)] = ""


class Connect(msgspec.Struct, frozen=True):
    """Params of `connect`."""

    client: Client = Client()
    token: str | None = None


class Join(msgspec.Struct, frozen=True):
    """Params of `join`."""

    room: str
    name: str
    user: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    after: After | None = None
    tail: Annotated[int, Meta(ge=0, le=1_000)] | None = None

    def start(self, history: int) -> Cursor | Tail:
        """Where the client wants to begin: `history` newest messages when it does not say."""
        if self.after is not None:
            return self.after.cursor()
        return Tail(history if self.tail is None else self.tail)


class InRoom(msgspec.Struct, frozen=True):
    """Params of `leave`, `members` and `key`."""

    room: str


class TypingIn(msgspec.Struct, frozen=True):
    """Params of `typing`."""

    room: str
    on: bool


class Post(msgspec.Struct, frozen=True):
    """Params of `post`."""

    room: str
    uuid: str
    body: dict[str, Any]
    kind: Literal["text"] = "text"


class Range(msgspec.Struct, frozen=True):
    """Params of `since` and `before`."""

    room: str
    seq: Seq
    limit: Annotated[int, Meta(ge=1, le=200)] = 200


class Text(msgspec.Struct, frozen=True):
    """The body of a text message."""

    text: str


def params(shape: type[S], given: object) -> S:
    """`given` as the shape; raises BadParams that names the member."""
    try:
        return msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        raise BadParams(str(error).replace("`$", "`params")) from None


def text_body(body: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """The body of a text message, at most `limit` bytes of UTF-8 long; raises BadParams."""
    try:
        text = msgspec.convert(body, Text).text
    except msgspec.ValidationError as error:
        raise BadParams(f"params.body: {error}") from None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadParams("params.body.text: lone surrogates are not text") from None
    if not text or size > limit:
        raise BadParams(f"params.body.text: 1 to {limit} bytes, this has {size}")
    return {"text": text}


def shown_joined(joined: Joined) -> dict[str, Any]:
    """The result of `join`."""
    room = joined.seat.room
    return {
        "room": room.name,
        "key": joined.key,
        "epoch": room.epoch,
        "seq": joined.cursor,
        "head": joined.head,
        **shown_members(joined.members),
        "resumed": joined.resumed,
    }


def shown_message(room: Room, message: Message) -> dict[str, Any]:
    """A message as v2 and WAMP clients see it."""
    return {
        "room": room.name,
        "seq": message.seq,
        "uuid": message.uuid,
        "kind": message.kind,
        "user": message.user,
        "name": message.name,
        "at": message.at,
        "body": message.body,
    }


def shown_batch(room: Room, messages: Sequence[Message]) -> dict[str, Any]:
    """The params of `messages`, the same on a socket and on a topic."""
    return {"room": room.name, "epoch": room.epoch, "messages": [shown_message(room, m) for m in messages]}


def parts(room: Room, messages: Sequence[Message], most: int, size: int) -> Iterator[Sequence[Message]]:
    """Splits messages into as few parts as have at most so many messages and bytes of JSON; each has one."""
    start = total = 0
    for here, message in enumerate(messages):
        weight = len(_encode(shown_message(room, message)))
        if here > start and (here - start >= most or total + weight > size):
            yield messages[start:here]
            start, total = here, 0
        total += weight
    if messages:
        yield messages[start:]


def nearest(page: Page, most: int, size: int, *, backwards: bool = False) -> Page:
    """The page cut to that many messages and bytes: what is nearest to where it was asked from."""
    order = page.messages[::-1] if backwards else page.messages
    kept = next(parts(page.room, order, most, size), [])
    return Page(page.room, kept[::-1] if backwards else kept, page.head)


def shown_page(page: Page) -> dict[str, Any]:
    """The result of `since` and `before`."""
    return {**shown_batch(page.room, page.messages), "head": page.head}


def shown_posted(posted: Posted) -> dict[str, Any]:
    """The result of `post`."""
    return {"seq": posted.message.seq, "at": posted.message.at, "repeated": posted.repeated}


def shown_member(member: Member) -> dict[str, Any]:
    """A member as the others see it."""
    return {"user": member.user, "name": member.name}


def shown_presence(room: Room, presence: Presence) -> dict[str, Any]:
    """The params of `entered`, `left` and `typing`."""
    shown = {"room": room.name, "member": shown_member(presence.member)}
    return {**shown, "on": presence.on} if isinstance(presence, Typing) else shown


def shown_members(members: Sequence[Member]) -> dict[str, Any]:
    """The result of `members`."""
    return {"members": [shown_member(member) for member in members]}


def shown_notice(kind: Literal["node", "router"], name: str, notice: Notice) -> dict[str, Any]:
    """The event of `eftchat.notice.reconnect`: which node or router leaves."""
    return {kind: name, "spread_ms": round(notice.window * 1000), "reason": notice.reason}


def shown_error(error: ChatError) -> dict[str, Any]:
    """The error member of a v2 response."""
    data: dict[str, Any] = {"reason": error.reason, "retryable": error.retryable}
    if error.retry_after_ms is not None:
        data["retry_after_ms"] = error.retry_after_ms
    return {"code": error.code, "message": error.text, "data": data}
