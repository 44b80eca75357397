"""The router's configuration is a pure function of its settings; its end is explained in its own words."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from eftchat.wamp.router import RouterUnavailable, explain, find_crossbar
from eftchat.wamp.router_settings import RouterSettings, load_template, render

TEMPLATE_FOLDER = Path(__file__).parents[2] / "crossbar"
TEMPLATE = load_template(TEMPLATE_FOLDER)


def rendered(**chosen: Any) -> dict[str, Any]:
    return render(RouterSettings(cbdir=Path("anywhere"), **chosen), template=TEMPLATE)


def transport(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(t for t in config["workers"][0]["transports"] if t["id"] == name)
    return found


def role(config: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    roles = config["workers"][0]["realms"][0]["roles"]
    return {grant["uri"]: grant for grant in next(r for r in roles if r["name"] == name)["permissions"]}


def allowed(grant: dict[str, Any]) -> set[str]:
    return {action for action, yes in grant["allow"].items() if yes}


def test_the_settings_end_up_where_crossbar_reads_them() -> None:
    config = rendered(
        client_interface="10.0.0.1",
        client_port=9001,
        node_interface="::1",
        node_port=9002,
        realm="other",
        max_connections=7,
    )
    assert config["workers"][0]["realms"][0]["name"] == "other"
    clients, nodes = transport(config, "clients"), transport(config, "nodes")
    assert clients["endpoint"] | {"interface": "10.0.0.1", "port": 9001, "version": 4} == clients["endpoint"]
    assert nodes["endpoint"] | {"interface": "::1", "port": 9002, "version": 6} == nodes["endpoint"]
    assert clients["max_connections"] == 7


def test_rendering_does_not_touch_the_template_and_gives_the_same_twice() -> None:
    before = deepcopy(TEMPLATE)
    first = rendered(client_port=9001)
    first["workers"].clear()
    assert before == TEMPLATE
    assert json.dumps(rendered()) == json.dumps(rendered())


def test_the_ticket_of_the_nodes_stays_a_name_that_the_router_looks_up_in_its_environment() -> None:
    auth = transport(rendered(), "nodes")["auth"]
    assert auth == {
        "ticket": {
            "type": "static",
            "principals": {"node": {"ticket": "${EFTCHAT_NODE_TICKET}", "role": "node"}},
        }
    }


def test_clients_are_anonymous_until_an_authenticator_is_given() -> None:
    assert transport(rendered(), "clients")["paths"]["ws"]["auth"] == {
        "anonymous": {"type": "static", "role": "client"}
    }
    given = {"ticket": {"type": "function", "create": "some.module.create"}}
    assert transport(rendered(client_auth=given), "clients")["paths"]["ws"]["auth"] == given


def test_the_clients_may_only_call_the_api_and_listen() -> None:
    grants = role(rendered(), "client")
    assert {uri: (grant["match"], allowed(grant)) for uri, grant in grants.items()} == {
        "eftchat.api.": ("prefix", {"call"}),
        "eftchat.room..": ("wildcard", {"subscribe"}),
        "eftchat.notice.": ("prefix", {"subscribe"}),
    }
    assert grants["eftchat.api."]["disclose"]["caller"] is True


def test_no_permission_that_depends_on_a_room_is_cached() -> None:
    config = rendered()
    for name in ("node", "client"):
        assert not any(
            grant["cache"] for uri, grant in role(config, name).items() if uri.startswith("eftchat.")
        )


def test_no_two_wildcards_of_a_role_share_their_beginning_because_crossbar_would_keep_only_the_last() -> None:
    config = rendered()
    for name in ("node", "client"):
        beginnings = [uri.split("..")[0] for uri in role(config, name) if ".." in uri]
        assert len(beginnings) == len(set(beginnings))


def test_the_nodes_listener_comes_first_so_that_a_healthy_router_serves_both() -> None:
    assert [t["id"] for t in rendered()["workers"][0]["transports"]] == ["nodes", "clients"]


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("https://chat.example.org", "https://chat.example.org:443"),
        ("http://chat.example.org", "http://chat.example.org:80"),
        ("http://chat.example.org:8000", "http://chat.example.org:8000"),
        ("http://localhost:*", "http://localhost:*"),
        ("http://[::1]", "http://[::1]:80"),
        ("*", "*"),
    ],
)
def test_an_origin_may_leave_out_the_usual_port(written: str, compared: str) -> None:
    ws = transport(rendered(allowed_origins=(written,)), "clients")["paths"]["ws"]
    assert ws["options"]["allowed_origins"] == [compared]


def test_only_pages_of_this_machine_may_connect_unless_told_otherwise() -> None:
    options = transport(rendered(), "clients")["paths"]["ws"]["options"]
    assert options["allowed_origins"] == ["http://localhost:*", "http://127.0.0.1:*"]
    assert options["allow_null_origin"] is False


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        ({"client_port": 0}, "0 is no TCP port"),
        ({"node_port": 65536}, "65536 is no TCP port"),
        ({"client_port": 9, "node_port": 9}, "a port each"),
        ({"realm": "Has Spaces"}, "no realm"),
        ({"max_connections": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(chosen: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RouterSettings(cbdir=Path("anywhere"), **chosen)


def test_a_router_on_every_interface_is_reached_through_loopback() -> None:
    settings = RouterSettings(cbdir=Path("x"), client_interface="0.0.0.0", node_interface="::", node_port=9)
    assert settings.client_url == "ws://127.0.0.1:8080/ws"
    assert settings.node_url == "ws://[::1]:9/"


def test_a_missing_template_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(RouterUnavailable, match="template is missing"):
        load_template(tmp_path)


PREFIX = "2026-11-23T18:07:16+0000 [Controller   6236] "


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            [
                "noise",
                "twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:8081: "
                "[Errno 98] Address already in use.",
                "more noise",
            ],
            "port 8081 on 127.0.0.1 is taken by another program",
        ),
        (
            ["CannotListenError: Couldn't listen on 10.9.9.9:80: [Errno 13] Permission denied."],
            "the router cannot listen on 10.9.9.9:80 ([Errno 13] Permission denied)",
        ),
        (
            [PREFIX + "Invalid node configuration", PREFIX + "unknown thing 'x'"],
            "Crossbar refuses its configuration: unknown thing 'x'",
        ),
        (
            ["Crossbar.io is already running from node directory /x (PID 12)."],
            "Crossbar.io is already running from node directory /x (PID 12)",
        ),
        (
            [PREFIX + "Invalid router transport configuration: WAMP-Ticket - no ticket", "more"],
            "Crossbar refuses its configuration: WAMP-Ticket - no ticket",
        ),
        (
            [PREFIX + "out of luck", PREFIX + "Native worker received SIGTERM - shutting down ..", ""],
            "the router ended (exit code 1); its last words: out of luck",
        ),
        ([PREFIX + "out of luck", ""], "the router ended (exit code 1); its last words: out of luck"),
        ([], "the router ended (exit code 1); its last words: nothing"),
    ],
)
def test_the_end_of_a_router_is_explained_in_one_sentence(lines: list[str], reason: str) -> None:
    assert explain(lines, "exit code 1") == reason


def test_a_missing_crossbar_is_answered_with_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(RouterUnavailable, match=r"pip install 'eftchat\[router\]'"):
        find_crossbar(str(tmp_path), python=str(tmp_path / "python"))


def test_crossbar_is_taken_from_beside_python_before_the_path(tmp_path: Path) -> None:
    beside, elsewhere = tmp_path / "here" / "crossbar", tmp_path / "there" / "crossbar"
    for program in (beside, elsewhere):
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    assert find_crossbar(str(elsewhere.parent), python=str(beside.parent / "python")) == beside
    assert find_crossbar(str(elsewhere.parent), python=str(tmp_path / "python")) == elsewhere
