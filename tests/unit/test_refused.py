"""Every bad frame gets its error, the connection stays, nobody else is disturbed, nothing is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.desk import Desk, Talk

VECTORS = Path(__file__).parent.parent / "vectors"


def rows(name: str) -> list[Any]:
    found = json.loads((VECTORS / name).read_text())
    return [pytest.param(row, id=row["name"]) for row in found]


def send(talk: Talk, row: dict[str, Any]) -> list[dict[str, Any]]:
    frame = row["frame"]
    talk.conversation.received(None if frame is None else frame.encode())
    return talk.socket.take()


def check_nothing_happened(desk: Desk, talk: Talk, other: Talk) -> None:
    desk.pass_time(5)
    assert talk.socket.closed is None
    assert other.socket.take() == []
    assert desk.bus.published == []


@pytest.mark.parametrize("row", rows("v2_refused.json"))
def test_a_bad_v2_frame_gets_its_error_and_nothing_else_happens(row: dict[str, Any]) -> None:
    desk = Desk()
    talk = desk.v2(room="R", name="Ann")
    other = desk.v1(room="R", name="Bob")
    talk.socket.take()
    (answer,) = send(talk, row)
    assert answer["id"] == row["id"]
    error = answer["error"]
    assert (error["code"], error["data"]["reason"]) == (row["code"], row["reason"])
    assert error["data"]["retryable"] is row["retryable"]
    assert error["message"]
    check_nothing_happened(desk, talk, other)
    assert "result" in talk.call("members", room="R")[0]


@pytest.mark.parametrize("row", rows("v1_refused.json"))
def test_a_bad_v1_frame_gets_its_error_and_nothing_else_happens(row: dict[str, Any]) -> None:
    desk = Desk()
    other = desk.v1(room="R", name="Bob", user="uB")
    talk = desk.v1(room="R", name="Ann", user="uA")
    other.socket.take()
    (answer,) = send(talk, row)
    assert answer["id"] == row["id"]
    assert answer["error"]["code"] == row["code"]
    assert "result" not in answer
    check_nothing_happened(desk, talk, other)


def test_requests_before_connect_are_refused() -> None:
    talk = Desk().v2()
    talk.conversation.connected = False  # type: ignore[attr-defined]
    (answer,) = talk.call("members", room="R")
    assert answer["error"]["data"]["reason"] == "not_connected"


def test_the_21st_room_is_refused() -> None:
    talk = Desk().v2()
    for n in range(20):
        assert "result" in talk.call("join", room=f"R{n}", name="Ann")[0]
    (answer,) = talk.call("join", room="R20", name="Ann")
    assert answer["error"]["data"]["reason"] == "too_many_rooms"
    assert "result" in talk.call("join", room="R19", name="Ann")[0]


def test_a_node_that_leaves_sends_joiners_elsewhere() -> None:
    desk = Desk()
    desk.rooms.refusing = True
    (answer,) = desk.v2().call("join", room="R", name="Ann")
    assert answer["error"]["data"] == {"reason": "draining", "retryable": True, "retry_after_ms": 0}
