"""`eftchat node` and `eftchat router` as an operator starts them: good luck, bad luck, and what they say."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psutil
import pytest

from eftchat.testing.mongod import ReplicaSet
from tests.integration.commands import Command, commands, until

TICKET, ROOM_SECRET = "the ticket of all tests", "the room secret of all tests"

Start = Callable[..., Command]


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    running = ReplicaSet.start(tmp_path_factory.mktemp("mongo"), size=1)
    yield running
    running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starting:
        yield starting


@pytest.fixture
def uri(replica_set: ReplicaSet, tmp_path: Path) -> str:
    """A database that nobody has used."""
    return replica_set.uri.replace("/?", f"/{tmp_path.name[-30:]}?")


@pytest.fixture
def settings(tmp_path: Path, uri: str, free_port: Callable[[], int]) -> dict[str, Any]:
    """The environment of a node, as a container would have it, and the port of its router."""
    (tmp_path / "ticket").write_text(f"{TICKET}\n")
    (tmp_path / "room-secret").write_text(f"{ROOM_SECRET}\n")
    router = free_port()
    return {
        "router": router,
        "environment": {
            "EFTCHAT_NODE_HOST": "127.0.0.1",
            "EFTCHAT_NODE_PORT": str(free_port()),
            "EFTCHAT_NODE_ROUTER": f"ws://127.0.0.1:{router} ws://127.0.0.1:{free_port()}/",
            "EFTCHAT_NODE_TICKET_FILE": str(tmp_path / "ticket"),
            "EFTCHAT_NODE_ROOM_SECRET_FILE": str(tmp_path / "room-secret"),
            "EFTCHAT_NODE_MONGODB": uri,
            "EFTCHAT_NODE_GRACE": "5",
        },
    }


@pytest.fixture
def start_router(start: Start, tmp_path: Path, free_port: Callable[[], int]) -> Callable[[int], Command]:
    def starting(node_port: int) -> Command:
        return start(
            *("router", "--client-host", "127.0.0.1", "--client-port", str(free_port())),
            *("--node-host", "127.0.0.1", "--node-port", str(node_port)),
            *("--data", str(tmp_path / "router"), "--grace", "5"),
            EFTCHAT_ROUTER_TICKET=TICKET,
        )

    return starting


def ask(environment: dict[str, str], path: str) -> Any:
    """What the node answers; None when it does not."""
    with suppress(URLError, ConnectionError):
        try:
            answer = urlopen(f"http://127.0.0.1:{environment['EFTCHAT_NODE_PORT']}{path}", timeout=5)
        except HTTPError as error:
            answer = error
        return json.loads(answer.read())


def talk(start: Start, environment: dict[str, str], name: str, text: str) -> str:
    """Somebody says it in a room; what is printed there."""
    place = f"127.0.0.1:{environment['EFTCHAT_NODE_PORT']}"
    chat = start("chat", place, "--room", "lobby", "--name", name, "--since", "0", stdin=text)
    assert chat.ends() == 0
    return chat.said


def test_a_node_serves_without_a_router_and_is_there_when_one_comes(
    start: Start, start_router: Callable[[int], Command], settings: dict[str, Any]
) -> None:
    environment = settings["environment"]
    node = start("node", **environment)
    url = f"ws://127.0.0.1:{settings['router']}/"
    node.says(f"the router at {url} is away")
    assert ask(environment, "/readyz") == {"ok": True}
    assert "Ann: hello" in talk(start, environment, "Ann", "hello")
    router = start_router(settings["router"])
    node.says(f"the router at {url} is there")
    assert node.said.count("is away") == 2, "once for each router"
    status = ask(environment, "/status")
    assert status["routers"][url] == "up"
    assert sorted(status["routers"].values()) == ["down", "up"]
    assert (status["problem"], status["leaving"]) == (None, False)
    assert node.stop() == 0
    assert "SIGTERM: leaving" in node.said
    assert router.stop() == 0


def test_the_ticket_decides_and_a_wrong_one_is_exit_3(
    start: Start, start_router: Callable[[int], Command], settings: dict[str, Any]
) -> None:
    start_router(settings["router"]).says("the router is up")
    wrong = {**settings["environment"], "EFTCHAT_NODE_TICKET": "not the ticket of all tests"}
    del wrong["EFTCHAT_NODE_TICKET_FILE"]
    node = start("node", **wrong)
    assert node.ends() == 3
    assert "refuses this node's ticket" in node.said
    assert "check the ticket that router and node share" in node.said


def test_a_second_node_with_the_same_id_is_refused_and_the_first_goes_on(
    start: Start, settings: dict[str, Any], free_port: Callable[[], int]
) -> None:
    environment = {**settings["environment"], "EFTCHAT_NODE_ID": "web-1"}
    first = start("node", **environment)
    until(lambda: ask(environment, "/readyz"))
    second = start("node", **{**environment, "EFTCHAT_NODE_PORT": str(free_port())})
    second.says("a node ran as web-1 a moment ago: waiting")
    assert second.ends() == 1
    assert "eftchat: Another node runs as web-1: give each an id of its own" in second.said
    assert ask(environment, "/readyz") == {"ok": True}
    assert first.stop() == 0


def test_a_node_takes_the_id_over_from_one_that_left_and_waits_for_that_of_one_that_was_killed(
    start: Start, settings: dict[str, Any]
) -> None:
    environment = {**settings["environment"], "EFTCHAT_NODE_ID": "web-1"}
    for ending in (signal.SIGTERM, signal.SIGKILL):
        node = start("node", **environment)
        node.says("node web-1 serves")
        assert "waiting" not in node.said
        node.stop(ending)
    last = start("node", **environment)
    last.says("node web-1 serves")
    assert "waiting" in last.said
    assert last.stop() == 0


def test_people_on_two_nodes_read_each_other(
    start: Start, settings: dict[str, Any], free_port: Callable[[], int]
) -> None:
    one = settings["environment"]
    two = {**one, "EFTCHAT_NODE_PORT": str(free_port())}
    nodes = [start("node", **environment) for environment in (one, two)]
    for node in nodes:
        node.says(" serves ")
    assert "hello from one" in talk(start, one, "Ann", "hello from one")
    assert "Ann: hello from one" in talk(start, two, "Bob", "hello from two")
    assert [node.stop(signal.SIGINT) for node in nodes] == [0, 0]


def test_no_database_is_said_and_exit_1(start: Start, settings: dict[str, Any], free_port: Any) -> None:
    uri = f"mongodb://127.0.0.1:{free_port()}/?replicaSet=rs0"
    node = start("node", **{**settings["environment"], "EFTCHAT_NODE_MONGODB": uri})
    assert node.ends() == 1
    assert "eftchat: No MongoDB answers at 127.0.0.1" in node.said


@pytest.mark.parametrize("secret", ["TICKET", "ROOM_SECRET"])
def test_a_missing_secret_is_said_and_exit_1(start: Start, settings: dict[str, Any], secret: str) -> None:
    environment = {**settings["environment"]}
    del environment[f"EFTCHAT_NODE_{secret}_FILE"]
    node = start("node", **environment)
    assert node.ends() == 1
    assert f"or the variable EFTCHAT_NODE_{secret}" in node.said
    assert "Traceback" not in node.said


def test_a_taken_port_is_said_and_exit_1(start: Start, settings: dict[str, Any], replica_set: Any) -> None:
    taken = str(replica_set.members[0].port)
    node = start("node", **{**settings["environment"], "EFTCHAT_NODE_PORT": taken})
    assert node.ends() == 1
    assert f"127.0.0.1:{taken} cannot be listened on" in node.said


def test_no_secret_is_in_a_log_or_a_command_line(
    start: Start, start_router: Callable[[int], Command], settings: dict[str, Any]
) -> None:
    router = start_router(settings["router"])
    node = start("node", "--log-level", "debug", **settings["environment"])
    node.says(f"the router at ws://127.0.0.1:{settings['router']}/ is there")
    shown = [node.said, router.said]
    for command in (node, router):
        shown += [" ".join(psutil.Process(process.pid).cmdline()) for process in command.family()]
    for text in shown:
        assert TICKET not in text
        assert ROOM_SECRET not in text
