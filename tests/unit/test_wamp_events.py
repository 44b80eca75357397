"""What is written on room topics, how it is cut, and what is taken for an event."""

from __future__ import annotations

from typing import Any

import pytest

from eftchat.domain.errors import BadParams
from eftchat.domain.messages import Entered, Left, Member, Message, Presence, Room, Typing
from eftchat.wamp import events
from eftchat.wire import schema

ROOM = Room("r", "R", "e1")
ANN = Member("uA", "Ann")


def message(seq: int, text: str = "hi") -> Message:
    return Message("r", seq, f"u{seq}", "text", "uA", "Ann", 17, {"text": text})


def sizes(messages: list[Message]) -> list[int]:
    return [len(part) for part in events.parts(ROOM, messages)]


def test_what_is_written_is_what_is_heard() -> None:
    messages = [message(4), message(5)]
    assert events.heard_messages("r", schema.shown_batch(ROOM, messages)) == ("e1", messages)


@pytest.mark.parametrize(
    "presence",
    [Entered(ANN), Entered(ANN, returning=True), Left(ANN), Typing(ANN, True), Typing(ANN, False)],
)
def test_who_came_went_or_types_is_heard_as_it_was_told(presence: Presence) -> None:
    assert events.heard_presence(events.shown_presence(ROOM, presence)) == presence


def test_nothing_needs_no_event() -> None:
    assert sizes([]) == []


def test_few_small_messages_are_one_event() -> None:
    assert sizes([message(seq) for seq in range(1, 101)]) == [100]


def test_an_event_has_a_bounded_number_of_messages() -> None:
    tiny = Room("r", "R", "e")
    parts = list(events.parts(tiny, [Message("r", n, "u", "text", "", "", 0, {}) for n in range(1, 1101)]))
    assert sum(len(part) for part in parts) == 1100
    assert max(len(part) for part in parts) <= events.EVENT_MESSAGES


@pytest.mark.parametrize("text", ["x" * 16_000, "\x01" * 3_000, "ö" * 8_000, "\N{GRINNING FACE}" * 4_000])
def test_an_event_is_small_whatever_its_messages_are_made_of(text: str) -> None:
    for part in events.parts(ROOM, [message(seq, text) for seq in range(1, 21)]):
        assert len(events._encode(schema.shown_batch(ROOM, part))) < events.EVENT_BYTES + 1024


def test_a_message_that_is_too_large_goes_alone() -> None:
    assert sizes([message(1), message(2, "\x01" * 16_384), message(3)]) == [1, 1, 1]


GOOD: dict[str, Any] = schema.shown_batch(ROOM, [message(1), message(2)])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {**GOOD, "messages": []},
        {**GOOD, "messages": None},
        {**GOOD, "epoch": 7},
        {**GOOD, "messages": GOOD["messages"][::-1]},
        {**GOOD, "messages": [GOOD["messages"][0]] * 2},
        {**GOOD, "messages": [schema.shown_message(ROOM, message(seq)) for seq in (1, 3)]},
        {**GOOD, "messages": [{**GOOD["messages"][0], "seq": 0}]},
        {**GOOD, "messages": [{**GOOD["messages"][0], "seq": "1"}]},
        {**GOOD, "messages": [{**GOOD["messages"][0], "kind": "spell"}]},
        {**GOOD, "messages": [{**GOOD["messages"][0], "body": "hi"}]},
    ],
)
def test_what_is_no_batch_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadParams):
        events.heard_messages("r", given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"event": "danced", "member": {"user": "u", "name": "n"}},
        {"event": "left", "member": "Ann"},
        {"event": "left"},
        {"event": "entered", "member": {"user": "u"}},
        {"event": "entered", "member": {"user": "u", "name": "n"}, "returning": 1},
        {"event": "typing", "member": {"user": "u", "name": "n"}},
        {"event": "typing", "member": {"user": "u", "name": "n"}, "on": "yes"},
    ],
)
def test_what_is_no_presence_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadParams):
        events.heard_presence(given)
