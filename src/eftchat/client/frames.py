"""The v2 dialect as a client reads and writes it. Unknown members are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from eftchat.client.values import ChatClientError, Message
from eftchat.domain.messages import Member

S = TypeVar("S", bound=msgspec.Struct)
_encode = msgspec.json.Encoder().encode


class BadFrame(Exception):
    """The node sent something that is not v2."""


class RefusalData(msgspec.Struct, frozen=True):
    """What programs read of an error."""

    reason: str = "refused"
    retryable: bool = False
    retry_after_ms: int | None = None


class Refusal(msgspec.Struct, frozen=True):
    """The error member of a response."""

    message: str = "refused"
    data: RefusalData = RefusalData()

    def error(self) -> ChatClientError:
        """The exception for whoever asked."""
        data = self.data
        after = (data.retry_after_ms or 0) / 1000
        return ChatClientError(data.reason, self.message, retryable=data.retryable, retry_after=after)


class Frame(msgspec.Struct, frozen=True):
    """The envelope: a response has an `id`, a notification a `method`."""

    id: int | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"{}")
    error: Refusal | None = None


class Limits(msgspec.Struct, frozen=True):
    """What the node takes, in bytes."""

    text: int = 16 * 1024
    frame: int = 256 * 1024


class Welcome(msgspec.Struct, frozen=True):
    """The result of `connect`."""

    node: str = ""
    limits: Limits = Limits()


class RoomJoined(msgspec.Struct, frozen=True):
    """The result of `join`. Everything behind `seq` follows in `messages`."""

    room: str
    epoch: str
    seq: int
    head: int
    resumed: bool
    key: str = ""
    members: list[Member] = []


class PostStored(msgspec.Struct, frozen=True):
    """The result of `post`."""

    seq: int
    at: int
    repeated: bool = False


class LogPage(msgspec.Struct, frozen=True):
    """The result of `since` and `before`."""

    epoch: str
    messages: list[Message]
    head: int


class MembersPresent(msgspec.Struct, frozen=True):
    """The result of `members`."""

    members: list[Member]


class Batch(msgspec.Struct, frozen=True):
    """The params of `messages`."""

    room: str
    epoch: str
    messages: list[Message]


class PresenceChange(msgspec.Struct, frozen=True):
    """The params of `entered` and `left`."""

    room: str
    member: Member


class Roster(msgspec.Struct, frozen=True):
    """The params of `members`: who is in the room now."""

    room: str
    members: list[Member]


class TypingChange(msgspec.Struct, frozen=True):
    """The params of `typing`."""

    room: str
    member: Member
    on: bool


class ReconnectNotice(msgspec.Struct, frozen=True):
    """The params of `reconnect`: the node is leaving, `after_ms` is this client's slot."""

    after_ms: int = 0
    reason: str = ""


_decode_frame = msgspec.json.Decoder(Frame).decode
_batches = msgspec.json.Decoder(Batch)


def parse(payload: bytes) -> Frame:
    """The envelope of a frame; raises BadFrame."""
    try:
        return _decode_frame(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"the node sent a frame that is not v2: {error}") from None


def read(raw: msgspec.Raw, shape: type[S]) -> S:
    """A frame's params or result as the shape; raises BadFrame."""
    try:
        if shape is Batch:
            return _batches.decode(raw)  # type: ignore[return-value]  # S is Batch
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"the node sent {shape.__name__} in an unknown shape: {error}") from None


def request(identity: int, method: str, params: Mapping[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    return _encode({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})
