"""Who is in a room, for readers that cannot be told at the moment, or were out of reach; and who types."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Entered, Left, Member, Typing
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.rosters import AGAIN, SPREAD
from eftchat.testing.memory import MemoryMembers
from tests.unit.desk import Desk, Talk

BOB = {"user": "uB", "name": "Bob"}


@define
class Counted(MemoryMembers):
    """Members that are counted when they are read, and may be slow or away."""

    reads: int = field(default=0, init=False)
    away: int = field(default=0, kw_only=True)
    slow: list[Deferred[None]] | None = field(default=None, kw_only=True)

    async def present(self, room: str) -> list[Member]:
        self.reads += 1
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        found = await MemoryMembers.present(self, room)
        if self.slow is not None:
            self.slow.append(Deferred())
            await self.slow[-1]
        return found


def desk_with() -> tuple[Desk, Counted]:
    desk = Desk()
    members, loop = Counted(desk.clock.seconds), TwistedLoop(desk.clock)
    desk.rooms = Rooms("n1", b"secret", desk.messages, members, desk.bus, loop, Random(1))
    loop.spawn(members.renew("n1", 10_000_000), "lease")
    return desk, members


def told(frames: Sequence[dict[str, Any]]) -> list[Any]:
    """What the frames say of who is there."""
    found: list[Any] = []
    for frame in frames:
        params = frame.get("params", {})
        if frame.get("method") == "members":
            found.append([member["name"] for member in params["members"]])
        elif frame.get("method") in ("entered", "left", "typing"):
            found.append(
                (frame["method"], params["member"]["name"], *([params["on"]] if "on" in params else []))
            )
    return found


def stall(talk: Talk) -> None:
    talk.socket.open_for_writing = False


def drain(talk: Talk) -> None:
    talk.socket.open_for_writing = True
    talk.conversation.drained()


# ---- rosters -----------------------------------------------------------------------------------------------


def test_a_reader_that_could_not_be_told_gets_the_whole_roster_when_it_reads_on() -> None:
    desk, members = desk_with()
    ann, bob = desk.v2(room="R", name="Ann"), desk.v2(room="R", name="Bob", user="uB")
    ann.socket.take()
    stall(ann)
    bob.conversation.lost()
    for n in range(20):
        desk.v2(room="R", name=f"N{n:02}")
    desk.pass_time(1)
    assert ann.socket.take() == []
    before = members.reads
    drain(ann)
    desk.pass_time(1)
    assert told(ann.socket.take()) == [["Ann", *(f"N{n:02}" for n in range(20))]]
    assert members.reads == before + 1
    desk.v2(room="R", name="Bob", user="uB")
    assert told(ann.socket.take()) == [("entered", "Bob")]


def test_a_reader_that_missed_nobody_gets_no_roster() -> None:
    desk, members = desk_with()
    ann = desk.v2(room="R", name="Ann")
    ann.socket.take()
    stall(ann)
    drain(ann)
    desk.pass_time(1)
    assert (ann.socket.take(), members.reads) == ([], 1)


def test_one_read_serves_all_readers_of_a_room() -> None:
    desk, members = desk_with()
    readers = [desk.v2(room="R", name=f"N{n}") for n in range(10)]
    for reader in readers:
        reader.socket.take()
        stall(reader)
    desk.v2(room="R", name="Bob")
    before = members.reads
    for reader in readers:
        drain(reader)
    desk.pass_time(1)
    assert members.reads == before + 1
    assert all(len(told(reader.socket.take())) == 1 for reader in readers)


def test_a_roster_that_was_read_while_somebody_came_is_read_again() -> None:
    desk, members = desk_with()
    ann = desk.v2(room="R", name="Ann")
    ann.socket.take()
    stall(ann)
    desk.v2(room="R", name="Bob")
    members.slow = []
    drain(ann)
    desk.pass_time(0.2)
    (reading,), members.slow = members.slow, None
    desk.v2(room="R", name="Cid")
    reading.callback(None)
    desk.pass_time(2 * AGAIN)
    assert told(ann.socket.take()) == [["Ann", "Bob"], ["Ann", "Bob", "Cid"]]


def test_after_the_bus_was_away_every_room_is_read_once_and_all_are_told() -> None:
    desk, members = desk_with()
    rooms = [f"R{n}" for n in range(5)]
    readers = [desk.v2(room=room, name=name) for room in rooms for name in ("Ann", "Bob")]
    for reader in readers:
        reader.socket.take()
    before = members.reads
    for _ in range(3):  # one for each router
        for room in rooms:
            desk.rooms.watching(room.casefold())
    desk.pass_time(SPREAD)
    assert members.reads == before + len(rooms)
    assert all(told(reader.socket.take()) == [["Ann", "Bob"]] for reader in readers)


def test_while_the_store_is_away_the_roster_waits() -> None:
    desk, members = desk_with()
    ann = desk.v2(room="R", name="Ann")
    ann.socket.take()
    members.away = 3
    desk.rooms.watching("r")
    desk.pass_time(SPREAD + 4 * AGAIN)
    assert told(ann.socket.take()) == [["Ann"]]


def test_nothing_is_read_for_those_who_do_not_want_to_know() -> None:
    desk, members = desk_with()
    old = desk.v1(room="R", name="Bob")
    old.socket.take()
    stall(old)
    desk.v2(room="R", name="Ann").conversation.lost()
    before = members.reads
    drain(old)
    desk.rooms.watching("r")
    desk.pass_time(2 * SPREAD)
    assert (old.socket.take(), members.reads) == ([], before)


def test_nothing_is_left_running_when_the_readers_are_gone() -> None:
    desk, _ = desk_with()
    ann = desk.v2(room="R", name="Ann")
    desk.rooms.watching("r")
    ann.conversation.lost()
    desk.pass_time(60)
    assert desk.clock.getDelayedCalls() == []


# ---- typing ------------------------------------------------------------------------------------------------


def test_typing_is_told_to_all_others_but_to_no_old_client() -> None:
    desk, _ = desk_with()
    ann, tab = (desk.v2(room="R", name="Ann", user="uA") for _ in range(2))
    bob, old = desk.v2(room="R", name="Bob"), desk.v1(room="R", name="Cid")
    talks = [ann, tab, bob, old]
    for talk in talks:
        talk.socket.take()
    (answer,) = ann.call("typing", room="R", on=True)
    assert answer["result"] == {}
    assert [told(talk.socket.take()) for talk in talks] == [[], *2 * [[("typing", "Ann", True)]], []]
    assert desk.bus.announced[-1] == Typing(Member("uA", "Ann"), True)
    ann.call("typing", room="R", on=False)
    assert told(bob.socket.take()) == [("typing", "Ann", False)]


def test_what_is_known_already_is_not_told_again_at_once() -> None:
    desk, _ = desk_with()
    ann, bob = desk.v2(room="R", name="Ann"), desk.v2(room="R", name="Bob")
    bob.socket.take()
    ann.call("typing", room="R", on=False)
    for _ in range(5):
        ann.call("typing", room="R", on=True)
    assert told(bob.socket.take()) == [("typing", "Ann", True)]
    desk.pass_time(1.1)
    ann.call("typing", room="R", on=True)
    assert told(bob.socket.take()) == [("typing", "Ann", True)]


def test_who_stops_being_there_stops_typing() -> None:
    desk, _ = desk_with()
    bob = desk.v2(room="R", name="Bob", user="uB")
    tabs = [desk.v2(room="R", name="Ann", user="uA") for _ in range(2)]
    bob.socket.take()
    for tab in tabs:
        tab.call("typing", room="R", on=True)
    bob.socket.take()
    for tab in tabs:
        tab.conversation.lost()
        desk.pass_time()
    assert told(bob.socket.take()) == [("typing", "Ann", False), ("left", "Ann")]


def test_typing_counts_against_the_rate() -> None:
    desk, _ = desk_with()
    ann = desk.v2(room="R", name="Ann")
    for n in range(150):
        ann.call("typing", room="R", on=bool(n % 2))
    assert not ann.socket.reading


def test_typing_that_cannot_be_written_is_forgotten() -> None:
    desk, members = desk_with()
    ann = desk.v2(room="R", name="Ann")
    ann.socket.take()
    stall(ann)
    desk.rooms.noticed("r", Typing(Member("uB", "Bob"), True))
    drain(ann)
    desk.pass_time(1)
    assert (told(ann.socket.take()), members.reads) == ([], 1)


def test_news_of_other_nodes_are_told_like_our_own() -> None:
    desk, _ = desk_with()
    ann = desk.v2(room="R", name="Ann")
    ann.socket.take()
    bob = Member("uB", "Bob")
    for presence in (Entered(bob), Typing(bob, True), Left(bob)):
        desk.rooms.noticed("r", presence)
    assert told(ann.socket.take()) == [("entered", "Bob"), ("typing", "Bob", True), ("left", "Bob")]


def test_who_leaves_while_a_joiner_is_told_who_is_there_does_not_stay_for_it() -> None:
    desk, members = desk_with()
    ann = desk.v2(room="R", name="Ann")
    members.slow = []
    bob = desk.v2()
    bob.call("join", room="R", name="Bob")
    ann.conversation.lost()
    desk.pass_time()
    members.slow[0].callback(None)
    members.slow = None
    frames = bob.socket.take()
    assert [member["name"] for member in frames[0]["result"]["members"]] == ["Ann", "Bob"]
    desk.pass_time(1)
    assert told(bob.socket.take()) == [["Bob"]]
