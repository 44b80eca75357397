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
from eftchat.bridge.protocol import Conversations
from eftchat.bridge.site import site
from eftchat.domain.errors import Unavailable
from eftchat.domain.limits import Limits
from eftchat.domain.names import room_key
from eftchat.drain import Report, drain, within
from eftchat.lease import Lease
from eftchat.ops.loop import TwistedLoop
from eftchat.ports import CannotStart, Members, Messages
from eftchat.rooms import Rooms
from eftchat.wamp.bus import WampBus
from eftchat.wamp.door import WampDoor
from eftchat.wamp.link import Link, RouterAddress
from eftchat.wamp.procedures import Procedures

LAST_WORDS = 2.0
"""Seconds that the store has to take the farewell."""


class Store(Protocol):
    """An open store."""

    @property
    def messages(self) -> Messages: ...

    @property
    def members(self) -> Members: ...

    async def close(self) -> None: ...


class NodeConfig(msgspec.Struct, frozen=True):
    """What one node is told. `port` 0 takes a free one."""

    id: str
    host: str
    port: int
    secret: bytes
    ticket: str
    routers: tuple[str, ...]
    limits: Limits = Limits()
    grace: float = 50.0


async def open_store(reactor: Any, mongodb: str | None, folder: Path) -> Store:
    """MongoDB when there is a URI, else the embedded store in the folder. Errors say what to do."""
    if mongodb is None:
        from eftchat import sqlite

        return await sqlite.connect(reactor, folder)
    from eftchat import mongo  # an extra: the driver is there only where it is used

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

    async def start(self) -> int:
        """Serves raw clients; the port that they connect to. Raises CannotStart."""
        try:
            await self.lease.start()
        except Unavailable as error:
            raise CannotStart(f"The store does not answer ({error}): try again when it does") from None
        port = self.web.open()
        self.rooms.feeds.start()
        return port

    async def stop(self) -> Report:
        """Leaves in good order."""
        report = await drain(self.rooms, (self.web, self.wamp), self.loop, self.config.grace)
        self.lease.stop()
        self.rooms.feeds.stop()
        # Without a store to tell it to, the names are free when the lease lapses.
        await within(self.loop, self._forget(), LAST_WORDS)
        await within(self.loop, self.store.close(), LAST_WORDS)
        return report

    async def _forget(self) -> None:
        try:
            await self.store.members.forget(self.config.id)
        except Unavailable:
            pass


def build(reactor: Any, config: NodeConfig, store: Store, rng: Random) -> Node:
    """A node over an open store, not started yet."""
    loop = TwistedLoop(reactor)
    bus = WampBus(lambda room: room_key(room, config.secret))
    rooms = Rooms(config.id, config.secret, store.messages, store.members, bus, loop, rng)
    bus.listener = rooms
    conversations = Conversations(rooms, loop, Settings(config.id, config.limits))
    procedures = Procedures(rooms, loop, config.limits)
    lease = Lease(rooms, loop, lapsing=lambda: _send_away(conversations, procedures))
    pages = site(conversations, readiness(rooms, lease), reactor)
    web = WebDoor(reactor, conversations, loop, pages, config.host, config.port)
    links = [Link(reactor, loop, rng, RouterAddress(url, config.ticket)) for url in config.routers]
    wamp = WampDoor(config.id, loop, bus, procedures, links)
    return Node(loop, config, store, rooms, lease, web, wamp)


def _send_away(conversations: Conversations, procedures: Procedures) -> None:
    """The names of those inside do not count any more: they have to take them again, here or elsewhere."""
    conversations.send_away()
    procedures.send_away()


def readiness(rooms: Rooms, lease: Lease) -> Callable[[], str | None]:
    """What keeps a balancer from sending clients here, if anything."""

    def problem() -> str | None:
        if rooms.refusing:
            return "leaving"
        if rooms.log.away or not lease.held:
            return "the store cannot be reached"
        return None

    return problem
