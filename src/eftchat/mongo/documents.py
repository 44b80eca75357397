"""How messages and claims look as documents, and the rules of holding a name, as pure functions."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from bson.int64 import Int64

from eftchat.domain.errors import NameTaken
from eftchat.domain.messages import Claim, Member, Message

Document = dict[str, Any]


def from_message(message: Message) -> Document:
    """A message's document. `_id` is added by whoever stores it."""
    return {
        "room": message.room,
        "seq": message.seq,
        "uuid": message.uuid,
        "kind": message.kind,
        "user": message.user,
        "name": message.name,
        "at": Int64(message.at),
        "body": dict(message.body),
    }


def to_message(document: Document) -> Message:
    """The message that was stored."""
    return Message(
        room=document["room"],
        seq=int(document["seq"]),
        uuid=document["uuid"],
        kind=document["kind"],
        user=document["user"],
        name=document["name"],
        at=int(document["at"]),
        body=_plain(document["body"]),
    )


def _plain(value: Any) -> Any:
    """BSON's own integer type as Python's, at any depth."""
    if isinstance(value, Int64):
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


class Hold(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connection's hold on a name.

    `lease` is the node whose lease keeps it alive; None once another user has taken the lapsed name over:
    then no renewal revives it, and only its end is still to be told.
    """

    holder: str
    user: str
    name: str
    node: str
    lease: str | None
    session: str = ""
    """The WAMP session that it is; not stored when there is none."""

    def claim(self, room: str, folded: str) -> Claim:
        """As its owner made it."""
        return Claim(room, folded, Member(self.user, self.name), self.holder, self.node, self.session)


class Place(msgspec.Struct, frozen=True):
    """Who holds one name in one room, and which leases run, as read at one moment.

    `version` changes with every write; None when there is no document.
    """

    holds: tuple[Hold, ...] = ()
    alive: frozenset[str] = frozenset()
    version: Any = None

    def lives(self, hold: Hold) -> bool:
        """Whether the hold counts."""
        return hold.lease is not None and hold.lease in self.alive

    def living(self, user: str | None = None) -> list[Hold]:
        """The holds that count, of one user or of all."""
        return [hold for hold in self.holds if self.lives(hold) and user in (None, hold.user)]


Holds = tuple[Hold, ...]


def to_place(document: Document) -> Place:
    """The place of a claims document that was joined with its `leases` and the server's time as `now`."""
    now: datetime.datetime = document["now"]
    return Place(
        tuple(msgspec.convert(hold, Hold) for hold in document["holds"]),
        frozenset(lease["_id"] for lease in document["leases"] if lease["until"] > now),
        document["version"],
    )


def from_holds(holds: Sequence[Hold]) -> list[Document]:
    """The holds as they are stored."""
    return [msgspec.to_builtins(hold) for hold in holds]


def claimed(place: Place, claim: Claim) -> tuple[Holds, bool]:
    """The holds after this claim, and whether its member was not there before. Raises NameTaken."""
    user = claim.member.user
    living = place.living()
    if any(hold.user != user for hold in living):
        raise NameTaken
    mine = Hold(claim.holder, user, claim.member.name, claim.node, claim.node, claim.session)
    # What the member left behind on dead nodes is dropped: it is no news any more.
    others = [msgspec.structs.replace(hold, lease=None) for hold in place.holds if hold.user != user]
    kept = [hold if hold.holder != claim.holder else mine for hold in living]
    return (*others, *kept, *([] if mine in kept else [mine])), not living


def released(place: Place, claim: Claim) -> tuple[Holds, bool]:
    """The holds without this claim, and whether that ended its member's presence."""
    user = claim.member.user
    rest = tuple(h for h in place.holds if (h.holder, h.user) != (claim.holder, user))
    if len(rest) == len(place.holds):
        return place.holds, False
    if any(place.lives(hold) for hold in rest if hold.user == user):
        return rest, False
    # Dead ones go too: the member's leaving is told by this answer, not once more by `lapsed`.
    return tuple(hold for hold in rest if hold.user != user), True


def cleared(place: Place, room: str, folded: str) -> tuple[Holds, list[Claim]]:
    """The living holds, and one claim for each member of whom only dead ones were left."""
    living = tuple(place.living())
    here = {hold.user for hold in living}
    dead: Mapping[str, Hold] = {hold.user: hold for hold in place.holds if not place.lives(hold)}
    return living, [hold.claim(room, folded) for user, hold in dead.items() if user not in here]
