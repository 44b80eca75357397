"""Real faults under load. After each: the log is dense, nothing acknowledged is missing or there twice, and every
client has exactly what a fresh reader gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from eftchat.testing.mongod import ReplicaSet
from tests.integration.crowd import Crowd
from tests.integration.processes import Up

BEFORE, AFTER = 200, 300
"""Messages that are acknowledged before the fault, and behind it."""


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    running = ReplicaSet.start(tmp_path_factory.mktemp("mongo"))
    yield running
    running.stop()


@pytest.fixture
def make_node(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Up]]:
    """Makes a node on ports of its own, not started."""
    made: list[Up] = []

    def make(*options: str) -> Up:
        made.append(Up(tmp_path / "data", free_port(), free_port(), options))
        return made[-1]

    yield make
    for up in made:
        if up.process is not None and up.process.poll() is None:
            up.kill()


@pytest_twisted.async_yield_fixture
async def on_mongodb(
    make_node: Callable[..., Up], replica_set: ReplicaSet, tmp_path: Path
) -> AsyncIterator[Up]:
    """A node over the replica set, with a database of its own."""
    node = make_node("--mongodb", replica_set.uri.replace("/?", f"/{tmp_path.name[-30:]}?"))
    await node.start()
    yield node
    await deferToThread(replica_set.settled)


async def survive(node: Up, fault: Callable[[Crowd], Awaitable[None]], wamp_each: int = 0) -> None:
    """People talk, something breaks, people talk on; then everything is looked at."""
    crowd = Crowd(node.chat_url, node.wamp_url, wamp_each=wamp_each)
    await crowd.enter()
    crowd.talk()
    await crowd.more(BEFORE)
    await fault(crowd)
    await crowd.more(AFTER)
    await crowd.hush()
    await crowd.judge()
    await crowd.leave()
    assert await node.stop() == 0


@pytest_twisted.ensureDeferred
async def test_the_primary_is_killed(on_mongodb: Up, replica_set: ReplicaSet) -> None:
    async def fault(crowd: Crowd) -> None:
        primary = await deferToThread(replica_set.primary)
        replica_set.kill(primary)
        await crowd.more(AFTER)
        await deferToThread(replica_set.restart, primary)

    await survive(on_mongodb, fault)


@pytest_twisted.ensureDeferred
async def test_the_primary_steps_down(on_mongodb: Up, replica_set: ReplicaSet) -> None:
    async def fault(crowd: Crowd) -> None:
        await deferToThread(replica_set.step_down)

    await survive(on_mongodb, fault)


@pytest_twisted.ensureDeferred
async def test_the_primary_freezes_and_comes_back_with_old_ideas(
    on_mongodb: Up, replica_set: ReplicaSet
) -> None:
    async def fault(crowd: Crowd) -> None:
        primary = await deferToThread(replica_set.primary)
        replica_set.freeze(primary)
        try:
            await crowd.more(AFTER)
        finally:
            replica_set.thaw(primary)

    await survive(on_mongodb, fault)


@pytest_twisted.ensureDeferred
async def test_the_whole_database_is_killed_and_comes_back(on_mongodb: Up, replica_set: ReplicaSet) -> None:
    async def fault(crowd: Crowd) -> None:
        for member in replica_set.members:
            replica_set.kill(member)
        await deferLater(reactor, 3.0)  # as long as an operator needs to press the button
        for member in replica_set.members:
            await deferToThread(replica_set.restart, member)

    await survive(on_mongodb, fault)


@pytest_twisted.ensureDeferred
async def test_the_router_is_killed(make_node: Callable[..., Up]) -> None:
    node = make_node()
    await node.start()

    async def fault(crowd: Crowd) -> None:
        assert node.process is not None
        family = psutil.Process(node.process.pid).children(recursive=True)
        (controller,) = [child for child in family if "crossbar-controller" in " ".join(child.cmdline())]
        controller.kill()

    await survive(node, fault, wamp_each=2)


@pytest_twisted.ensureDeferred
async def test_the_node_is_killed(make_node: Callable[..., Up]) -> None:
    node = make_node()
    await node.start()

    async def fault(crowd: Crowd) -> None:
        node.kill()
        await node.start()

    await survive(node, fault)


@pytest_twisted.ensureDeferred
async def test_clients_are_cut_in_the_middle_of_a_frame(make_node: Callable[..., Up]) -> None:
    node = make_node()
    await node.start()

    async def fault(crowd: Crowd) -> None:
        for _ in range(3):
            for client in crowd.v1:
                client.cut(b'\x81\xfe\x01\x00abcd{"jsonrpc"')
            await crowd.more(20)

    await survive(node, fault)
