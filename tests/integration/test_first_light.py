"""The promise at its simplest: twenty clients of all three doors, a node that is killed, one log for everyone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted

from eftchat.testing.mongod import ReplicaSet
from tests.integration.crowd import Crowd, eventually
from tests.integration.processes import Up

MESSAGES = 200
KILLS = 2


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    running = ReplicaSet.start(tmp_path_factory.mktemp("mongo"))
    yield running
    running.stop()


@pytest.fixture(params=["sqlite", "mongodb"])
def node(request: pytest.FixtureRequest, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Up]:
    """A node, not started yet, over either store."""
    options: tuple[str, ...] = ()
    if request.param == "mongodb":
        uri = request.getfixturevalue("replica_set").uri
        options = ("--mongodb", uri.replace("/?", f"/{tmp_path.name}?"))
    up = Up(tmp_path / "data", free_port(), free_port(), options)
    yield up
    if up.process is not None and up.process.poll() is None:
        up.kill()


async def kill_twice(node: Up, crowd: Crowd) -> None:
    """Kills the node in the middle of the talk, and starts it again."""
    total = MESSAGES * 20
    for kill in range(1, KILLS + 1):
        await eventually(
            lambda goal=total * kill / (KILLS + 2): crowd.count > goal, 120, lambda: f"stuck at {crowd.count}"
        )
        node.kill()
        await node.start()


@pytest_twisted.ensureDeferred
async def test_twenty_clients_agree_though_the_node_is_killed_twice(node: Up) -> None:
    await node.start()
    crowd = Crowd(node.chat_url, node.wamp_url, ("the room",), v1_each=10, v2_each=5, wamp_each=5)
    await crowd.enter()
    crowd.talk(MESSAGES)
    await kill_twice(node, crowd)
    await crowd.finish()
    await crowd.judge()
    assert crowd.count == MESSAGES * 20
    await crowd.leave()
    assert await node.stop() == 0
