"""The values that cross every boundary. All are frozen; times are milliseconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Kind = Literal["text", "image", "file", "edit", "delete"]
Body = Mapping[str, Any]


class Room(msgspec.Struct, frozen=True):
    """A room as the store knows it: `id` is the folded name, `name` the spelling of whoever made it."""

    id: str
    name: str
    epoch: str
    """Ten hex digits, random, made with the room: a cursor of another epoch belongs to another log."""


class Cursor(msgspec.Struct, frozen=True):
    """How far a reader is: it has everything up to and including `seq` of the log `epoch`.

    `epoch=None` with `seq=0` is the very beginning, whatever the epoch.
    """

    epoch: str | None
    seq: int


class Tail(msgspec.Struct, frozen=True):
    """A reader that wants the newest `count` messages first."""

    count: int


class Draft(msgspec.Struct, frozen=True):
    """A message that has no place in the log yet. `room` is the room's id."""

    room: str
    uuid: str
    kind: Kind
    user: str
    name: str
    at: int
    body: Body

    def weight(self) -> int:
        """About how many bytes it takes: what the queue's bound counts."""
        return _weight(self.body)

    def placed(self, seq: int) -> Message:
        """The same message at its place in the log."""
        return Message(self.room, seq, self.uuid, self.kind, self.user, self.name, self.at, self.body)


class Message(msgspec.Struct, frozen=True):
    """A message with its place: the `seq`-th of its room's log, 1, 2, 3 ... without holes."""

    room: str
    seq: int
    uuid: str
    kind: Kind
    user: str
    name: str
    at: int
    body: Body

    def weight(self) -> int:
        """About how many bytes it takes in memory."""
        return _weight(self.body)


def _weight(body: Body) -> int:
    return 256 + sum(len(value) for value in body.values() if isinstance(value, str))


class Posted(msgspec.Struct, frozen=True):
    """A draft is in the log, durably. `repeated`: the same uuid had been stored before this request."""

    message: Message
    repeated: bool


class Page(msgspec.Struct, frozen=True):
    """Part of a log, seqs dense and rising, and where the log stood when it was read."""

    room: Room
    messages: Sequence[Message]
    head: int


class Member(msgspec.Struct, frozen=True):
    """Who is in a room: `user` is the identity, `name` what the others see."""

    user: str
    name: str


class Claim(msgspec.Struct, frozen=True):
    """One connection's hold on a name in a room. `node` is the lease that it hangs on: a node's, or a router's.

    `session` is the WAMP session that holds it, so that every node can find it; empty for a node's own
    connections, of which no other node knows.
    """

    room: str
    folded: str
    member: Member
    holder: str
    node: str
    session: str = ""


class Entered(msgspec.Struct, frozen=True, tag="entered"):
    """The first connection of a member is in the room. `returning`: it came back, no news for people."""

    member: Member
    returning: bool = False


class Left(msgspec.Struct, frozen=True, tag="left"):
    """The last connection of a member is gone."""

    member: Member


class Typing(msgspec.Struct, frozen=True, tag="typing"):
    """A member began to type, or stopped. Gone when it was told: nobody keeps it."""

    member: Member
    on: bool


Presence = Entered | Left | Typing
