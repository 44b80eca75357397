"""Node cores with the WAMP side of a real node, and memory instead of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.task import deferLater

from eftchat.domain.limits import Limits
from eftchat.domain.messages import Member, Message, Presence, Room
from eftchat.domain.names import Name, name, room_key
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Ask, Joined, Rooms
from eftchat.testing.memory import MemoryMembers, MemoryMessages
from eftchat.wamp.bus import WampBus
from eftchat.wamp.link import Link, RouterAddress
from eftchat.wamp.procedures import Procedures

SECRET = b"secret"
DEFAULTS = Limits()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline, "did not happen in time"
        await deferLater(reactor, 0.01)


@define(eq=False)
class Store:
    """What nodes of one cluster share."""

    messages: MemoryMessages = field(factory=MemoryMessages)
    members: MemoryMembers = field(factory=lambda: MemoryMembers(reactor.seconds))


@define(eq=False)
class Core:
    """A node without its websocket door."""

    rooms: Rooms
    bus: WampBus
    procedures: Procedures
    links: list[Link]
    lease_ms: int = 600_000
    """It is not renewed."""

    @property
    def link(self) -> Link:
        """The link to the first router."""
        return self.links[0]

    async def up(self) -> None:
        """Started, and on its routers."""
        await self.rooms.renew(self.lease_ms)
        for link in self.links:
            link.start()
        await until(lambda: all(link.state == "up" for link in self.links))

    async def down(self) -> None:
        """Nothing of it runs any more."""
        for link in self.links:
            await link.stop()
        self.rooms.feeds.stop()

    async def join(self, room: str, who: str, user: str) -> Joined:
        """A member that came through another door of this node."""
        return await self.rooms.join(Ask(*_names(room, who), user, f"{self.rooms.node}.{user}", None))


def _names(*texts: str) -> Sequence[Name]:
    return [name(text, "name") for text in texts]


def core(
    node: str, where: RouterAddress | Sequence[RouterAddress], store: Store, limits: Limits = DEFAULTS
) -> Core:
    """A node that is not started yet."""
    loop = TwistedLoop(reactor)
    bus = WampBus(partial(room_key, secret=SECRET), node)
    rooms = Rooms(node, SECRET, store.messages, store.members, bus, loop, Random(node))
    bus.listener = rooms
    procedures = Procedures(rooms, loop, limits)
    addresses = [where] if isinstance(where, RouterAddress) else where
    links = [Link(reactor, loop, Random(node), address) for address in addresses]
    for link in links:
        bus.lines.append(link)
        procedures.serve(link)
    return Core(rooms, bus, procedures, links)


@define(eq=False)
class Reader:
    """An outlet that remembers, and the simplest dialect there is."""

    texts: list[str] = field(factory=list)
    presences: list[Presence] = field(factory=list)

    @property
    def dialect(self) -> Reader:
        return self

    def message(self, room: Room, message: Message) -> bytes:
        return f"{message.seq} {message.body['text']}\n".encode()

    def pack(self, room: Room, encoded: Sequence[bytes]) -> bytes:
        return b"".join(encoded)

    def presence(self, room: Room, presence: Presence) -> None:
        self.presences.append(presence)

    def roster(self, room: Room, members: Sequence[Member]) -> None:
        """It wants to hear of each."""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> None:
        self.texts += data.decode().splitlines()
