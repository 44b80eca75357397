"""The v1 dialect: what the original system's clients do, and what they must be answered."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from eftchat.bridge.v1 import cursor_of, message_id
from eftchat.domain.errors import Unavailable
from eftchat.domain.limits import Limits
from eftchat.domain.messages import Cursor, Room
from eftchat.testing.memory import MemoryMessages
from tests.unit.desk import Desk, Talk

DATE = "2026-01-01T15:40:46.945Z"


def text(talk: Talk, text: str, *, uuid: str = "", room: str = "R", ident: int = 9) -> list[dict[str, Any]]:
    """Sends a text message as these clients do."""
    params = {"userId": "whoever", "roomName": room, "userName": "Nobody", "text": text}
    more = {"ack": False, "uuid": uuid or text.replace(" ", "-"), "date": DATE}
    return talk.say({"jsonrpc": "2.0", "method": "textMessage", "params": {**params, **more}, "id": ident})


def reconnect(talk: Talk, last: str | None, *, user: str = "uB", name: str = "Bob") -> list[dict[str, Any]]:
    """Comes back as these clients do."""
    params = {"sessionId": "s", "userId": user, "roomName": "R", "userName": name, "lastMessageId": last}
    return talk.call("reconnect", **params)


def texts(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["params"]["text"] for frame in frames if frame.get("method") == "textMessage"]


def test_join_is_answered_with_the_string_ok_then_new_user_then_history() -> None:
    desk = Desk()
    ann = desk.v1(room="R", name="Ann", user="uA")
    text(ann, "hi")
    desk.pass_time()
    frames = desk.v1().call("joinRoom", userId="uB", roomName="R", userName="Bob", lastMessageId=None)
    assert frames[0] == {"jsonrpc": "2.0", "result": "OK", "id": 7}
    newcomer = {"type": "system", "text": "Bob has joined the room!", "roomName": "R"}
    assert frames[1] == {"jsonrpc": "2.0", "method": "newUser", "params": newcomer}
    assert texts(frames[2:]) == ["hi"]
    assert frames[1] in ann.socket.take()


def test_history_is_the_newest_hundred_oldest_first() -> None:
    desk = Desk(Limits(post_burst=1000))
    ann = desk.v1(room="R", name="Ann", user="uA")
    for n in range(130):
        text(ann, str(n))
    desk.pass_time()
    frames = desk.v1().call("joinRoom", userId="uB", roomName="R", userName="Bob", lastMessageId=None)
    assert texts(frames) == [str(n) for n in range(30, 130)]


def test_the_echo_is_the_acknowledgement_and_there_is_never_a_result() -> None:
    desk = Desk()
    ann = desk.v1(room="R", name="Ann", user="uA")
    ann.socket.take()
    text(ann, "hi", uuid="u1")
    desk.pass_time()
    (echo,) = ann.socket.take()
    identity = echo.pop("_id")
    mine = {"userId": "uA", "roomName": "R", "userName": "Ann", "text": "hi", "ack": True}
    params = {**mine, "uuid": "u1", "date": DATE}
    assert echo == {"seq": 1, "jsonrpc": "2.0", "method": "textMessage", "params": params, "id": None}
    assert len(identity) == 24 and int(identity, 16)


def test_who_sends_is_what_the_connection_says_and_not_the_frame() -> None:
    desk = Desk()
    ann = desk.v1(room="R", name="Ann", user="uA")
    text(ann, "hi")
    desk.pass_time()
    (echo,) = ann.socket.take()[-1:]
    assert (echo["params"]["userId"], echo["params"]["userName"]) == ("uA", "Ann")


def test_method_names_are_matched_whatever_their_case() -> None:
    frames = Desk().v1().call("JOINROOM", userId="uB", roomName="R", userName="Bob", lastMessageId=None)
    assert frames[0]["result"] == "OK"


def test_sending_everything_again_with_each_send_stores_each_once() -> None:
    desk = Desk(Limits(post_rate=1, post_burst=60))
    ann, bob = desk.v1(room="R", name="Ann", user="uA"), desk.v1(room="R", name="Bob")
    bob.socket.take()
    for n in range(50):
        for again in range(n + 1):
            text(ann, str(again))
    assert ann.socket.reading  # repeats do not count against the rate
    desk.pass_time()
    assert texts(bob.socket.take()) == [str(n) for n in range(50)]


def test_a_repeat_is_echoed_to_its_sender_only() -> None:
    desk = Desk()
    ann, bob = desk.v1(room="R", name="Ann", user="uA"), desk.v1(room="R", name="Bob")
    text(ann, "hi")
    desk.pass_time()
    ann.socket.take(), bob.socket.take()
    assert texts(text(ann, "hi")) == ["hi"]
    desk.pass_time()
    assert bob.socket.take() == []


def test_a_repeat_that_the_node_has_forgotten_is_echoed_too() -> None:
    desk = Desk()
    text(desk.v1(room="R", name="Ann", user="uA"), "hi")
    desk.pass_time()
    fresh = Desk(messages=desk.messages)
    ann = fresh.v1(room="R", name="Ann", user="uA")
    ann.socket.take()
    text(ann, "hi")
    fresh.pass_time(1)
    assert texts(ann.socket.take()) == ["hi"]


def test_reconnect_brings_everything_behind_the_last_id_and_no_new_user() -> None:
    desk = Desk(Limits(post_burst=1000))
    ann, bob = desk.v1(room="R", name="Ann", user="uA"), desk.v1(room="R", name="Bob", user="uB")
    for n in range(150):
        text(ann, str(n))
    desk.pass_time()
    last = bob.socket.take()[-148]["_id"]
    bob.conversation.lost()
    desk.pass_time(1)
    ann.socket.take()
    bob = desk.v1()
    frames = reconnect(bob, last)
    assert frames[0]["result"] == "OK"
    assert texts(frames) == [str(n) for n in range(3, 150)]
    assert ann.socket.take() == []


def test_reconnect_without_an_id_brings_everything_since_the_user_first_joined() -> None:
    desk = Desk(Limits(post_burst=1000))
    ann = desk.v1(room="R", name="Ann", user="uA")
    text(ann, "early")
    desk.pass_time()
    desk.v1(room="R", name="Bob", user="uB").conversation.lost()
    for n in range(150):
        text(ann, str(n))
    desk.pass_time(1)
    for last in (None, "not one of ours", "f" * 24):
        frames = reconnect(desk.v1(), last)
        assert texts(frames) == ["early", *(str(n) for n in range(150))]


def test_an_id_maps_to_its_cursor_and_back() -> None:
    assert cursor_of(message_id("00ff00ff00", 42)) == Cursor("00ff00ff00", 42)
    assert message_id("00ff00ff00", 42) < message_id("00ff00ff00", 43)
    for wrong in (
        None,
        5,
        "",
        "zz" * 12,
        "0" * 23,
        "00ff00ff00" + "-0000000000001",
        "00ff00ff000x000000000001",
    ):
        assert cursor_of(wrong) is None


def test_a_newer_connection_reads_and_the_older_one_stays_open_and_silent() -> None:
    desk = Desk()
    older = desk.v1(room="R", name="Bob", user="uB")
    newer = desk.v1()
    reconnect(newer, None)
    older.socket.take()
    text(newer, "from the newer one")
    desk.pass_time()
    assert older.socket.closed is None
    assert older.socket.take() == []
    assert texts(newer.socket.take()) == ["from the newer one"]


def test_what_a_silent_connection_sends_is_stored_and_acknowledged_to_it() -> None:
    desk = Desk()
    older = desk.v1(room="R", name="Bob", user="uB")
    newer = desk.v1()
    reconnect(newer, None)
    older.socket.take()
    text(older, "from the older one")
    desk.pass_time()
    assert texts(older.socket.take()) == texts(newer.socket.take()) == ["from the older one"]


def test_frames_behind_a_reconnect_wait_for_it_and_keep_their_order() -> None:
    desk = Desk()
    bob = desk.v1()
    params = {"userId": "uB", "roomName": "R", "userName": "Bob", "lastMessageId": None, "sessionId": "s"}
    bob.say({"method": "reconnect", "params": params, "id": 1})
    for n in range(5):
        text(bob, str(n))
    desk.pass_time()
    assert texts(bob.socket.take()) == ["0", "1", "2", "3", "4"]


def test_a_second_join_keeps_the_first_room_too() -> None:
    desk = Desk()
    bob = desk.v1(room="R")
    bob.call("joinRoom", userId="uB", roomName="S", userName="Bob", lastMessageId=None)
    text(bob, "in R", room="R")
    text(bob, "in S", room="S")
    desk.pass_time()
    assert texts(bob.socket.take()) == ["in R", "in S"]


def test_members_of_both_dialects_meet() -> None:
    desk = Desk()
    ann, bob = desk.v2(room="R", name="Ann"), desk.v1(room="R", name="Bob")
    bob.socket.take()
    ann.call("post", room="R", uuid="u", kind="text", body={"text": "hi"})
    desk.pass_time()
    (frame,) = bob.socket.take()
    assert frame["params"]["date"] == "1970-01-01T00:00:00.000Z"
    assert texts([frame]) == ["hi"]


@define(eq=False)
class Away(MemoryMessages):
    """The store, not to be reached while `away`."""

    away: bool = field(default=False, init=False)

    async def open(self, room: str, name: str, epoch: str) -> Room:
        if self.away:
            raise Unavailable("away")
        return await super().open(room, name, epoch)


def test_a_reconnect_that_cannot_be_served_closes_the_socket_so_that_they_try_again() -> None:
    store = Away()
    desk = Desk(messages=store)
    store.away = True
    bob = desk.v1()
    assert reconnect(bob, None) == []
    assert bob.socket.closed == (1012, "try again")
    frames = desk.v1().call("joinRoom", userId="uB", roomName="R", userName="Bob", lastMessageId=None)
    assert frames[0]["error"]["code"] == "-32000"
