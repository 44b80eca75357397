"""What the commands of a cluster make of options and environment, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from eftchat.commands import node_command, router_command

URI = "mongodb://db1:27017/chat"


def run(make: Callable[[Any], click.Command], *words: str, **environment: str) -> tuple[Result, list[Any]]:
    """What the command says, and the mains that it would run."""
    started: list[Callable[[Any], Coroutine[Any, Any, int]]] = []
    group = click.Group(context_settings={"auto_envvar_prefix": "EFTCHAT"})
    command = make(started.append)
    group.add_command(command)
    return CliRunner().invoke(group, [str(command.name), *words], env=environment), started


@pytest.fixture(autouse=True)
def no_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging begins once in a process: not here."""
    monkeypatch.setattr("eftchat.commands.begin", lambda *_: None)


def test_every_option_of_a_node_can_come_from_the_environment() -> None:
    result, started = run(
        node_command, EFTCHAT_NODE_ROUTER="ws://r1:8082 ws://r2:8082/", EFTCHAT_NODE_MONGODB=URI
    )
    assert result.exit_code == 0, result.output
    assert len(started) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--mongodb", URI], "Missing option '--router'"),
        (["--router", "ws://r1:8082"], "Where is MongoDB?"),
        (["--router", "r1:8082", "--mongodb", URI], "'r1:8082' is no router's address"),
        (["--router", "ws://r1:none", "--mongodb", URI], "is no router's address"),
        (["--router", "ws://r1", "--mongodb", "mongodb://u:p@db1/chat"], "use EFTCHAT_NODE_MONGODB"),
        (["--router", "ws://r1", "--mongodb", URI, "--id", "no spaces"], "letters, digits"),
        (["--router", "ws://r1", "--mongodb", URI, "--port", "70000"], "not in the range"),
    ],
)
def test_wrong_usage_of_a_node_is_said_and_is_exit_2(words: list[str], complaint: str) -> None:
    result, started = run(node_command, *words)
    assert complaint in result.output
    assert (result.exit_code, started) == (2, [])


def test_a_password_in_the_environment_is_nobodys_business() -> None:
    result, started = run(node_command, "--router", "ws://r1", EFTCHAT_NODE_MONGODB="mongodb://u:p@db1/chat")
    assert (result.exit_code, len(started)) == (0, 1)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--client-port", "9", "--node-port", "9"], "clients and nodes need a port each"),
        (["--client-port", "0"], "not in the range"),
        (["--max-connections", "0"], "max_connections is at least 1"),
    ],
)
def test_wrong_usage_of_a_router_is_said_and_is_exit_2(words: list[str], complaint: str) -> None:
    result, started = run(router_command, *words)
    assert complaint in result.output
    assert (result.exit_code, started) == (2, [])


def test_help_documents_environment_secrets_and_exit_codes() -> None:
    for make, prefix in ((node_command, "EFTCHAT_NODE"), (router_command, "EFTCHAT_ROUTER")):
        output = run(make, "--help")[0].output
        assert f"{prefix}_TICKET_FILE" in output
        assert "Exit: 0 left in good order" in output


def test_no_secret_is_an_option() -> None:
    """So none can be in a command line."""
    for make in (node_command, router_command):
        names = [name for parameter in make(print).params for name in parameter.opts]
        assert not {"--ticket", "--room-secret", "--password"} & set(names)


def test_orders_without_a_cluster_say_how_to_start_one(tmp_path: Path) -> None:
    from eftchat.cluster.command import cluster_command

    command = cluster_command(print, dict)
    for order in (["kill", "node", "1"], ["drain", "router", "1"], ["add", "node"], ["status"]):
        result = CliRunner().invoke(command, ["--data", str(tmp_path), *order])
        assert result.exit_code == 1
        assert f"No cluster runs in {tmp_path}. Start one: eftchat cluster" in result.output


def test_orders_that_make_no_sense_are_exit_2(tmp_path: Path) -> None:
    from eftchat.cluster.command import cluster_command

    command = cluster_command(print, dict)
    for order in (["kill", "cat", "1"], ["kill", "node", "two"], ["drain", "mongod", "1"], ["add", "router"]):
        assert CliRunner().invoke(command, ["--data", str(tmp_path), *order]).exit_code == 2
