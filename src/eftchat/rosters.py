"""Rosters: tells the readers of this node who is in their rooms.

Comings and goings are told once and not kept. A reader whose transport was full missed some, and so may everyone
when the bus was away. Such a reader costs one flag; it is not told of single changes any more, and when its
transport takes something again it gets the whole roster instead. One read of the store serves all of a room, and
the reads of many rooms are spread.

Invariant: a flag is taken off only after a roster that was read from the store while nobody came or went, as far
as was heard here: the changes before it are in it, and those after it are told. A room that does not stand still
is asked again and again, but not often; its readers get each roster that was read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random

from attrs import define, field

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Member, Presence, Typing
from eftchat.feeds import Feed, Feeds, Reader
from eftchat.ports import Dialect, Loop, Outlet

SOON = 0.1
SPREAD = 2.0
"""Seconds over which nodes and rooms ask the store after the bus was away."""
AGAIN = 1.0
"""Seconds, at most, before a room that does not stand still is asked again."""


@define(eq=False)
class Rosters:
    """Keeps the readers of all rooms of a node up to date with who is there."""

    present: Callable[[str], Awaitable[Sequence[Member]]]
    """See `ports.Members`."""
    feeds: Feeds
    loop: Loop
    rng: Random
    _asked: dict[str, None] = field(factory=dict, init=False)

    def announce(self, room: str, presence: Presence, but: Outlet | None = None) -> None:
        """Somebody came, went or types: for all readers of the room but this one. Who comes or goes while the
        transport of a reader is full is in the roster that it gets later."""
        feed = self.feeds.get(room)
        if feed is None:
            return
        passing = isinstance(presence, Typing)
        feed.changes += not passing
        frames: dict[Dialect, bytes | None] = {}
        for reader in list(feed.readers):
            dialect = reader.outlet.dialect
            if dialect not in frames:
                frames[dialect] = dialect.presence(feed.room, presence)
            frame = frames[dialect]
            if frame is None or reader.outlet is but:
                continue
            if not reader.outlet.writable():
                reader.missed |= not passing
            elif passing or not reader.missed:
                reader.outlet.write(frame)

    def missed(self, room: str) -> None:
        """Everyone who reads the room here may have missed something: they get the roster, within seconds."""
        feed = self.feeds.get(room)
        if feed is None:
            return
        for reader in feed.readers:
            reader.missed = reader.outlet.dialect.roster(feed.room, ()) is not None
        if any(reader.missed for reader in feed.readers):
            self.bring(room, SPREAD)

    def owe(self, reader: Reader) -> None:
        """The roster that this reader was given may be old: it gets another, soon."""
        reader.missed = reader.outlet.dialect.roster(reader.feed.room, ()) is not None
        if reader.missed:
            self.bring(reader.feed.room.id)

    def bring(self, room: str, within: float = SOON) -> None:
        """Brings the roster to those who missed something and can be told, in so many seconds at most."""
        if room not in self._asked:
            self._asked[room] = None
            self.loop.spawn(self._bring(room, within), "bringing a roster")

    async def _bring(self, room: str, within: float) -> None:
        try:
            while True:
                await self.loop.sleep(within * self.rng.random())
                feed = self.feeds.get(room)
                if feed is None or not _lacking(feed):
                    return
                changes = feed.changes
                try:
                    members = await self.present(room)
                except Unavailable:
                    pass
                else:
                    _tell(feed, members, stirred=feed.changes != changes)
                within = AGAIN
        finally:
            del self._asked[room]


def _lacking(feed: Feed) -> list[Reader]:
    """Those who missed something and can be told."""
    return [reader for reader in feed.readers if reader.missed and reader.outlet.writable()]


def _tell(feed: Feed, members: Sequence[Member], *, stirred: bool) -> None:
    """That is all they lack, unless somebody came or went while it was read."""
    frames: dict[Dialect, bytes | None] = {}
    for reader in _lacking(feed):
        dialect = reader.outlet.dialect
        if dialect not in frames:
            frames[dialect] = dialect.roster(feed.room, members)
        frame = frames[dialect]
        reader.missed = stirred
        if frame is not None:
            reader.outlet.write(frame)
