"""Nodes that die, or cannot reach the store: what becomes of their members, on every store.

Several nodes share the store under test, each with a lease that is short; the leases run by the store's clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import pytest_twisted
from attrs import define, field
from twisted.internet import reactor

from eftchat.domain.errors import NameTaken, Unavailable
from eftchat.domain.messages import Entered, Left, Presence, Room
from eftchat.domain.names import name
from eftchat.lease import Lease
from eftchat.ops.loop import TwistedLoop
from eftchat.ports import Members
from eftchat.rooms import Ask, Joined, Rooms

TTL = 0.6

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@define(eq=False)
class Told:
    """A bus that remembers who came and went."""

    presences: list[Presence] = field(factory=list)

    def watch(self, room: Room) -> None: ...

    def unwatch(self, room: Room) -> None: ...

    def publish(self, room: Room, messages: Any) -> None: ...

    def announce(self, room: Room, presence: Presence, but: int | None = None) -> None:
        self.presences.append(presence)


@define(eq=False)
class Reach:
    """A node's way to the members, which may be cut."""

    members: Members
    cut: bool = False

    def __getattr__(self, method: str) -> Any:
        return partial(self._call, method)

    async def _call(self, method: str, *given: Any) -> Any:
        if self.cut:
            raise Unavailable("cut off")
        return await getattr(self.members, method)(*given)


@define(eq=False)
class LeasedNode:
    """One node, without doors."""

    rooms: Rooms
    lease: Lease
    reach: Reach
    bus: Told
    fenced: int = 0

    async def join(self, who: str, user: str) -> Joined:
        return await self.rooms.join(
            Ask(name("R", "room"), name(who, "name"), user, f"{self.rooms.node}.{user}", None)
        )

    def dies(self) -> None:
        self.lease.stop()
        self.rooms.feeds.stop()
        self.reach.cut = True

    def told(self, kind: type) -> list[str]:
        return [presence.member.name for presence in self.bus.presences if isinstance(presence, kind)]


@define(eq=False)
class Nodes:
    """Some of them. Use it with `async with`: nothing of them is left running."""

    store: Any
    nodes: list[LeasedNode] = field(factory=list)

    async def __aenter__(self) -> list[LeasedNode]:
        for number, members in enumerate([self.store.members, self.store.other_members] * 2):
            loop, bus, reach = TwistedLoop(reactor), Told(), Reach(members)
            rng = Random(number)
            rooms = Rooms(f"n{number}", b"secret", self.store.messages, reach, bus, loop, rng)
            node = LeasedNode(rooms, Lease(rooms, loop, TTL), reach, bus)
            node.lease.lapsing = partial(fence, node)
            await node.lease.start()
            self.nodes.append(node)
        return self.nodes

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            node.dies()


def fence(node: LeasedNode) -> None:
    node.fenced += 1


def told(nodes: list[LeasedNode], kind: type) -> list[str]:
    return sorted(told for node in nodes for told in node.told(kind))


async def passes(until: Until, seconds: float) -> None:
    end = reactor.seconds() + seconds

    async def over() -> bool:
        return bool(reactor.seconds() >= end)

    await until(over)


@pytest_twisted.ensureDeferred
async def test_of_a_node_that_died_every_member_is_told_once_in_the_whole_cluster(
    store: Any, until: Until
) -> None:
    async with Nodes(store) as nodes:
        await passes(until, 1.5 * TTL)  # all have held their leases for a whole term
        for number in range(10):
            await nodes[0].join(f"N{number}", f"u{number}")
        await nodes[1].join("Stays", "uS")
        nodes[0].dies()

        async def swept() -> bool:
            return len(told(nodes[1:], Left)) >= 10

        await until(swept)
        await passes(until, TTL)
        assert told(nodes, Left) == [f"N{number}" for number in range(10)]
        assert [member.name for member in await store.members.present("r")] == ["Stays"]


@pytest_twisted.ensureDeferred
async def test_a_name_of_a_dead_node_is_its_users_at_once_and_everybodys_after_the_lease(
    store: Any, until: Until
) -> None:
    async with Nodes(store) as nodes:
        await nodes[0].join("Ann", "uA")
        await nodes[0].join("Bob", "uB")
        nodes[0].dies()
        died = reactor.seconds()
        assert (await nodes[1].join("Ann", "uA")).entered is False
        assert await taken(nodes[2], "Ann")
        assert await taken(nodes[2], "Bob")

        async def free() -> bool:
            return not await taken(nodes[2], "Bob")

        await until(free)
        assert reactor.seconds() - died < TTL + 0.3
        assert await taken(nodes[2], "Ann")
        assert told(nodes, Entered).count("Ann") == 1


async def taken(node: LeasedNode, who: str) -> bool:
    try:
        await node.join(who, "uX")
    except NameTaken:
        return True
    return False


@pytest_twisted.ensureDeferred
async def test_after_the_store_was_away_nobody_sweeps_the_living(store: Any, until: Until) -> None:
    """All leases have lapsed. Who comes back first must not take the others for dead."""
    async with Nodes(store) as nodes:
        await passes(until, 1.5 * TTL)
        for number, node in enumerate(nodes):
            await node.join(f"N{number}", f"u{number}")
        for node in nodes:
            node.reach.cut = True
        await passes(until, 2 * TTL)
        assert [node.fenced for node in nodes] == [1] * len(nodes)
        nodes[0].reach.cut = False  # the first; the others follow one after the other
        for node in nodes[1:]:
            await passes(until, TTL / 5)
            node.reach.cut = False
        await passes(until, 3 * TTL)
        assert told(nodes, Left) == []
        assert [member.name for member in await store.members.present("r")] == ["N0", "N1", "N2", "N3"]


@pytest_twisted.ensureDeferred
async def test_a_node_that_stays_cut_off_is_swept_by_those_that_are_back(store: Any, until: Until) -> None:
    async with Nodes(store) as nodes:
        await nodes[0].join("Lost", "uL")
        await nodes[1].join("Back", "uB")
        for node in nodes:
            node.reach.cut = True
        await passes(until, 1.5 * TTL)
        for node in nodes[1:]:
            node.reach.cut = False

        async def swept() -> bool:
            return bool(told(nodes, Left))

        await until(swept)
        await passes(until, TTL)
        assert told(nodes, Left) == ["Lost"]
