"""The id by which operators know a node: two that run never have the same."""

from __future__ import annotations

from random import Random

from attrs import define, field
from twisted.internet.defer import Deferred

from eftchat.domain.errors import Unavailable
from eftchat.lease import IdTaken, Lease
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.testing.memory import MemoryMembers
from tests.unit.desk import Desk

ID = "web 1"


@define
class OutOfReach(MemoryMembers):
    """Members that one node cannot reach for a while."""

    node: str = field(default="", kw_only=True)

    async def enlist(self, id: str, node: str, ttl_ms: int) -> bool:
        if node == self.node:
            raise Unavailable("away")
        return await MemoryMembers.enlist(self, id, node, ttl_ms)


@define(eq=False)
class Nodes:
    """Runs of a process, all with one id over one store."""

    desk: Desk = field(factory=Desk)
    members: OutOfReach = field(init=False)
    ousted: list[str] = field(factory=list)
    refused: list[str] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.members = OutOfReach(self.desk.clock.seconds)

    def start(self, run: str) -> Lease:
        loop = TwistedLoop(self.desk.clock)
        rooms = Rooms(run, b"secret", self.desk.messages, self.members, self.desk.bus, loop, Random(1))
        lease = Lease(rooms, loop, id=ID, ousted=lambda taken: self.ousted.append(run))
        starting = Deferred.fromCoroutine(lease.start())
        starting.addErrback(lambda failure: self.refused.append(str(failure.trap(IdTaken) and failure.value)))
        return lease

    def pass_time(self, seconds: float) -> None:
        for _ in range(10):
            self.desk.pass_time(seconds / 10)


def test_a_second_node_with_the_same_id_does_not_start() -> None:
    nodes = Nodes()
    first, second = nodes.start("first"), nodes.start("second")
    assert nodes.refused == [f"Another node runs as {ID}: give each an id of its own"]
    assert (first.held, second.held) == (True, False)
    nodes.pass_time(100)
    assert nodes.ousted == []
    assert first.held


def test_a_node_that_died_leaves_its_id_to_the_next_when_its_lease_is_over() -> None:
    nodes = Nodes()
    nodes.start("first").stop()
    nodes.pass_time(9.9)
    assert not nodes.start("second").held
    nodes.pass_time(0.2)
    assert nodes.start("third").held


def test_a_node_whose_id_went_to_another_is_told_once_and_keeps_its_names_to_the_end() -> None:
    nodes = Nodes()
    first = nodes.start("first")
    nodes.members.node = "first"
    nodes.pass_time(30)
    assert not first.held
    second = nodes.start("second")
    nodes.members.node = ""
    nodes.pass_time(10)
    assert nodes.ousted == ["first"]
    assert first.held and second.held
