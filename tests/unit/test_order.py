"""Each sender's order, where some of what it sends is refused or asks for a place at a bad moment."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from eftchat.log import Bounds
from eftchat.ops.loop import SettledOnce
from eftchat.testing.memory import MemoryMessages
from tests.unit.desk import Desk, Talk, draft


def post(talk: Talk, uuid: str) -> None:
    params = {"room": "R", "uuid": uuid, "kind": "text", "body": {"text": uuid}}
    talk.say({"jsonrpc": "2.0", "id": uuid, "method": "post", "params": params})


def log_of(desk: Desk) -> list[str]:
    return [desk.messages._logs["r"].by_seq[seq].uuid for seq in sorted(desk.messages._logs["r"].by_seq)]


def desk_with_room_for(count: int) -> tuple[Desk, Talk]:
    desk = Desk()
    desk.rooms.log.bounds = Bounds(queue=count)
    return desk, desk.v2(room="R")


def test_a_post_behind_a_refused_one_is_refused_until_that_one_comes_again() -> None:
    desk, ann = desk_with_room_for(1)
    for uuid in ("a", "b"):
        post(ann, uuid)
    desk.pass_time()  # there is room again
    post(ann, "c")
    desk.pass_time()
    assert log_of(desk) == ["a"]
    for uuid in ("b", "c", "d"):
        post(ann, uuid)
        desk.pass_time()
    assert log_of(desk) == ["a", "b", "c", "d"]


def test_a_client_may_start_over_behind_a_refused_post_that_it_gave_up() -> None:
    desk, ann = desk_with_room_for(1)
    for uuid in ("a", "b", "c"):
        post(ann, uuid)
    desk.pass_time()
    post(ann, "c")
    desk.pass_time()
    post(ann, "d")
    desk.pass_time()
    assert log_of(desk) == ["a", "c", "d"]


def test_a_refused_post_holds_back_nobody_else() -> None:
    desk, ann = desk_with_room_for(1)
    bob = desk.v2(room="R", name="Bob")
    for uuid in ("a", "b"):
        post(ann, uuid)
    desk.pass_time()
    post(bob, "c")
    desk.pass_time()
    assert log_of(desk) == ["a", "c"]


@define(eq=False)
class Slow(MemoryMessages):
    """Heads that are read while the test lets time pass."""

    asked: SettledOnce[None] = field(factory=SettledOnce, init=False)

    async def heads(self, rooms: Sequence[str]) -> dict[str, int]:
        await self.asked
        return dict(await MemoryMessages.heads(self, rooms))


def test_a_room_whose_first_draft_comes_while_tails_are_read_waits_for_the_next_batch() -> None:
    messages = Slow()
    desk = Desk(messages=messages)
    first = desk.rooms.log.post(draft("u1", room="r"))
    desk.pass_time()
    second = desk.rooms.log.post(draft("u2", room="s"))
    messages.asked.resolve(None)
    desk.pass_time()
    assert first is not second
    assert desk.rooms.log.waiting == 0


def test_a_silent_v1_page_hears_the_echo_of_what_it_sends() -> None:
    desk = Desk()
    old, new = (desk.v1(room="R", name="Bob", user="uB") for _ in range(2))
    old.socket.take()
    params = {"userId": "uB", "roomName": "R", "userName": "Bob", "text": "hi", "ack": False, "uuid": "u1"}
    old.say({"jsonrpc": "2.0", "method": "textMessage", "params": params, "id": 3})
    desk.pass_time()
    for page in (old, new):
        heard = [f["params"]["uuid"] for f in page.socket.take() if f.get("method") == "textMessage"]
        assert heard == ["u1"]
