"""The client keeps a connection: back-off, time-outs, moves, and an end that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from twisted.internet.defer import Deferred

from eftchat.client import ChatClient, ChatClientError, Closed, Suspended, Timing
from tests.unit.fake_node import World, batch, pending, result, run, wait, world


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def test_it_says_who_it_is_and_is_connected_when_that_is_answered(here: World) -> None:
    waiting = run(here.client.when_connected())
    here.client.start()
    assert here.line.url == "ws://node-a:1/chat"
    here.line.listener.opened()
    connect = here.line.take("connect")
    assert connect["jsonrpc"] == "2.0"
    assert connect["params"]["client"]["name"] == "eftchat-python"
    assert pending(waiting)
    here.line.answer(connect, {"node": "n7"})
    result(waiting)
    assert here.client.state.node == "n7"
    assert here.states == ["connecting", "connected"]


def test_a_lost_connection_is_dialled_again_at_the_next_url() -> None:
    with world(["a:1", "b:2"]) as here:
        here.connected()
        here.line.drop()
        assert here.client.state.name == "waiting"
        assert 0 < here.client.state.retry_in <= 0.25
        assert here.net.next_line().url == "ws://b:2/chat"
        here.line.drop()
        assert here.net.next_line().url == "ws://a:1/chat"


def test_the_wait_grows_up_to_its_cap_and_begins_anew_after_a_stable_connection(here: World) -> None:
    here.connected()
    waits = []
    for _ in range(40):
        here.line.drop()
        waits.append(here.client.state.retry_in)
        here.net.next_line(5.1)
    assert max(waits[:2]) <= 0.5
    assert 2.5 < max(waits) <= 5.0
    here.line.open()
    here.clock.advance(9.9)
    here.line.drop()
    here.net.next_line(5.1)
    here.line.open()
    here.clock.advance(10.1)
    here.line.drop()
    assert here.client.state.retry_in <= 0.25


def test_two_clients_of_one_seed_wait_alike_and_of_two_seeds_do_not() -> None:
    def first_wait(seed: int) -> float:
        with world(seed=seed) as here:
            here.client.start()
            here.line.drop()
            return here.client.state.retry_in

    assert first_wait(1) == first_wait(1) != first_wait(2)


def test_a_handshake_that_takes_too_long_is_given_up(here: World) -> None:
    here.client.start()
    here.line.listener.opened()
    here.clock.advance(4.9)
    assert here.client.state.name == "connecting"
    here.clock.advance(0.2)
    assert here.client.state.name == "waiting"
    assert here.line.over


@pytest.mark.parametrize("code", [4500, 4503, 4999])
def test_a_node_that_says_not_to_come_back_ends_it_all(here: World, code: int) -> None:
    room, line = here.joined()
    posting = run(wait(room.post("hi")))
    line.drop(code, "protocol violated")
    for waiting in (posting, run(here.client.when_connected()), here.asks_to_join()):
        with pytest.raises(ChatClientError, match="protocol violated") as caught:
            result(waiting)
        assert caught.value.reason == "refused_for_good"
    assert here.client.state.name == "failed"
    assert isinstance(here.events[-1], Closed)
    assert here.clock.getDelayedCalls() == []


@pytest.mark.parametrize("code", [None, 1000, 1001, 1009, 1011, 1012, 4001, 4008, 4029, 4499])
def test_after_every_other_end_it_comes_back(here: World, code: int | None) -> None:
    here.connected()
    here.line.drop(code)
    here.net.next_line().open()
    assert here.client.state.name == "connected"


def test_a_refused_connect_is_final_unless_it_may_be_tried_again(here: World) -> None:
    here.client.start()
    here.line.listener.opened()
    here.line.refuse(here.line.take("connect"), "draining", retryable=True)
    here.net.next_line().listener.opened()
    here.line.refuse(here.line.take("connect"), "unauthorised", retryable=False)
    assert here.client.state.name == "failed"
    assert here.client.state.reason == "no: unauthorised"


def test_a_node_that_answers_nothing_for_ten_seconds_is_dead(here: World) -> None:
    here.connected()
    here.asks_to_join()
    here.clock.advance(9.9)
    assert here.client.state.name == "connected"
    here.clock.advance(0.2)
    assert here.client.state.name == "waiting"
    here.net.next_line().open().let_in()
    assert len(here.client._rooms) == 1


def test_posts_have_as_long_as_a_database_takes_to_elect_a_primary(here: World) -> None:
    room, line = here.joined()
    room.post("slow")
    here.clock.advance(29.9)
    assert not line.over
    here.clock.advance(0.2)
    assert line.over


def test_as_long_as_answers_come_the_node_is_not_dead(here: World) -> None:
    room, line = here.joined()
    for text in "abcde":
        room.post(text)
    for seq, post in enumerate(line.take_posts(), 1):
        here.clock.advance(25)
        line.store(post, seq)
    here.clock.advance(100)
    assert not line.over


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff",
        b"[]",
        b"{",
        b'{"id": 99, "result": {}}',
        b'{"method": "messages", "params": {"room": 1}}',
        b"{}",
    ],
)
def test_a_node_that_talks_nonsense_is_left_for_another(here: World, frame: bytes) -> None:
    _, line = here.joined()
    line.listener.received(frame)
    assert here.client.state.name == "waiting"
    here.clock.advance(0.01)
    assert line.over


def test_what_a_newer_node_says_is_ignored(here: World) -> None:
    _, line = here.joined()
    line.notify("sparkle", room="R", many=3)
    line.notify("messages", room="elsewhere", epoch="e", messages=[])
    assert here.client.state.name == "connected"


# -- make before break ---------------------------------------------------------------------------------


def test_told_to_reconnect_it_stands_on_the_new_connection_before_it_leaves_the_old() -> None:
    with world(["a:1", "b:2"]) as here:
        room, old = here.joined(seq=5)
        sending = [room.post(text) for text in ("one", "two")]
        first, second = old.take_posts()
        old.notify("reconnect", after_ms=1_500, reason="node leaving")
        here.clock.advance(1.4)
        assert len(here.net.lines) == 1
        here.clock.advance(0.2)
        new = here.line
        assert new.url == "ws://b:2/chat"
        new.open()
        old.store(first, 6)
        old.notify("messages", room="R", epoch="00000000e1", messages=[])
        assert new.asked[0]["params"]["after"] == {"epoch": "00000000e1", "seq": 5}
        assert not old.over and old.closed_with is None
        new.let_in(seq=5, head=6)
        assert old.closed_with == 1000
        again = new.take_posts()
        assert [post["params"]["uuid"] for post in again] == [second["params"]["uuid"]]
        new.store(again[0], 7)
        assert [one.posted.seq for one in sending if one.posted] == [6, 7]
        here.clock.advance(0.1)
        assert here.net.open == [new]
        assert here.told(Suspended) == []
        assert set(here.states) == {"connecting", "connected"}


def test_who_leaves_during_a_move_leaves_both_nodes() -> None:
    with world(["a:1", "b:2"]) as here:
        room, old = here.joined(seq=5)
        old.notify("reconnect", after_ms=0, reason="node leaving")
        here.clock.advance(0)
        new = here.line
        new.open()
        assert new.asked[-1]["method"] == "join"
        Deferred.fromCoroutine(room.leave())
        assert old.asked[-1]["method"] == new.asked[-1]["method"] == "leave"


def test_what_both_connections_deliver_during_a_move_is_taken_once(here: World) -> None:
    _, old = here.joined(seq=0)
    old.notify("messages", **batch(1, 3))
    old.notify("reconnect", after_ms=0, reason="node leaving")
    here.clock.advance(0)
    new = here.line.open()
    old.notify("messages", **batch(4, 5))
    new.let_in(seq=3, head=5)
    new.notify("messages", **batch(4, 6))
    assert here.seqs == [1, 2, 3, 4, 5, 6]


def test_a_move_whose_new_connection_fails_is_tried_again_while_the_old_one_serves(here: World) -> None:
    room, old = here.joined()
    old.notify("reconnect", after_ms=0, reason="node leaving")
    here.clock.advance(0)
    here.line.drop()
    assert here.client.state.name == "connected"
    room.post("meanwhile")
    assert len(old.take_posts()) == 1
    here.net.next_line().open().let_in()
    assert old.closed_with == 1000


def test_a_node_that_is_gone_before_the_slot_is_replaced_soon(here: World) -> None:
    _, old = here.joined()
    old.notify("reconnect", after_ms=60_000, reason="node leaving")
    old.drop(1012)
    here.net.next_line(0.3).open().let_in()


def test_an_old_node_that_goes_during_the_move_makes_no_third_connection(here: World) -> None:
    _, old = here.joined()
    old.notify("reconnect", after_ms=0, reason="node leaving")
    here.clock.advance(0)
    old.drop(1012)
    assert here.client.state.name == "connecting"
    here.line.open().let_in()
    here.clock.advance(20)
    assert len(here.net.lines) == 2


def test_a_second_notice_changes_nothing(here: World) -> None:
    _, old = here.joined()
    old.notify("reconnect", after_ms=1_000, reason="node leaving")
    old.notify("reconnect", after_ms=0, reason="node leaving")
    here.clock.advance(0.9)
    assert len(here.net.lines) == 1


def test_a_client_without_rooms_moves_too(here: World) -> None:
    old = here.connected()
    old.notify("reconnect", after_ms=0, reason="node leaving")
    here.clock.advance(0)
    here.line.open()
    assert old.closed_with == 1000


# -- the end -------------------------------------------------------------------------------------------


def test_stop_says_good_bye(here: World) -> None:
    room, line = here.joined()
    stopping = run(here.client.stop())
    assert line.closed_with == 1000
    assert pending(stopping)
    here.clock.advance(0.02)
    assert result(stopping) == 0
    assert here.client.state.name == "closed"
    assert room.closed is not None and room.closed.reason == "stopped"


def test_stop_waits_for_what_is_not_acknowledged_as_long_as_it_is_told(here: World) -> None:
    room, line = here.joined()
    sending = room.post("one")
    stopping = run(here.client.stop(drain=5))
    assert line.closed_with is None
    line.store(line.take_posts()[0], 1)
    here.clock.advance(0.02)
    assert result(stopping) == 0
    assert sending.posted is not None


def test_stop_counts_what_it_had_to_give_up(here: World) -> None:
    room, line = here.joined()
    sending = [room.post("one"), room.post("two")]
    stopping = run(here.client.stop(drain=5))
    line.store(line.take_posts()[0], 1)
    here.clock.advance(5.1)
    here.clock.advance(0.1)
    assert result(stopping) == 1
    assert sending[1].error is not None and sending[1].error.reason == "stopped"


@pytest.mark.parametrize("moment", ["idle", "dialling", "waiting", "moving"])
def test_it_can_be_stopped_at_any_moment(here: World, moment: str) -> None:
    if moment == "dialling":
        here.client.start()
    elif moment == "waiting":
        here.client.start()
        here.line.drop()
    elif moment == "moving":
        _, old = here.joined()
        old.notify("reconnect", after_ms=0, reason="node leaving")
        here.clock.advance(0)
    stopping = [run(here.client.stop()), run(here.client.stop())]
    here.clock.advance(0.02)
    assert [result(one) for one in stopping] == [0, 0]
    with pytest.raises(ChatClientError, match="stopped"):
        result(here.asks_to_join())


def test_a_callback_may_stop_the_client(here: World) -> None:
    def stop_when_connected(state: object) -> None:
        if here.client.state.name == "connected":
            run(here.client.stop())

    here.client.on_state = stop_when_connected
    joining = here.asks_to_join()
    here.client.start()
    here.line.open()
    with pytest.raises(ChatClientError, match="stopped"):
        result(joining)


def test_a_user_is_made_up_when_none_is_given() -> None:
    first, second = (ChatClient(World, "a:1", rng=Random(seed)) for seed in (1, 2))  # type: ignore[arg-type]
    assert first.user != second.user
    assert len(first.user) == 36


def test_urls_that_are_none_are_refused() -> None:
    for bad in ("", "ftp://a", "a:b", [], ["a:1", "://"]):
        with pytest.raises(ValueError):
            ChatClient(World, bad, rng=Random(1))  # type: ignore[arg-type]


def test_the_times_can_be_chosen() -> None:
    with world(timing=Timing(handshake=1.0)) as here:
        here.client.start()
        here.clock.advance(1.1)
        assert here.client.state.name == "waiting"
