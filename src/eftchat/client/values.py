"""What the client tells and is told. Values are frozen; times are milliseconds since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import msgspec

from eftchat.domain.backoff import full_jitter
from eftchat.domain.errors import ChatError
from eftchat.domain.messages import Cursor, Member


class ChatClientError(Exception):
    """Something was refused, or cannot be done any more.

    `reason` is the stable word that programs compare: a node's own (`name_taken`, `bad_params`, `unavailable`
    ...) or the client's: `disconnected`, `stopped`, `left`, `refused_for_good`, `already_joined`,
    `outbox_full`. `retryable` tells whether the same may succeed later without a change. `str()` is safe to
    show.
    """

    def __init__(self, reason: str, text: str, *, retryable: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.retryable = retryable
        self.retry_after = retry_after
        """Seconds that the node asks to wait before the next try."""

    @classmethod
    def of(cls, error: ChatError) -> ChatClientError:
        """A refusal that the domain's own rules give before anything is sent."""
        return cls(error.reason, error.text, retryable=error.retryable)


class Disconnected(ChatClientError):
    """The connection ended before the answer came: what became of the request is not known."""

    def __init__(self, text: str) -> None:
        super().__init__("disconnected", text, retryable=True)


class Message(msgspec.Struct, frozen=True):
    """A message at its place: the `seq`-th of its room's log, 1, 2, 3 ... without holes."""

    room: str
    seq: int
    uuid: str
    kind: str
    """`text`; others may come: ignore what you do not know."""
    user: str
    name: str
    at: int
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The text of a text message, "" for everything else."""
        text = self.body.get("text", "")
        return text if isinstance(text, str) else ""


class Posted(msgspec.Struct, frozen=True):
    """The message is durable, at this place. `repeated`: it was stored by an earlier try."""

    uuid: str
    seq: int
    at: int
    repeated: bool


class Page(msgspec.Struct, frozen=True):
    """Part of a room's log, seqs dense and rising; `head` is where the log stood."""

    epoch: str
    messages: Sequence[Message]
    head: int


class Joined(msgspec.Struct, frozen=True):
    """The room is joined: the first time, or `again` after an interruption. Messages follow `position`."""

    room: str
    position: Cursor
    head: int
    members: Sequence[Member]
    again: bool


class Suspended(msgspec.Struct, frozen=True):
    """The connection is gone. Posts are kept; the room is joined again as soon as there is another one."""

    room: str


class Reset(msgspec.Struct, frozen=True):
    """What comes next, behind `position`, does not continue what came before.

    `missed` messages are no longer kept; or, when it is None, the room has another log than it had (its
    database was restored, it was made anew).
    """

    room: str
    position: Cursor
    missed: int | None = None


class Entered(msgspec.Struct, frozen=True):
    """The first connection of a member is in the room."""

    room: str
    member: Member


class Left(msgspec.Struct, frozen=True):
    """The last connection of a member is gone."""

    room: str
    member: Member


class Typing(msgspec.Struct, frozen=True):
    """A member types, or has stopped. When nothing more comes for some seconds, or the member leaves: stopped."""

    room: str
    member: Member
    on: bool


class Closed(msgspec.Struct, frozen=True):
    """The room is over for this client; every post that was not acknowledged failed with this error."""

    room: str
    error: ChatClientError


Event = Joined | Suspended | Reset | Entered | Left | Typing | Closed


class State(msgspec.Struct, frozen=True):
    """How the client's connection is doing.

    `connecting` to `url`; `connected` to `node`; `waiting` for `retry_in` seconds because of `reason`; for
    ever `closed` (you stopped it) or `failed` (a node said not to come back, `reason` tells why).
    """

    name: Literal["idle", "connecting", "connected", "waiting", "closed", "failed"]
    url: str = ""
    node: str = ""
    retry_in: float = 0.0
    reason: str = ""


class Timing(msgspec.Struct, frozen=True):
    """How long things may take. Seconds."""

    handshake: float = 5.0
    """From dialling to the answer to `connect`."""
    request: float = 10.0
    """Without any answer while one is awaited: the connection counts as dead."""
    post: float = 30.0
    """The same while only posts are awaited: a node may hold them while its database elects a primary."""
    backoff: float = 0.25
    backoff_cap: float = 5.0
    stable: float = 10.0
    """A connection that lasted so long begins the next back-off anew."""
    name_taken: float = 15.0
    """How long a name that is taken on coming back is asked for again: leases of dead nodes lapse earlier."""

    def delay(self, attempt: int, rng: Random, at_least: float = 0.0) -> float:
        """How long to wait before the try number `attempt` (0, 1 ...): full jitter, on top of what was asked
        for."""
        return at_least + full_jitter(
            attempt, rng, base=self.backoff, cap=self.backoff_cap, floor=self.backoff / 10
        )
