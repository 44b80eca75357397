"""A node without a lease keeps nobody on a name that others may take."""

from __future__ import annotations

from random import Random

from attrs import define, field

from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Claim
from eftchat.lease import Lease
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.testing.memory import MemoryMembers
from tests.unit.desk import Desk


@define
class Away(MemoryMembers):
    """Members that can be out of reach."""

    away: bool = field(default=False, kw_only=True)

    async def renew(self, node: str, ttl_ms: int) -> None:
        if self.away:
            raise Unavailable("away")
        await MemoryMembers.renew(self, node, ttl_ms)


@define(eq=False)
class Leased:
    """A node with a lease of ten seconds."""

    desk: Desk = field(factory=Desk)
    lapses: list[float] = field(factory=list)
    members: Away = field(init=False)
    lease: Lease = field(init=False)

    def __attrs_post_init__(self) -> None:
        desk, loop = self.desk, TwistedLoop(self.desk.clock)
        self.members = Away(desk.clock.seconds)
        desk.rooms = Rooms("n1", b"secret", desk.messages, self.members, desk.bus, loop, Random(1))
        self.lease = Lease(desk.rooms, loop, 10.0, lambda: self.lapses.append(loop.seconds()))
        loop.spawn(self.lease.start(), "starting")

    def pass_time(self, seconds: float) -> None:
        for _ in range(10):
            self.desk.pass_time(seconds / 10)

    def refusal(self) -> str | None:
        """Why a newcomer is refused, if it is."""
        frame = self.desk.v2().call("join", room="R", name="Ann", user="uA")[0]
        return str(frame["error"]["data"]["reason"]) if "error" in frame else None


def test_a_lease_that_is_renewed_never_lapses() -> None:
    node = Leased()
    node.pass_time(100)
    assert node.lapses == []
    assert node.lease.held
    assert node.refusal() is None


def test_everyone_is_sent_away_before_the_lease_can_lapse_and_nobody_is_let_in() -> None:
    node = Leased()
    node.members.away = True
    node.pass_time(8.5)
    assert node.lapses == []
    node.pass_time(1.4)
    assert len(node.lapses) == 1
    assert node.lease.held
    assert node.refusal() == "unavailable"


def test_with_the_next_renewal_the_node_is_open_again() -> None:
    node = Leased()
    node.members.away = True
    node.pass_time(30)
    node.members.away = False
    node.pass_time(3)
    assert len(node.lapses) == 1
    assert node.refusal() is None


def test_a_lease_that_is_given_up_leaves_nothing_running() -> None:
    node = Leased()
    node.lease.stop()
    assert node.desk.clock.getDelayedCalls() == []


def test_a_long_sweep_does_not_keep_the_lease_from_being_renewed() -> None:
    @define
    class Many(Away):
        """So many dead names that to clear them takes a minute."""

        async def lapsed(self) -> list[Claim]:
            await loop.sleep(60)
            return []

    node = Leased()
    loop = TwistedLoop(node.desk.clock)
    node.desk.rooms.members = Many(node.desk.clock.seconds)
    node.pass_time(50)
    assert node.lease.held and not node.lapses
    node.lease.stop()
