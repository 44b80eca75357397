"""The v2 dialect: one response a request, feeds without a seam, order and back-pressure."""

from __future__ import annotations

import json
from typing import Any

from attrs import define, field

from eftchat.domain.limits import Limits
from eftchat.domain.messages import Room
from eftchat.ops.loop import SettledOnce
from eftchat.testing.memory import MemoryMessages
from tests.unit.desk import Desk, Talk


def texts(frames: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """(seq, text) of every message in the frames."""
    batches = [frame["params"]["messages"] for frame in frames if frame.get("method") == "messages"]
    return [(message["seq"], message["body"]["text"]) for batch in batches for message in batch]


def results(frames: list[dict[str, Any]]) -> list[Any]:
    return [frame["result"] for frame in frames if "result" in frame]


def post(talk: Talk, text: str, uuid: str | None = None) -> list[dict[str, Any]]:
    return talk.call("post", room="R", uuid=uuid or text, kind="text", body={"text": text})


def test_connect_says_who_serves_and_what_the_limits_are() -> None:
    talk = Desk().v2()
    (answer,) = talk.call("connect", client={"name": "test", "version": "1"})
    assert answer["result"]["node"] == "n1"
    assert answer["result"]["limits"] == {"text": 16384, "frame": 262144, "rate": 30.0, "rooms": 20}


def test_what_one_posts_reaches_all_and_the_answer_tells_its_place() -> None:
    desk = Desk()
    ann, bob = desk.v2(room="R", name="Ann", user="uA"), desk.v2(room="R", name="Bob")
    ann.socket.take()
    post(ann, "hi")
    desk.pass_time()
    frames = ann.socket.take()
    assert results(frames) == [{"seq": 1, "at": 0, "repeated": False}]
    assert texts(frames) == texts(bob.socket.take()) == [(1, "hi")]


def test_a_message_carries_all_that_the_protocol_names() -> None:
    desk = Desk()
    ann = desk.v2(room="R", name="Ann", user="uA")
    post(ann, "hi", uuid="u1")
    desk.pass_time()
    (batch,) = [frame["params"] for frame in ann.socket.take() if frame.get("method") == "messages"]
    expected = {"room": "R", "seq": 1, "uuid": "u1", "kind": "text", "user": "uA", "name": "Ann", "at": 0}
    assert batch["messages"] == [{**expected, "body": {"text": "hi"}}]
    assert (batch["room"], len(batch["epoch"])) == ("R", 10)


def test_the_same_uuid_is_stored_once_and_answered_twice() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    post(ann, "hi", uuid="u")
    desk.pass_time()
    frames = ann.socket.take() + post(ann, "hi", uuid="u")
    desk.pass_time()
    frames += ann.socket.take()
    assert [result["repeated"] for result in results(frames)] == [False, True]
    assert texts(frames) == [(1, "hi")]


def test_a_newcomer_gets_the_tail_it_asks_for_and_then_what_is_new() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    for n in range(10):
        post(ann, f"{n}")
    desk.pass_time()
    bob = desk.v2()
    frames = bob.call("join", room="R", name="Bob", tail=3)
    post(ann, "new")
    desk.pass_time()
    frames += bob.socket.take()
    assert texts(frames) == [(8, "7"), (9, "8"), (10, "9"), (11, "new")]
    assert frames[0]["result"]["head"] == 10


def test_a_cursor_is_resumed_without_a_gap_and_without_a_repeat() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    for n in range(1_200):
        desk.rooms.post(ann.conversation.sittings["r"].seat, f"u{n}", "text", {"text": str(n)})
    desk.pass_time()
    bob = desk.v2()
    epoch = bob.call("join", room="R", name="Bob", tail=0)[0]["result"]["epoch"]
    bob.conversation.lost()
    bob = desk.v2()
    frames = bob.call("join", room="R", name="Bob", after={"epoch": epoch, "seq": 7})
    desk.pass_time()
    frames += bob.socket.take()
    assert frames[0]["result"]["resumed"] is True
    assert [seq for seq, _ in texts(frames)] == list(range(8, 1_201))


def test_the_very_beginning_is_epoch_null_and_seq_0() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    for n in range(150):
        post(ann, f"{n}")
        desk.pass_time(0.1)
    frames = desk.v2().call("join", room="R", name="Bob", after={"epoch": None, "seq": 0})
    assert frames[0]["result"]["resumed"] is True
    assert len(texts(frames)) == 150


def test_a_cursor_of_another_log_is_told_so_and_starts_afresh() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    post(ann, "hi")
    desk.pass_time()
    for after in ({"epoch": "0123456789", "seq": 1}, {"epoch": None, "seq": 5}):
        bob = desk.v2()
        frames = bob.call("join", room="R", name="Bob", after=after)
        assert frames[0]["result"]["resumed"] is False
        assert texts(frames) == [(1, "hi")]
        bob.conversation.lost()


def test_a_cursor_beyond_the_log_is_not_believed() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    post(ann, "hi")
    desk.pass_time()
    epoch = desk.v2().call("join", room="R", name="Cid")[0]["result"]["epoch"]
    bob = desk.v2()
    assert bob.call("join", room="R", name="Bob", after={"epoch": epoch, "seq": 99}) == []
    desk.pass_time(15)  # a read may be behind what somebody was shown: it is asked again for a while
    frames = bob.socket.take()
    assert frames[0]["result"]["resumed"] is False
    assert texts(frames) == [(1, "hi")]


def test_entered_comes_with_the_first_connection_and_left_after_the_last() -> None:
    desk = Desk()
    ann = desk.v2(room="R", name="Ann")
    ann.socket.take()
    tabs = [desk.v2(room="R", name="Bob", user="uB") for _ in range(2)]
    for tab in tabs:
        tab.conversation.lost()
    desk.pass_time(1)
    told = [(frame["method"], frame["params"]["member"]) for frame in ann.socket.take()]
    assert told == [("entered", {"user": "uB", "name": "Bob"}), ("left", {"user": "uB", "name": "Bob"})]


@define(eq=False)
class SlowToOpen(MemoryMessages):
    """The store, whose rooms open only when told to."""

    opening: SettledOnce[None] = field(factory=SettledOnce, init=False)

    async def open(self, room: str, name: str, epoch: str) -> Room:
        await self.opening.wait()
        return await super().open(room, name, epoch)


def test_frames_behind_a_join_wait_until_it_is_settled() -> None:
    store = SlowToOpen()
    desk = Desk(messages=store)
    ann = desk.v2()
    ann.call("join", room="R", name="Ann")
    assert post(ann, "hi") == []
    store.opening.resolve(None)
    desk.pass_time()
    frames = ann.socket.take()
    assert "key" in frames[0]["result"]
    assert texts(frames) == [(1, "hi")]


def test_a_client_over_its_rate_is_slowed_down_and_not_refused() -> None:
    desk = Desk(Limits(post_rate=10, post_burst=5))
    ann = desk.v2(room="R")
    ann.socket.take()
    for n in range(20):
        post(ann, f"{n}")
    assert not ann.socket.reading
    desk.clock.advance(0)
    assert len(texts(ann.socket.take())) == 5  # the burst but for the join, and the one that the wait is for
    for _ in range(40):
        desk.clock.advance(0.05)
    frames = ann.socket.take()
    assert [seq for seq, _ in texts(frames)] == list(range(6, 21))
    assert ann.socket.reading
    assert not any("error" in frame for frame in frames)


def test_too_much_in_flight_stops_the_reading_until_it_lands() -> None:
    desk = Desk(Limits(inflight=4, post_rate=1e6, post_burst=1e6))
    ann = desk.v2(room="R")
    ann.socket.take()
    for n in range(10):
        post(ann, f"{n}")
    assert not ann.socket.reading
    desk.pass_time()
    assert len(texts(ann.socket.take())) == 10
    assert ann.socket.reading


def test_a_frame_of_messages_stays_within_its_bounds() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    for n in range(30):
        desk.rooms.post(ann.conversation.sittings["r"].seat, f"u{n}", "text", {"text": "x" * 10_000})
    desk.pass_time()
    frames = desk.v2().call("join", room="R", name="Bob")
    batches = [frame for frame in frames if frame.get("method") == "messages"]
    assert len(batches) == 3
    assert all(len(json.dumps(frame)) < 140 * 1024 for frame in batches)
    assert [seq for seq, _ in texts(frames)] == list(range(1, 31))


def test_pages_of_history_can_be_read_in_both_directions() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    for n in range(10):
        post(ann, f"{n}")
    desk.pass_time()
    ann.socket.take()
    (since,) = results(ann.call("since", room="R", seq=3, limit=4))
    (before,) = results(ann.call("before", room="R", seq=3, limit=1))
    assert [m["seq"] for m in since["messages"]] == [4, 5, 6, 7]
    assert [m["seq"] for m in before["messages"]] == [2]
    assert since["head"] == before["head"] == 10


def test_members_are_those_with_a_connection() -> None:
    desk = Desk()
    ann, bob = desk.v2(room="R", name="Ann", user="uA"), desk.v1(room="R", name="Bob", user="uB")
    (found,) = results(ann.call("members", room="R")[-1:])
    assert found["members"] == [{"user": "uA", "name": "Ann"}, {"user": "uB", "name": "Bob"}]
    bob.conversation.lost()
    desk.pass_time(1)
    (found,) = results(ann.call("members", room="R")[-1:])
    assert found["members"] == [{"user": "uA", "name": "Ann"}]


def test_a_room_can_be_left_and_joined_again_at_once() -> None:
    desk = Desk()
    ann = desk.v2(room="R")
    ann.call("leave", room="R")
    ann.call("join", room="R", name="Ann")
    desk.pass_time(5)
    (found,) = results(ann.call("members", room="R")[-1:])
    assert [member["name"] for member in found["members"]] == ["Ann"]


def test_nothing_is_left_running_when_everyone_is_gone() -> None:
    desk = Desk()
    talks = [desk.v2(room="R", name=f"N{n}") for n in range(3)]
    post(talks[0], "hi")
    desk.pass_time()
    for talk in talks:
        talk.conversation.lost()
    desk.pass_time(60)
    assert desk.clock.getDelayedCalls() == []
    assert desk.bus.watched == set()
