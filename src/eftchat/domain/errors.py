"""What a client may be told when something is refused, said once; every door only translates.

`reason` is the stable word that programs compare, `code` the number of JSON-RPC, `retryable` whether the same
request may succeed later without a change. The text is safe to show: it never carries what others said.
"""

from __future__ import annotations

from typing import ClassVar


class ChatError(Exception):
    """A refusal with a reason; `str()` of it is safe to show to whoever asked."""

    reason: ClassVar[str] = "refused"
    code: ClassVar[int] = -32000
    retryable: ClassVar[bool] = False

    def __init__(self, text: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.retry_after_ms = retry_after_ms


class BadJson(ChatError):
    """The frame is no JSON."""

    reason, code = "bad_json", -32700


class BadRequest(ChatError):
    """JSON, but not a request: no method, a batch, an id of the wrong type, a binary frame."""

    reason, code = "bad_request", -32600


class UnknownMethod(ChatError):
    """The method does not exist at this door."""

    reason, code = "unknown_method", -32601


class BadParams(ChatError):
    """A parameter is missing, ill-typed or out of bounds; the text names the path to it."""

    reason, code = "bad_params", -32602


class NameTaken(ChatError):
    """Another user, alive, holds this name in this room."""

    reason, code = "name_taken", -32001

    def __init__(self) -> None:
        super().__init__("There is another user with this name in the room")


class NotConnected(ChatError):
    """The request needs a `connect` before it."""

    reason, code = "not_connected", -32010

    def __init__(self) -> None:
        super().__init__("Send connect first")


class NotJoined(ChatError):
    """The request needs the room to be joined by this connection."""

    reason, code = "not_joined", -32011

    def __init__(self) -> None:
        super().__init__("Join the room first")


class TooManyRooms(ChatError):
    """The connection is in as many rooms as one may be."""

    reason, code = "too_many_rooms", -32012


class RateLimited(ChatError):
    """Too many posts in too little time."""

    reason, code, retryable = "rate_limited", -32020, True


class Overloaded(ChatError):
    """The node's queue of posts is full (count or bytes): nothing was stored."""

    reason, code, retryable = "overloaded", -32021, True


class Unavailable(ChatError):
    """The store cannot be reached: nothing was stored by this request."""

    reason, code, retryable = "unavailable", -32022, True


class Draining(ChatError):
    """This node is leaving: ask another."""

    reason, code, retryable = "draining", -32023, True


class Internal(ChatError):
    """Our fault; the log of the node says more."""

    reason, code, retryable = "internal", -32603, True

    def __init__(self) -> None:
        super().__init__("Something went wrong on our side")
