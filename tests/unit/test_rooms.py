"""The rooms' promises about names and places, where the store gives unclear answers."""

from __future__ import annotations

from random import Random

import pytest
from attrs import define, field

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Claim
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.testing.memory import MemoryMembers, MemoryMessages
from tests.unit.desk import Desk, Talk


@define
class Unclear(MemoryMembers):
    """Members whose answers get lost: the next claims, after they were applied; the next releases, before."""

    claims: int = field(default=0, kw_only=True)
    releases: int = field(default=0, kw_only=True)

    async def claim(self, claim: Claim) -> bool:
        first = await MemoryMembers.claim(self, claim)
        if self.claims:
            self.claims -= 1
            raise Unavailable("no answer")
        return first

    async def release(self, claim: Claim) -> bool:
        if self.releases:
            self.releases -= 1
            raise Unavailable("no answer")
        return await MemoryMembers.release(self, claim)


def desk_with(members: MemoryMembers) -> Desk:
    desk = Desk()
    loop = TwistedLoop(desk.clock)
    members._seconds = desk.clock.seconds
    desk.rooms = Rooms("n1", b"secret", desk.messages, members, desk.bus, loop, Random(1))
    loop.spawn(members.renew("n1", 10_000_000), "lease")
    return desk


def join(talk: Talk, user: str) -> str:
    """Ann's name asked for by this user: `joined`, or why not."""
    frame = talk.call("join", room="R", name="Ann", user=user)[0]
    return "joined" if "result" in frame else str(frame["error"]["data"]["reason"])


def test_a_claim_whose_answer_was_lost_does_not_keep_the_name() -> None:
    desk = desk_with(Unclear(lambda: 0.0, claims=1))
    assert join(desk.v2(), "uA") == "unavailable"
    desk.pass_time()
    assert join(desk.v2(), "uB") == "joined"


def test_a_name_is_let_go_however_long_the_store_was_away() -> None:
    members = Unclear(lambda: 0.0)
    desk = desk_with(members)
    talk = desk.v2()
    assert join(talk, "uA") == "joined"
    members.releases = 50
    talk.conversation.lost()
    for _ in range(20):
        desk.pass_time(10)
    assert members.releases == 0
    assert join(desk.v2(), "uB") == "joined"
    desk.rooms.feeds.stop()
    assert desk.clock.getDelayedCalls() == []


def test_a_node_that_leaves_does_not_go_on_letting_go() -> None:
    members = Unclear(lambda: 0.0)
    desk = desk_with(members)
    talk = desk.v2()
    join(talk, "uA")
    members.releases, desk.rooms.refusing = 50, True
    talk.conversation.lost()
    desk.pass_time(30)
    assert members.releases >= 49
    desk.rooms.feeds.stop()
    assert desk.clock.getDelayedCalls() == []


@define
class Lagging(MemoryMessages):
    """Reads that are behind for a while."""

    behind: int = field(default=0, kw_only=True)

    async def heads(self, rooms: list[str]) -> dict[str, int]:  # type: ignore[override]
        if self.behind:
            self.behind -= 1
            return dict.fromkeys(rooms, 0)
        return dict(await MemoryMessages.heads(self, rooms))


@pytest.mark.parametrize("looks", [1, 2, 4])
def test_a_reader_keeps_its_place_though_a_read_is_behind(looks: int) -> None:
    messages = Lagging()
    desk = Desk(messages=messages)
    ann = desk.v2(room="R")
    ann.call("post", room="R", uuid="u1", kind="text", body={"text": "hi"})
    desk.pass_time()
    epoch = desk.rooms.feeds.get("r").room.epoch  # type: ignore[union-attr]
    ann.conversation.lost()
    desk.pass_time(40)  # the feed is closed: its head is read anew
    messages.behind = looks
    bob = desk.v2()
    frames = bob.call("join", room="R", name="Bob", after={"epoch": epoch, "seq": 1})
    desk.pass_time(5)
    frames += bob.socket.take()
    assert frames[0]["result"]["resumed"] is True
    assert [frame for frame in frames if frame.get("method") == "messages"] == []
