"""A room seen from the client: every message once and in order, told who is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from eftchat.client import (
    ChatClientError,
    Closed,
    Cursor,
    Disconnected,
    Entered,
    Joined,
    Left,
    Member,
    Reset,
    Suspended,
    Typing,
)
from tests.unit.fake_node import EPOCH, World, back, batch, message, pending, result, run, wait, world


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


# -- joining -------------------------------------------------------------------------------------------


def test_a_join_waits_for_the_connection_and_says_who_we_are(here: World) -> None:
    joining = here.asks_to_join(tail=20)
    line = here.connected()
    assert line.let_in(seq=3, head=23) == {"room": "R", "name": "Ann", "user": "ann", "tail": 20}
    room = result(joining)
    assert (room.name, room.key, room.position) == ("R", "k", Cursor(EPOCH, 3))
    assert here.events == [Joined("R", Cursor(EPOCH, 3), 23, (Member("ann", "Ann"),), again=False)]


def test_a_join_from_a_cursor_goes_on_there(here: World) -> None:
    line = here.connected()
    joining = here.asks_to_join(after=Cursor(EPOCH, 7))
    assert line.let_in(seq=7, head=9)["after"] == {"epoch": EPOCH, "seq": 7}
    line.notify("messages", **batch(8, 9))
    assert not pending(joining)
    assert here.seqs == [8, 9]


def test_a_join_from_a_number_alone_reads_up_from_there_in_whichever_log_it_is(here: World) -> None:
    line = here.connected()
    here.asks_to_join(after=Cursor(None, 7))
    assert line.let_in(seq=9, head=9)["tail"] == 0
    since = line.take("since")
    assert since["params"]["seq"] == 7
    line.notify("messages", **batch(10, 10))
    assert here.seqs == []
    line.answer(since, {**batch(8, 10), "head": 10})
    assert here.seqs == [8, 9, 10]


def test_a_number_beyond_the_log_is_told(here: World) -> None:
    line = here.connected()
    here.asks_to_join(after=Cursor(None, 70))
    line.let_in(seq=9, head=9)
    assert here.told(Reset) == [Reset("R", Cursor(EPOCH, 9))]


def test_from_the_very_beginning_is_asked_for_as_such(here: World) -> None:
    line = here.connected()
    here.asks_to_join(after=Cursor(None, 0))
    assert line.let_in(seq=0, head=9)["after"] == {"epoch": None, "seq": 0}


@pytest.mark.parametrize("reason", ["name_taken", "bad_params", "too_many_rooms"])
def test_a_refused_join_fails_and_the_client_lives_on(here: World, reason: str) -> None:
    line = here.connected()
    joining = here.asks_to_join()
    line.refuse(line.take("join"), reason, retryable=False)
    with pytest.raises(ChatClientError) as caught:
        result(joining)
    assert caught.value.reason == reason
    assert here.events == []
    here.asks_to_join()
    line.let_in()


def test_a_join_that_may_succeed_later_is_tried_later(here: World) -> None:
    line = here.connected()
    joining = here.asks_to_join()
    line.refuse(line.take("join"), "unavailable", retryable=True, after_ms=2_000)
    here.clock.advance(2.0)
    assert line.asked == []
    here.clock.advance(0.3)
    line.let_in()
    result(joining)


def test_a_node_that_is_leaving_is_left_for_another() -> None:
    with world(["a:1", "b:2"]) as here:
        line = here.connected()
        joining = here.asks_to_join()
        line.refuse(line.take("join"), "draining", retryable=True)
        assert here.net.next_line().url == "ws://b:2/chat"
        here.line.open().let_in()
        result(joining)


def test_a_room_is_joined_once(here: World) -> None:
    here.joined()
    with pytest.raises(ChatClientError) as caught:
        result(run(here.client.join("  r ", name="Ann")))
    assert caught.value.reason == "already_joined"


@pytest.mark.parametrize(("room", "name"), [("", "Ann"), ("R", " "), ("R" * 65, "Ann"), ("R", "A\x07")])
def test_names_that_are_none_are_refused_before_anything_is_sent(here: World, room: str, name: str) -> None:
    line = here.connected()
    with pytest.raises(ChatClientError) as caught:
        result(run(here.client.join(room, name=name)))
    assert caught.value.reason == "bad_params"
    assert line.asked == []


def test_a_join_can_be_cancelled(here: World) -> None:
    line = here.connected()
    joining = here.asks_to_join()
    joining.cancel()
    with pytest.raises(CancelledError):
        result(joining)
    line.let_in()
    line.answer(line.take("leave"), {})
    back_in = here.asks_to_join()
    line.let_in()
    result(back_in)


# -- coming back ---------------------------------------------------------------------------------------


def test_it_comes_back_to_where_it_was(here: World) -> None:
    room, line = here.joined(seq=2)
    line.notify("messages", **batch(3, 5))
    line.drop()
    assert here.told(Suspended) == [Suspended("R")]
    line = here.net.next_line().open()
    assert line.let_in(seq=5, head=6)["after"] == {"epoch": EPOCH, "seq": 5}
    line.notify("messages", **batch(6, 6))
    assert here.seqs == [3, 4, 5, 6]
    assert [joined.again for joined in here.told(Joined)] == [False, True]
    assert here.told(Reset) == []


def test_another_log_than_before_is_told(here: World) -> None:
    _, line = here.joined(seq=5)
    line = back(here, seq=40, head=42, epoch="other", resumed=False)
    assert here.told(Reset) == [Reset("R", Cursor("other", 40))]
    line.notify("messages", **batch(41, 42, "other"))
    assert here.seqs == [41, 42]


def test_messages_of_another_log_make_it_join_again(here: World) -> None:
    _, line = here.joined(seq=5)
    line.notify("messages", **batch(1, 2, "other"))
    assert here.seqs == []
    line.let_in(seq=0, head=2, epoch="other", resumed=False)
    line.notify("messages", **batch(1, 2, "other"))
    assert here.seqs == [1, 2]
    assert here.told(Reset) == [Reset("R", Cursor("other", 0))]


def test_our_name_that_a_dead_node_still_holds_is_asked_for_until_its_lease_is_over(here: World) -> None:
    room, _ = here.joined()
    here.line.drop()
    line = here.net.next_line().open()
    for _ in range(4):
        line.refuse(line.take("join"), "name_taken", retryable=False)
        here.clock.pump([0.5] * 5)
    line.let_in()
    assert room.closed is None


def test_our_name_that_stays_taken_ends_the_room(here: World) -> None:
    room, _ = here.joined()
    sending = room.post("hi")
    here.line.drop()
    line = here.net.next_line().open()
    for _ in range(200):
        if line.asked:
            line.refuse(line.take("join"), "name_taken", retryable=False)
        here.clock.advance(0.1)
    assert room.closed is not None and room.closed.reason == "name_taken"
    assert sending.error is room.closed
    assert here.events[-1] == Closed("R", room.closed)
    assert here.client.state.name == "connected"
    with pytest.raises(ChatClientError, match="name_taken"):
        result(run(wait(room.post("more"))))


# -- reading -------------------------------------------------------------------------------------------


def test_what_was_had_is_not_delivered_again(here: World) -> None:
    _, line = here.joined()
    line.notify("messages", **batch(1, 3))
    line.notify("messages", **batch(2, 3))
    line.notify("messages", **batch(3, 5))
    assert here.seqs == [1, 2, 3, 4, 5]


def test_a_hole_is_read_before_anything_later_is_delivered(here: World) -> None:
    _, line = here.joined()
    line.notify("messages", **batch(1, 1))
    line.notify("messages", **batch(4, 4))
    line.notify("messages", **batch(5, 5))
    since = line.take("since")
    assert since["params"] == {"room": "R", "seq": 1, "limit": 200}
    assert line.asked == []
    assert here.seqs == [1]
    line.answer(since, {**batch(2, 3), "head": 5})
    assert here.seqs == [1, 2, 3]
    line.answer(line.take("since"), {**batch(4, 5), "head": 5})
    line.notify("messages", **batch(6, 6))
    assert here.seqs == [1, 2, 3, 4, 5, 6]
    assert line.asked == []


def test_a_hole_that_closes_by_itself_is_not_read_twice(here: World) -> None:
    _, line = here.joined()
    line.notify("messages", **batch(3, 3))
    line.notify("messages", **batch(1, 2))
    line.notify("messages", **batch(3, 4))
    line.answer(line.take("since"), {**batch(1, 3), "head": 4})
    assert here.seqs == [1, 2, 3, 4]
    assert line.asked == []


def test_a_hole_is_still_read_after_a_reconnect(here: World) -> None:
    _, line = here.joined()
    line.notify("messages", **batch(3, 3))
    line.take("since")
    line = back(here, seq=0, head=3)
    line.notify("messages", **batch(1, 3))
    assert here.seqs == [1, 2, 3]
    line.notify("messages", **batch(6, 6))
    line.answer(line.take("since"), {**batch(4, 6), "head": 6})
    assert here.seqs == [1, 2, 3, 4, 5, 6]


def test_a_node_that_begins_later_than_asked_is_read_up_from_where_we_stand(here: World) -> None:
    _, line = here.joined(seq=2)
    line = back(here, seq=4, head=5)
    line.notify("messages", **batch(5, 5))
    line.answer(line.take("since"), {**batch(3, 5), "head": 5})
    assert here.seqs == [3, 4, 5]


def test_how_many_are_no_longer_kept_is_told(here: World) -> None:
    _, line = here.joined(seq=2)
    line.notify("messages", **batch(9, 9))
    line.answer(line.take("since"), {**batch(6, 9), "head": 9})
    assert here.told(Reset) == [Reset("R", Cursor(EPOCH, 5), missed=3)]
    assert here.seqs == [6, 7, 8, 9]


def test_a_node_that_cannot_find_what_it_announced_is_asked_again_and_then_left(here: World) -> None:
    _, line = here.joined()
    line.notify("messages", **batch(2, 2))
    tries = 0
    while not line.over:
        if line.asked:
            tries += 1
            line.answer(line.take("since"), {**batch(1, 0), "head": 2})
        here.clock.advance(0.1)
    assert tries == 6
    here.net.next_line().open().let_in(seq=0, head=2)


def test_a_refused_page_is_asked_for_again(here: World) -> None:
    _, line = here.joined()
    line.notify("messages", **batch(2, 2))
    line.refuse(line.take("since"), "unavailable", retryable=True, after_ms=1_000)
    here.clock.advance(0.9)
    assert line.asked == []
    here.clock.advance(0.7)
    line.answer(line.take("since"), {**batch(1, 2), "head": 2})
    assert here.seqs == [1, 2]


def test_an_exception_of_a_callback_is_logged_and_harms_nothing(
    here: World, flush_errors: Callable[[type[Exception]], list[Any]]
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    room, line = here.joined(on_message=fail, on_event=fail)
    line.notify("messages", **batch(1, 2))
    assert room.position.seq == 2
    run(here.client.stop())
    assert len(flush_errors(ZeroDivisionError)) == 4


def test_a_callback_that_leaves_the_room_gets_nothing_more(here: World) -> None:
    def leave(message: Any) -> None:
        here.seen.append(message)
        run(room.leave())

    room, line = here.joined(on_message=leave)
    line.notify("messages", **batch(1, 3))
    assert here.seqs == [1]
    assert line.take("leave")["params"] == {"room": "R"}
    line.notify("messages", **batch(4, 4))
    assert here.seqs == [1]


def test_who_comes_and_goes_is_told_and_kept(here: World) -> None:
    room, line = here.joined()
    bob = {"user": "bob", "name": "Bob"}
    line.notify("entered", room="R", member=bob)
    assert room.members == [Member("ann", "Ann"), Member("bob", "Bob")]
    line.notify("left", room="R", member=bob)
    assert room.members == [Member("ann", "Ann")]
    assert here.events[1:] == [Entered("R", Member("bob", "Bob")), Left("R", Member("bob", "Bob"))]


def test_what_was_missed_of_that_is_told_when_the_node_says_who_is_here(here: World) -> None:
    room, line = here.joined()
    bob, cid, dan = ({"user": name.lower(), "name": name} for name in ("Bob", "Cid", "Dan"))
    for member in (bob, cid):
        line.notify("entered", room="R", member=member)
    line.notify("members", room="R", members=[dan, bob])
    assert room.members == [Member("dan", "Dan"), Member("bob", "Bob")]
    assert [(type(event).__name__, event.member.name) for event in here.events[3:]] == [
        ("Left", "Ann"),
        ("Left", "Cid"),
        ("Entered", "Dan"),
    ]
    line.notify("members", room="R", members=[dan, bob])
    line.notify("members", room="elsewhere", members=[])
    assert len(here.events) == 6


def test_who_types_is_told_both_ways(here: World) -> None:
    room, line = here.joined()
    line.notify("typing", room="R", member={"user": "bob", "name": "Bob"}, on=True)
    assert here.events[1:] == [Typing("R", Member("bob", "Bob"), True)]
    assert room.members == [Member("ann", "Ann")]
    typing = run(room.typing(True))
    asked = line.take("typing")
    assert asked["params"] == {"room": "R", "on": True}
    line.answer(asked, {})
    result(typing)
    typing = run(room.typing(False))
    line.drop()
    result(typing)
    result(run(room.typing(True)))


def test_pages_can_be_looked_up_without_delivering_them(here: World) -> None:
    room, line = here.joined(seq=9)
    looking = run(room.before(5, 2))
    before = line.take("before")
    assert before["params"] == {"room": "R", "seq": 5, "limit": 2}
    line.answer(before, {**batch(3, 4), "head": 9})
    assert [one.text for one in result(looking).messages] == ["text 3", "text 4"]
    assert here.seqs == []
    looking = run(room.since(1))
    line.drop()
    with pytest.raises(Disconnected):
        result(looking)
    with pytest.raises(Disconnected):
        result(run(room.since(1)))


def test_caught_up_waits_for_the_log_as_it_was_and_for_what_we_posted(here: World) -> None:
    room, line = here.joined(seq=0, tail=5)
    result(run(room.caught_up()))
    room.post("mine")
    line.store(line.take_posts()[0], 2)
    waiting = run(room.caught_up())
    assert pending(waiting)
    line.notify("messages", **batch(1, 2))
    result(waiting)


def test_messages_have_a_text_if_they_are_texts(here: World) -> None:
    _, line = here.joined()
    odd = {**message(2), "kind": "sparkle", "body": {"text": 3}, "extra": True}
    line.notify("messages", room="R", epoch=EPOCH, messages=[message(1), odd])
    assert [one.text for one in here.seen] == ["text 1", ""]
    assert here.seen[1].kind == "sparkle"
