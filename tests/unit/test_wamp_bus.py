"""The bus over several lines: everything to all of them, from each what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field

from eftchat.domain.messages import Entered, Left, Member, Message, Presence, Room
from eftchat.wamp import events
from eftchat.wamp.bus import NoBus, WampBus
from eftchat.wire import schema
from tests.unit.lines import FakeLine

ROOM = Room("r", "R", "e1")
ANN = Member("uA", "Ann")
MESSAGES, PRESENCE = "eftchat.room.kr.messages", "eftchat.room.kr.presence"


MEMBER = {"user": "uA", "name": "Ann"}


def message(seq: int, text: str = "hi") -> Message:
    return Message("r", seq, f"u{seq}", "text", "uA", "Ann", 17, {"text": text})


@define(eq=False)
class Listener:
    heard: list[Any] = field(factory=list)

    def arrived(self, room: str, epoch: str, messages: Sequence[Message]) -> None:
        self.heard.append((room, epoch, [m.seq for m in messages]))

    def noticed(self, room: str, presence: Presence) -> None:
        self.heard.append((room, presence))

    def watching(self, room: str) -> None:
        self.heard.append((room, "watching"))


def made(lines: int = 2) -> tuple[WampBus, list[FakeLine], Listener]:
    fakes = [FakeLine() for _ in range(lines)]
    bus, listener = WampBus(lambda room: f"k{room}", "n1", list(fakes)), Listener()
    bus.listener = listener
    return bus, fakes, listener


def test_a_watched_room_is_heard_on_every_line_until_it_is_unwatched() -> None:
    bus, lines, listener = made()
    bus.watch(ROOM)
    for line in lines:
        line.event(MESSAGES, **schema.shown_batch(ROOM, [message(1)]))
    lines[1].event(PRESENCE, **events.shown_presence(ROOM, Left(ANN)))
    assert listener.heard == [("r", "e1", [1]), ("r", "e1", [1]), ("r", Left(ANN))]
    bus.unwatch(ROOM)
    assert [line.topics for line in lines] == [{}, {}]


def test_each_line_that_begins_to_watch_is_told() -> None:
    bus, lines, listener = made()
    bus.watch(ROOM)
    lines[1].effective(MESSAGES)
    lines[1].effective(PRESENCE)
    assert listener.heard == [("r", "watching")]


def test_events_go_to_every_line() -> None:
    bus, lines, _ = made()
    bus.publish(ROOM, [message(1), message(2)])
    bus.announce(ROOM, Entered(ANN))
    assert lines[0].published == lines[1].published
    assert lines[0].published == [
        (MESSAGES, schema.shown_batch(ROOM, [message(1), message(2)])),
        (
            PRESENCE,
            {"event": "entered", "room": "R", "member": MEMBER, "returning": False, "id": "n1.1"},
        ),
    ]


def test_who_came_or_went_is_heard_once_though_every_router_tells_it() -> None:
    bus, lines, listener = made(3)
    bus.watch(ROOM)
    told = [Entered(ANN), Left(ANN), Entered(ANN)]
    for presence in told:
        bus.announce(ROOM, presence)
    for line in lines:
        for topic, payload in line.published:
            line.event(topic, **payload)
    assert listener.heard == [("r", presence) for presence in told]
    lines[0].event(PRESENCE, **events.shown_presence(ROOM, Left(ANN)))
    lines[1].event(PRESENCE, **events.shown_presence(ROOM, Left(ANN)))
    assert listener.heard[3:] == [("r", Left(ANN))] * 2


def test_a_large_batch_is_cut_into_events() -> None:
    bus, lines, _ = made(1)
    bus.publish(ROOM, [message(seq, "x" * 16_000) for seq in range(1, 8)])
    seqs = [[m["seq"] for m in payload["messages"]] for _, payload in lines[0].published]
    assert seqs == [[1, 2, 3], [4, 5, 6], [7]]


def test_without_a_router_events_are_lost_and_counted() -> None:
    bus, lines, _ = made()
    lines[0].alive = False
    bus.announce(ROOM, Left(ANN))
    assert (bus.unsent, len(lines[1].published)) == (0, 1)
    lines[1].alive = False
    bus.publish(ROOM, [message(1)])
    assert bus.unsent == 1
    assert bus.notice({"reason": "leaving"}) is False
    assert made(0)[0].notice({}) is False


def test_what_is_no_event_is_dropped_and_counted() -> None:
    bus, lines, listener = made(1)
    bus.watch(ROOM)
    lines[0].event(MESSAGES, 1, 2, 3)
    lines[0].event(MESSAGES, room="R", epoch="e1", messages=[{"seq": 1}])
    lines[0].event(PRESENCE, event="entered")
    assert (bus.malformed, listener.heard) == (3, [])


def test_a_node_alone_has_a_bus_that_does_nothing() -> None:
    bus = NoBus()
    bus.watch(ROOM)
    bus.publish(ROOM, [message(1)])
    bus.announce(ROOM, Left(ANN))
    bus.unwatch(ROOM)
