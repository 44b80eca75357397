"""`eftchat cluster`: a whole cluster in one command, broken on purpose, and nothing of it left behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.commands import PATIENCE, Command, all_gone, commands, until

Start = Callable[..., Command]

GRACE = "3"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starting:
        yield starting


class Running:
    """A cluster of two nodes and a router, and the orders that it is given."""

    def __init__(self, start: Start, data: Path, free_port: int) -> None:
        self.start, self.data, self.place = start, data, f"127.0.0.1:{free_port}"
        sizes = ("--nodes", "2", "--routers", "1", "--grace", GRACE)
        self.command = start("cluster", "--data", str(data), "--port", str(free_port), *sizes)

    def order(self, *words: str) -> tuple[int, str]:
        """Gives an order; its exit code and what it says."""
        order = self.start("cluster", "--data", str(self.data), *words)
        return order.ends(), order.said

    def members(self) -> dict[str, Any]:
        code, said = self.order("status", "--json")
        assert code == 0, said
        return {member["name"]: member for member in json.loads(said)["members"]}

    def states(self) -> dict[str, str]:
        return {name: member["state"] for name, member in self.members().items()}

    def talk(self, name: str, text: str) -> str:
        chat = self.start("chat", self.place, "--room", "lobby", "--name", name, "--since", "0", stdin=text)
        assert chat.ends() == 0, chat.said
        return chat.said


@pytest.fixture
def cluster(start: Start, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Running]:
    running = Running(start, tmp_path / "data", free_port())
    running.command.says("Stop:    Ctrl-C", 2 * PATIENCE)
    yield running
    with suppress(psutil.NoSuchProcess):
        running.command.process.terminate()
        running.command.ends()


def test_a_cluster_is_broken_and_goes_on(cluster: Running) -> None:
    assert set(cluster.states().values()) == {"up", "primary", "secondary"}
    assert "Ann: hello" in cluster.talk("Ann", "hello")

    assert cluster.order("kill", "node", "1") == (0, "node 1 is dead: kill -9\n")
    assert cluster.states()["node 1"] == "dead", "it stays so"
    assert "Ann: hello" in cluster.talk("Bob", "still here")

    assert cluster.order("add", "node")[0] == 0
    assert cluster.states()["node 3"] == "up"
    code, said = cluster.order("drain", "node", "2")
    assert (code, "node 2 has left" in said, "clients told" in said) == (0, True, True)
    assert cluster.states()["node 2"] == "left"

    code, said = cluster.order("kill", "mongod", "primary")
    assert code == 0
    assert "Bob: still here" in cluster.talk("Eve", "and I")
    dead = said.removesuffix(" is dead: kill -9\n")
    assert cluster.order("restart", *dead.split())[0] == 0

    assert cluster.order("kill", "router", "1")[0] == 0
    assert "Eve: and I" in cluster.talk("Joe", "without a router")
    assert cluster.order("restart", "router", "1") == (0, "router 1 serves again\n")
    assert cluster.order("restart", "node", "1") == (0, "node 1 serves again\n")
    left = {name: state for name, state in cluster.states().items() if state in ("dead", "left")}
    assert left == {"node 2": "left"}


def test_orders_that_make_no_sense_are_refused_in_a_line(cluster: Running) -> None:
    assert cluster.order("kill", "node", "7") == (1, "Error: there is no node 7: there are 1, 2\n")
    assert cluster.order("drain", "node", "primary")[0] == 1
    assert cluster.order("kill", "mongod", "4")[1].startswith("Error: there is no mongod 4")
    second = cluster.start("cluster", "--data", str(cluster.data), "--port", "0")
    assert second.ends() == 1
    assert "A cluster runs in" in second.said
    assert (cluster.data / "control.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_everything_in_good_order(cluster: Running, number: signal.Signals) -> None:
    family = cluster.command.family()
    assert len(family) > 8
    assert cluster.command.stop(number) == 0
    assert "all have left" in cluster.command.said
    for name in ("node 1", "node 2", "router 1"):
        assert f"{name}: left (in good order)" in cluster.command.said
    all_gone(family, 5)


def test_kill_9_of_the_command_leaves_nothing_behind(cluster: Running) -> None:
    family = cluster.command.family()
    cluster.command.process.kill()
    all_gone(family)


def test_ctrl_c_while_it_starts_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    running = Running(start, tmp_path / "data", 0)
    running.command.says("router 1: starting")
    family = running.command.family()
    assert running.command.stop(signal.SIGINT) == 0
    all_gone(family, 5)


def test_it_continues_with_what_its_folder_holds(cluster: Running, tmp_path: Path) -> None:
    cluster.talk("Ann", "hello")
    cluster.command.process.kill()
    cluster.command.ends()
    again = Running(cluster.start, cluster.data, int(cluster.place.rpartition(":")[2]))
    again.command.says("Stop:    Ctrl-C", 2 * PATIENCE)
    assert "Ann: hello" in again.talk("Bob", "there again")
    assert again.command.stop() == 0


def test_a_member_that_cannot_start_is_named_with_its_reason(start: Start, tmp_path: Path) -> None:
    uri = "mongodb://127.0.0.1:1/?replicaSet=none"
    command = start(
        "cluster", "--data", str(tmp_path / "data"), "--port", "0", "--nodes", "1", "--mongodb", uri
    )
    assert command.ends() == 1
    until(lambda: "node 1 did not start" in command.said, lambda: command.said)
    assert "No MongoDB answers at 127.0.0.1:1" in command.said
