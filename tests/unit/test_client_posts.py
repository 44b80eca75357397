"""A room's posts: each stored once, in the order in which they were made, over any number of connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from eftchat.client import ChatClientError
from tests.unit.fake_node import World, back, pending, result, run, wait, world


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def texts(posts: list[dict[str, Any]]) -> list[str]:
    return [post["params"]["body"]["text"] for post in posts]


def test_a_post_is_done_when_it_is_durable(here: World) -> None:
    room, line = here.joined()
    posting = run(wait(room.post("hi", uuid="mine")))
    (post,) = line.take_posts()
    assert post["params"] == {"room": "R", "uuid": "mine", "kind": "text", "body": {"text": "hi"}}
    assert pending(posting) and room.pending == 1
    line.store(post, 4, repeated=True)
    posted = result(posting)
    assert (posted.uuid, posted.seq, posted.at, posted.repeated) == ("mine", 4, 4_000, True)
    assert room.pending == 0


def test_what_is_not_acknowledged_goes_out_again_on_the_next_connection_with_the_same_uuid(
    here: World,
) -> None:
    room, line = here.joined()
    sending = [room.post(text) for text in "abcd"]
    posts = line.take_posts()
    line.store(posts[1], 2)
    here.clock.advance(9)
    assert line.asked == []
    line.drop()
    line = here.net.next_line().open()
    assert [request["method"] for request in line.asked] == ["join"]
    line.let_in()
    again = line.take_posts()
    assert texts(again) == ["a", "c", "d"]
    assert [post["params"]["uuid"] for post in again] == [posts[n]["params"]["uuid"] for n in (0, 2, 3)]
    for seq, post in enumerate(again, 3):
        line.store(post, seq, repeated=True)
    assert [one.posted.seq for one in sending if one.posted] == [3, 2, 4, 5]


def test_posts_survive_any_number_of_reconnects(here: World) -> None:
    room, line = here.joined()
    sending = room.post("hardy")
    for _ in range(20):
        line = back(here)
        assert texts(line.take_posts()) == ["hardy"]
    line.store({"id": 3}, 1)
    assert sending.posted is not None


def test_posts_made_without_a_connection_wait_for_one(here: World) -> None:
    room, line = here.joined()
    line.drop()
    room.post("later")
    line = here.net.next_line().open()
    line.let_in()
    assert texts(line.take_posts()) == ["later"]


def test_at_most_64_are_in_flight_and_the_rest_follows_in_order(here: World) -> None:
    room, line = here.joined()
    for number in range(100):
        room.post(str(number))
    first = line.take_posts()
    assert texts(first) == [str(number) for number in range(64)]
    line.store(first[0], 1)
    line.store(first[1], 2)
    assert texts(line.take_posts()) == ["64", "65"]


def test_after_a_refusal_for_now_nothing_overtakes_what_was_refused(here: World) -> None:
    room, line = here.joined()
    for text in "abcd":
        room.post(text)
    a, b, c, d = line.take_posts()
    line.store(a, 1)
    line.refuse(b, "overloaded", retryable=True, after_ms=1_000)
    room.post("e")
    line.refuse(c, "overloaded", retryable=True, after_ms=1_000)
    here.clock.advance(3)
    assert line.asked == [], "the fate of d is not known"
    line.refuse(d, "overloaded", retryable=True, after_ms=1_000)
    here.clock.advance(0.9)
    assert line.asked == [], "the node asked for a second"
    here.clock.advance(0.4)
    again = line.take_posts()
    assert texts(again) == ["b", "c", "d", "e"]
    assert again[0]["params"]["uuid"] == b["params"]["uuid"]


def test_refused_again_it_waits_longer_and_a_new_connection_does_not_wait(here: World) -> None:
    room, line = here.joined()
    room.post("a")
    for _ in range(30):
        line.refuse(line.take_posts()[0], "unavailable", retryable=True)
        here.clock.pump([0.1] * 52)
    line.refuse(line.take_posts()[0], "unavailable", retryable=True)
    line = back(here)
    assert texts(line.take_posts()) == ["a"]


def test_a_refusal_for_good_fails_that_post_alone(here: World) -> None:
    room, line = here.joined()
    bad, good = room.post("bad"), room.post("good")
    first, second = line.take_posts()
    line.refuse(first, "bad_params", retryable=False)
    line.store(second, 1)
    assert bad.error is not None and bad.error.reason == "bad_params"
    assert good.posted is not None


def test_a_node_that_lost_our_seat_is_joined_again_before_we_post_again(here: World) -> None:
    room, line = here.joined()
    room.post("a")
    line.refuse(line.take_posts()[0], "not_joined", retryable=False)
    here.clock.advance(0.3)
    line.let_in()
    assert texts(line.take_posts()) == ["a"]


def test_posts_that_a_leaving_node_refuses_go_elsewhere_at_once(here: World) -> None:
    room, line = here.joined()
    room.post("a")
    line.refuse(line.take_posts()[0], "draining", retryable=True, after_ms=60_000)
    line = here.net.next_line().open()
    line.let_in()
    assert texts(line.take_posts()) == ["a"]


def test_the_same_uuid_is_posted_once_at_a_time(here: World) -> None:
    room, line = here.joined()
    assert room.post("a", uuid="u") is room.post("a", uuid="u")
    assert len(line.take_posts()) == 1


@pytest.mark.parametrize("text", ["", "x" * 33, "\udc80"])
def test_what_no_node_would_take_is_not_sent(here: World, text: str) -> None:
    here.client.start()
    line = here.line.open(limits={"text": 32, "frame": 1_000})
    joining = here.asks_to_join()
    line.let_in()
    room = result(joining)
    sending, after = room.post(text), room.post("fine")
    assert sending.error is not None and sending.error.reason == "bad_params"
    assert texts(line.take_posts()) == ["fine"]
    assert not after.settled


def test_an_identity_that_is_none_is_refused(here: World) -> None:
    room, line = here.joined()
    sending = room.post("a", uuid="with space")
    assert sending.error is not None and sending.error.reason == "bad_params"


def test_the_outbox_has_a_bound(here: World) -> None:
    room, line = here.joined()
    line.drop()
    sending = [room.post("a") for _ in range(10_001)]
    assert not sending[-2].settled
    assert sending[-1].error is not None and sending[-1].error.reason == "outbox_full"


def test_a_post_that_nobody_awaits_may_fail_in_silence(here: World) -> None:
    room, _ = here.joined()
    room.post("a")


def test_any_number_may_await_a_post(here: World) -> None:
    room, line = here.joined()
    sending = room.post("a")
    waiting = [run(wait(sending)), run(wait(sending))]
    waiting[0].cancel()
    line.store(line.take_posts()[0], 1)
    assert result(waiting[1]) == result(run(wait(sending)))
    with pytest.raises(CancelledError):
        result(waiting[0])


def test_leaving_ends_the_room_and_what_waits_for_it(here: World) -> None:
    room, line = here.joined()
    sending = room.post("a")
    line.take_posts()
    flushing, catching_up = run(room.flushed()), run(room.caught_up())
    leaving = run(room.leave())
    line.answer(line.take("leave"), {})
    result(leaving)
    assert sending.error is not None and sending.error.reason == "left"
    with pytest.raises(ChatClientError):
        result(flushing)
    result(catching_up)
    result(run(room.leave()))
    here.asks_to_join()
    line.let_in()
