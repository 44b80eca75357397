"""The composition root: puts a node together from its parts. No logic of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Protocol

import msgspec
from attrs import define

from eftchat.bridge.connection import Settings
from eftchat.bridge.door import WebDoor
from eftchat.bridge.farewell import Farewell
from eftchat.bridge.protocol import Conversations
from eftchat.bridge.site import site
from eftchat.domain.errors import Unavailable
from eftchat.domain.limits import Limits
from eftchat.domain.names import room_key
from eftchat.drain import Drain, Pace, Report, within
from eftchat.lease import Lease
from eftchat.ops.loop import TwistedLoop
from eftchat.ops.metrics import NodeCollector, metrics_resource
from eftchat.ops.watch import Watch
from eftchat.ports import CannotStart, Members, Messages
from eftchat.rooms import Rooms
from eftchat.wamp.bus import WampBus
from eftchat.wamp.door import WampDoor
from eftchat.wamp.link import Link, RouterAddress
from eftchat.wamp.procedures import Procedures

LAST_WORDS = 2.0
"""Seconds that the store has to take the farewell, and then to close: each at most a tenth of the grace."""


class Store(Protocol):
    """An open store."""

    @property
    def messages(self) -> Messages: ...

    @property
    def members(self) -> Members: ...

    async def close(self) -> None: ...


class NodeConfig(msgspec.Struct, frozen=True):
    """What one node is told. `port` 0 takes a free one. `grace`: seconds within which it leaves, all in all.
    No two nodes of a cluster may run with the same `id`.
    """

    id: str
    host: str
    port: int
    secret: bytes
    ticket: str
    routers: tuple[str, ...]
    limits: Limits = Limits()
    grace: float = 50.0
    pace: Pace = Pace()


async def open_store(reactor: Any, mongodb: str | None, folder: Path) -> Store:
    """MongoDB when there is a URI, else the embedded store in the folder. Errors say what to do."""
    if mongodb is None:
        from eftchat import sqlite

        return await sqlite.connect(reactor, folder)
    try:
        from eftchat import mongo  # an extra: the driver is there only where it is used
    except ModuleNotFoundError:
        raise CannotStart("The MongoDB driver is not installed: pip install 'eftchat[mongodb]'") from None
    return await mongo.connect(reactor, mongodb)


@define(eq=False)
class Node:
    """One node: everything it runs, started and stopped in order."""

    loop: TwistedLoop
    config: NodeConfig
    store: Store
    rooms: Rooms
    lease: Lease
    web: WebDoor
    wamp: WampDoor
    drain: Drain
    watch: Watch

    async def start(self) -> int:
        """Serves raw clients; the port that they connect to. Raises CannotStart."""
        try:
            await self.lease.start()
        except Unavailable as error:
            raise CannotStart(f"The store does not answer ({error}): try again when it does") from None
        port = self.web.open()
        self.rooms.feeds.start()
        self.watch.start()
        return port

    async def stop(self) -> Report:
        """Leaves in good order, within the grace. Once."""
        last_words = min(LAST_WORDS, 0.1 * self.config.grace)
        report = await self.drain.leave(self.config.grace - 2 * last_words)
        self.watch.stop()
        self.lease.stop()
        self.rooms.feeds.stop()
        # Without a store to tell it to, the names are free when the lease lapses.
        await within(self.loop, self._forget(), last_words)
        await within(self.loop, self.store.close(), last_words)
        return report

    async def _forget(self) -> None:
        try:
            await self.store.members.forget(self.rooms.node)
        except Unavailable:
            pass


def build(reactor: Any, config: NodeConfig, store: Store, rng: Random) -> Node:
    """A node over an open store, not started yet."""
    loop = TwistedLoop(reactor)
    run = f"{config.id}.{rng.getrandbits(32):08x}"
    bus = WampBus(lambda room: room_key(room, config.secret), run)
    rooms = Rooms(run, config.secret, store.messages, store.members, bus, loop, rng)
    bus.listener = rooms
    conversations = Conversations(rooms, loop, Settings(config.id, config.limits))
    procedures = Procedures(rooms, loop, config.limits)
    lease = Lease(rooms, loop, lapsing=lambda: _send_away(conversations, procedures), id=config.id)
    drain = Drain(rooms, loop, config.pace)
    links = [Link(reactor, loop, rng, RouterAddress(url, config.ticket)) for url in config.routers]
    wamp = WampDoor(config.id, loop, bus, procedures, links)
    ready = readiness(drain, lease)
    metrics = metrics_resource(
        NodeCollector(rooms, lease, conversations.counts, bus.troubles, wamp.routers_up)
    )
    pages = site(conversations, ready, reactor, status(drain, conversations, wamp, ready), metrics)
    farewell = Farewell(loop, rng, lambda: conversations.open, config.pace.linger)
    web = WebDoor(reactor, conversations, pages, config.host, config.port, farewell)
    drain.doors = (web, wamp)
    return Node(loop, config, store, rooms, lease, web, wamp, drain, Watch(rooms, lease, loop))


def _send_away(conversations: Conversations, procedures: Procedures) -> None:
    """The names of those inside do not count any more: they have to take them again, here or elsewhere. Those of
    WAMP sessions do, perhaps, if other nodes see their router: they are looked up again."""
    conversations.send_away()
    procedures.visitors.forget()


def readiness(drain: Drain, lease: Lease) -> Callable[[], str | None]:
    """What keeps a balancer from sending clients here, if anything."""
    rooms = drain.rooms

    def problem() -> str | None:
        if drain.leaving or rooms.refusing:
            return "leaving"
        if rooms.log.away or lease.away or not lease.held:
            return "the store cannot be reached"
        return None

    return problem


def status(
    drain: Drain, conversations: Conversations, wamp: WampDoor, problem: Callable[[], str | None]
) -> Callable[[], dict[str, Any]]:
    """What a node says of itself to operators; no names of rooms or people, no secrets."""

    def shown() -> dict[str, Any]:
        return {
            "node": wamp.node,
            "problem": problem(),
            "leaving": drain.leaving,
            "clients": {**conversations.counts(), "wamp": wamp.procedures.seated},
            "waiting": drain.rooms.log.waiting,
            "routers": {link.address.url: link.state for link in wamp.links},
        }

    return shown
