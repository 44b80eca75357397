"""`Cluster` from inside a test: the way in which acceptance tests drive it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random, SystemRandom

import pytest
import pytest_twisted
from twisted.internet import reactor

from eftchat.client import ChatClient
from eftchat.cluster.cluster import CannotDo, Cluster
from eftchat.cluster.plan import Plan


@pytest_twisted.async_yield_fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    running = Cluster(
        reactor, Plan(data=tmp_path, nodes=2, routers=1, grace=6.0), dict(os.environ), SystemRandom()
    )
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def clients_of(cluster: Cluster) -> dict[str, int]:
    """How many each living node has."""
    view = await cluster.look()
    return {member.name: member.clients for member in view.members if member.clients is not None}


@pytest_twisted.ensureDeferred
async def test_clients_go_to_the_ready_node_with_the_fewest_and_never_to_one_that_leaves(
    cluster: Cluster,
) -> None:
    clients = []

    async def come(count: int) -> None:
        for _ in range(count):
            name = f"client {len(clients)}"
            clients.append(ChatClient(reactor, cluster.url, user=name, rng=Random(name)))
            clients[-1].start()
            await clients[-1].join("lobby", name=name)

    await come(4)
    assert await clients_of(cluster) == {"node 1": 2, "node 2": 2}
    assert await cluster.drain("node", 1) == "node 1"
    await come(2)
    assert await clients_of(cluster) == {"node 2": 6}, "those of node 1 are here too"
    cluster.add_node()
    await cluster.settled(60)
    await come(3)
    assert await clients_of(cluster) == {"node 2": 6, "node 3": 3}
    await cluster.kill("node", 2)
    deadline = reactor.seconds() + 30
    while await clients_of(cluster) != {"node 3": 9}:
        assert reactor.seconds() < deadline, await clients_of(cluster)
    for client in clients:
        await client.stop()


@pytest_twisted.ensureDeferred
async def test_what_makes_no_sense_is_said(cluster: Cluster) -> None:
    with pytest.raises(CannotDo, match="there is no node 9: there are 1, 2"):
        await cluster.kill("node", 9)
    await cluster.kill("router", 1)
    with pytest.raises(CannotDo, match="router 1 is dead already"):
        await cluster.kill("router", 1)
