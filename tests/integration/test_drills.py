"""A whole cluster of real processes under load: whatever is taken away or added, every member gets every message.

The forms here are short. `pytest tests/integration/test_drills.py --long` is the long one: 300 connections in 20
rooms, 500 messages a second, ten minutes of killing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random, SystemRandom

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from eftchat.client import ChatClient, ChatClientError, Left
from eftchat.cluster.cluster import Cluster
from eftchat.cluster.plan import Plan
from tests.integration.crowd import Crowd, eventually


class Size(msgspec.Struct, frozen=True):
    """How large the crowd is. `rate` in messages a second, of all together; `seconds` of killing."""

    rooms: int
    v1_each: int
    v2_each: int
    wamp_each: int
    rate: float
    seconds: float

    @property
    def connections(self) -> int:
        return self.rooms * (self.v1_each + self.v2_each + self.wamp_each)


SHORT = Size(4, 4, 7, 1, 60.0, 20.0)
LONG = Size(20, 5, 9, 1, 500.0, 600.0)


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Size:
    return LONG if request.config.getoption("--long", False) else SHORT


@pytest_twisted.async_yield_fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three nodes, two routers, three members of a database, a balancer."""
    running = Cluster(reactor, Plan(data=tmp_path, grace=10.0), dict(os.environ), SystemRandom())
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def entered(cluster: Cluster, size: Size) -> Crowd:
    """The crowd, in its rooms and talking."""
    crowd = Crowd(
        cluster.url,
        cluster.router_urls,
        tuple(f"room {n}" for n in range(size.rooms)),
        size.v1_each,
        size.v2_each,
        size.wamp_each,
        every=size.connections / size.rate,
    )
    await crowd.enter()
    crowd.talk()
    await crowd.more(2 * size.connections)
    return crowd


async def judged(crowd: Crowd) -> None:
    """Everyone falls silent, and everything is compared."""
    await crowd.hush()
    await crowd.judge()
    await crowd.leave()


@pytest_twisted.ensureDeferred
async def test_whatever_is_killed_one_after_another_nothing_is_lost(cluster: Cluster, size: Size) -> None:
    crowd = await entered(cluster, size)
    rng, until = Random(1), reactor.seconds() + size.seconds
    victims = [("node", 1), ("router", 1), ("mongod", "primary"), ("node", 2), ("router", 2), ("node", 3)]
    while reactor.seconds() < until:
        kind, which = victims.pop(0)
        victims.append((kind, which))
        killed = await cluster.kill(kind, which)  # type: ignore[arg-type]
        await crowd.more(2 * size.connections, 120)
        await deferLater(reactor, rng.uniform(0.0, 2.0))
        await cluster.restart(kind, int(killed.split()[1]))  # type: ignore[arg-type]
        await crowd.more(size.connections, 120)
    await judged(crowd)


@pytest_twisted.ensureDeferred
async def test_a_drained_node_leaves_in_time_and_loses_nothing(cluster: Cluster, size: Size) -> None:
    crowd = await entered(cluster, size)
    asked = reactor.seconds()
    await cluster.drain("node", 1)
    assert reactor.seconds() - asked < cluster.plan.grace + 2
    assert cluster.nodes[1].state == "left"  # exit 0
    await crowd.more(size.connections)
    await judged(crowd)


@pytest_twisted.ensureDeferred
async def test_everything_is_restarted_in_turn_and_nothing_is_lost(cluster: Cluster, size: Size) -> None:
    crowd = await entered(cluster, size)
    for kind, members in (("router", cluster.routers), ("node", cluster.nodes)):
        for number in list(members):
            await cluster.restart(kind, number)  # type: ignore[arg-type]
            await crowd.more(size.connections, 120)
    await judged(crowd)


@pytest_twisted.ensureDeferred
async def test_the_names_of_a_killed_node_are_free_within_the_lease(cluster: Cluster) -> None:
    left: list[str] = []

    def noticed(event: object) -> None:
        if isinstance(event, Left):
            left.append(event.member.name)

    ann = ChatClient(reactor, cluster.node_urls[0], rng=Random(1), user="ann")
    bob = ChatClient(reactor, cluster.node_urls[1], rng=Random(2), user="bob")
    thief = ChatClient(reactor, cluster.node_urls[1], rng=Random(3), user="thief")
    for client in (ann, bob, thief):
        client.start()
    await ann.join("R", name="Ann")
    await bob.join("R", name="Bob", on_event=noticed)
    with pytest.raises(ChatClientError, match="another user"):
        await thief.join("R", name="ann")
    await cluster.kill("node", 1)
    killed = reactor.seconds()
    await eventually(lambda: left == ["Ann"], 15)
    print(f"left was told {reactor.seconds() - killed:.1f} s after the kill")
    await thief.join("R", name="ann")
    for client in (ann, bob, thief):
        await client.stop()
