"""Bad states are said in the log once, with clear words, and shown as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, field
from prometheus_client import CollectorRegistry, generate_latest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Message
from eftchat.lease import Lease
from eftchat.log import Bounds, Log
from eftchat.ops.metrics import NodeCollector
from eftchat.ops.watch import Watch
from eftchat.ports import Appended
from eftchat.testing.memory import MemoryMessages
from tests.unit.desk import Desk, draft


@define(eq=False)
class Away(MemoryMessages):
    """The store, not to be reached while `away`."""

    away: bool = field(default=False, init=False)

    async def append(self, batch: Any) -> Appended:
        if self.away:
            raise Unavailable("away")
        return await super().append(batch)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the node wrote to its log."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"] == "eftchat.node":
            lines.append(f"{event['log_level'].name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def watched(desk: Desk) -> Watch:
    """A watch that has begun, over a node that holds its lease."""
    lease = Lease(desk.rooms, desk.rooms.loop)
    desk.rooms.loop.spawn(lease.start(), "test")
    watch = Watch(desk.rooms, lease, desk.rooms.loop)
    watch.start()
    return watch


def figures(desk: Desk, watch: Watch) -> dict[str, float]:
    """What Prometheus would read."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(desk.rooms, watch.lease, dict, dict, dict))  # type: ignore[arg-type]
    lines = generate_latest(registry).decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}


def test_a_store_that_is_away_is_said_when_it_begins_and_when_it_ends(said: list[str]) -> None:
    store = Away()
    desk = Desk(messages=store)
    watch = watched(desk)
    store.away = True
    desk.rooms.log.post(draft("a"))
    desk.pass_time(5)
    assert said == ["error: the store is away; 1 posts wait"]
    assert figures(desk, watch)["eftchat_store_away"] == 1
    store.away = False
    desk.pass_time(5)
    assert said[1:] == ["warn: the store is back after 4 s"] or "is back" in said[1]
    assert figures(desk, watch)["eftchat_store_away"] == 0
    assert figures(desk, watch)["eftchat_posts_stored_total"] == 1


def test_a_full_queue_is_said_with_how_many_were_refused(said: list[str]) -> None:
    desk = Desk()
    watch = watched(desk)
    desk.rooms.log = Log(desk.messages, desk.rooms.loop, desk.rooms.rng, lambda *_: None, Bounds(queue=1))
    ann = desk.v2(room="R")
    for uuid in ("a", "b", "c"):
        ann.call("post", room="R", uuid=uuid, kind="text", body={"text": "x"})
    desk.pass_time(2)
    assert said == ["error: the queue is full: 1 posts refused in a second"]
    assert figures(desk, watch)["eftchat_posts_refused_total"] == 1


def test_a_cursor_of_another_log_is_said(said: list[str]) -> None:
    desk = Desk()
    watch = watched(desk)
    desk.v2().call("join", room="R", name="Ann", after={"epoch": "0123456789", "seq": 1})
    desk.pass_time(2)
    assert said == ["warn: 1 readers came with a cursor of another log"]
    assert figures(desk, watch)["eftchat_cursors_reset_total"] == 1


def test_readers_that_stay_behind_are_said_once(said: list[str]) -> None:
    @define(eq=False)
    class Unreadable(Away):
        async def after(self, room: str, seq: int, limit: int) -> list[Message]:
            if self.away:
                raise Unavailable("away")
            return await super().after(room, seq, limit)

    store = Unreadable()
    desk = Desk(messages=store)
    watch = watched(desk)
    ann = desk.v2(room="R")
    for n in range(600):
        desk.rooms.post(ann.conversation.sittings["r"].seat, f"u{n}", "text", {"text": "x"})
    desk.pass_time(1)
    store.away = True
    desk.v2().call("join", room="R", name="Bob", after={"epoch": None, "seq": 0})
    desk.pass_time(100)
    assert said == ["warn: 1 readers are behind, some for 30 s"]
    assert figures(desk, watch)['eftchat_readers{state="behind"}'] == 1
    store.away = False


def test_a_lapsed_lease_is_said(said: list[str]) -> None:
    desk = Desk()
    watch = watched(desk)
    desk.pass_time(1)
    watch.lease.stop()
    desk.pass_time(12)
    assert said == ["error: the lease has lapsed: members were sent away, nobody is let in"]
    assert figures(desk, watch)["eftchat_lease_held"] == 0
