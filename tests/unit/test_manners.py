"""How a router takes its leave, on a clock and without a router: whom it waits for, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from eftchat.drain import Pace
from eftchat.ops.loop import TwistedLoop
from eftchat.wamp.line import LineDown
from eftchat.wamp.manners import HEARD_WITHIN, Manners


@define(eq=False)
class FakeLink:
    """The session on the router. Two of those that the router counts are nodes."""

    clients: int = 0
    alive: bool = True
    frozen: bool = False
    published: list[Mapping[str, Any]] = field(factory=list)
    stopped: bool = False

    def publish(self, topic: str, payload: Mapping[str, Any]) -> bool:
        assert topic == "eftchat.notice.reconnect"
        if self.alive:
            self.published.append(payload)
        return self.alive

    async def call(self, procedure: str, *args: Any) -> int:
        assert procedure == "wamp.session.count"
        if not self.alive:
            raise LineDown
        if self.frozen:
            await Deferred()
        return 2 if args else self.clients + 2

    async def stop(self) -> None:
        self.stopped = True
        if self.frozen:
            await Deferred()


@define(eq=False)
class House:
    link: FakeLink
    pace: Pace = Pace()
    clock: Clock = field(factory=Clock)
    told: list[int] = field(factory=list)

    def leaves(self, grace: float = 50.0) -> None:
        link: Any = self.link
        manners = Manners("r1", TwistedLoop(self.clock), link, self.pace)
        Deferred.fromCoroutine(manners.take_leave(grace)).addCallback(self.told.append)

    def seconds(self) -> float:
        """Until it has left."""
        while not self.told:
            assert self.clock.seconds() < 100.0
            self.clock.advance(0.01)
        assert self.clock.getDelayedCalls() == [] and self.link.stopped
        return self.clock.seconds()


def test_a_router_without_clients_leaves_at_once() -> None:
    house = House(FakeLink())
    house.leaves()
    assert house.seconds() == 0.0 and house.told == [0]
    assert [notice["spread_ms"] for notice in house.link.published] == [0]


def test_clients_have_the_window_and_some_seconds_more() -> None:
    house = House(FakeLink(clients=100), Pace(rate=10.0, linger=3.0))
    house.leaves()
    notice = {"router": "r1", "spread_ms": 10_000, "reason": "this router is leaving"}
    assert house.link.published == [notice]
    assert 13.0 <= house.seconds() <= 13.2 and house.told == [100]


def test_it_does_not_wait_for_those_who_have_gone() -> None:
    house = House(FakeLink(clients=100), Pace(rate=10.0))
    house.leaves()
    house.clock.advance(4.0)
    house.link.clients = 0
    assert house.seconds() < 4.2


def test_the_notice_has_a_moment_to_arrive_though_nobody_may_linger() -> None:
    house = House(FakeLink(clients=1), Pace(rate=1_000.0, linger=0.0))
    house.leaves()
    assert house.seconds() >= HEARD_WITHIN


def test_however_many_they_are_it_is_gone_within_the_grace() -> None:
    house = House(FakeLink(clients=100_000))
    house.leaves(grace=10.0)
    assert house.seconds() <= 10.0


def test_a_router_that_is_frozen_is_not_waited_for() -> None:
    house = House(FakeLink(clients=5, frozen=True))
    house.leaves(grace=10.0)
    assert house.seconds() <= 10.0 and house.told == [0]


def test_a_router_that_is_away_has_nobody_to_tell() -> None:
    house = House(FakeLink(clients=5, alive=False))
    house.leaves()
    assert house.seconds() == 0.0 and house.told == [0]
