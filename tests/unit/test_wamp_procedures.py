"""Who sits where, for how long, and how much it may ask: the procedures without a router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, field
from autobahn.wamp.exception import ApplicationError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from eftchat.domain.errors import Draining, NameTaken, Unavailable
from eftchat.domain.limits import Limits
from eftchat.domain.messages import Claim
from eftchat.ops.loop import TwistedLoop
from eftchat.testing.memory import MemoryMembers
from eftchat.wamp.errors import refusal, refused
from eftchat.wamp.procedures import Procedures
from eftchat.wire import uris
from tests.unit.desk import Desk
from tests.unit.lines import FakeLine

Flush = Callable[[type[Exception]], list[Failure]]


@define(eq=False)
class House:
    """Procedures on two lines."""

    limits: Limits = Limits()
    desk: Desk = field(factory=Desk)
    lines: list[FakeLine] = field(factory=lambda: [FakeLine(), FakeLine()])
    procedures: Procedures = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.procedures = Procedures(self.desk.rooms, TwistedLoop(self.desk.clock), self.limits)
        for number, line in enumerate(self.lines):
            self.procedures.serve(line)
            line.comes_up(number)

    def ask(self, session: int, method: str, line: int = 0, **params: Any) -> Any:
        """What a session's call gives at once, in the time that the desk needs."""
        answer = self.lines[line].invoke(session, method, **params)
        self.desk.pass_time()
        return now(answer)

    def join(self, session: int, name: str, line: int = 0, room: str = "R") -> Any:
        return self.ask(session, "join", line, room=room, name=name)

    def names(self) -> list[str]:
        return [member["name"] for member in self.ask(999, "members", room="R")["members"]]


def now(answer: Deferred[Any]) -> Any:
    """The result, or the error, of what must be done by now."""
    results: list[Any] = []
    answer.addBoth(results.append)
    assert results, "not answered"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def reason(error: Any) -> str:
    return str(error.value.error).removeprefix("eftchat.error.")


# ---- errors ------------------------------------------------------------------------------------------------


def test_a_refusal_carries_its_reason_its_text_and_what_to_do() -> None:
    error = refusal(Draining("This node is leaving", retry_after_ms=50))
    assert (error.error, error.args) == ("eftchat.error.draining", ("This node is leaving",))
    assert error.kwargs == {"retryable": True, "retry_after_ms": 50}
    assert refusal(NameTaken()).kwargs == {"retryable": False}


def test_the_unexpected_is_logged_and_not_told(flush_errors: Flush) -> None:
    error = refused(KeyError("secret"), "eftchat.api.post")
    assert error.error == "eftchat.error.internal"
    assert "secret" not in repr(error)
    assert len(flush_errors(KeyError)) == 1


def test_a_router_that_hides_its_callers_is_a_fault_of_ours(flush_errors: Flush) -> None:
    house = House()
    with pytest.raises(ApplicationError) as error:
        now(house.lines[0].invoke(None, "key", room="R"))
    assert reason(error) == "internal"
    assert len(flush_errors(RuntimeError)) == 1


# ---- seats -------------------------------------------------------------------------------------------------


def test_the_user_of_a_session_is_its_authid_unless_it_says_otherwise() -> None:
    house = House()
    assert house.join(1, "Ann")["members"] == [{"user": "auth1", "name": "Ann"}]
    house.ask(2, "join", room="R", name="Bob", user="uB")
    assert house.ask(1, "members", room="R")["members"][1] == {"user": "uB", "name": "Bob"}


def test_the_names_of_a_session_that_left_are_free() -> None:
    house = House()
    house.join(1, "Ann")
    house.join(1, "Ann", room="S")
    house.join(2, "Bob")
    house.lines[0].event(uris.SESSION_LEFT, 3)
    assert house.names() == ["Ann", "Bob"]
    house.lines[0].event(uris.SESSION_LEFT, 1)
    assert house.names() == ["Bob"]
    assert house.procedures.seated == 1
    house.lines[0].event(uris.SESSION_LEFT, 1)
    house.lines[0].event(uris.SESSION_LEFT)
    house.lines[0].event(uris.SESSION_LEFT, "1")


def test_leaving_frees_the_name_and_ends_posting() -> None:
    house = House()
    house.join(1, "Ann")
    assert house.ask(1, "leave", room="r") == {}
    assert house.names() == []
    with pytest.raises(ApplicationError) as error:
        house.ask(1, "post", room="R", uuid="u1", body={"text": "hi"})
    assert reason(error) == "not_joined"


@define
class SlowMembers(MemoryMembers):
    """Claims wait until they are let go on."""

    claims: list[Deferred[None]] = field(factory=list)

    async def claim(self, claim: Claim) -> bool:
        self.claims.append(Deferred())
        await self.claims[-1]
        return await MemoryMembers.claim(self, claim)


def slow_house() -> tuple[House, SlowMembers]:
    house = House()
    members = SlowMembers(house.desk.clock.seconds)
    house.desk.rooms.members = members
    TwistedLoop(house.desk.clock).spawn(house.desk.rooms.renew(10_000_000), "leases")
    return house, members


def test_a_session_that_leaves_while_it_joins_keeps_no_name() -> None:
    house, members = slow_house()
    joining = house.lines[0].invoke(1, "join", room="R", name="Ann")
    house.lines[0].event(uris.SESSION_LEFT, 1)
    members.claims[0].callback(None)
    house.desk.pass_time()
    with pytest.raises(ApplicationError):
        now(joining)
    assert house.names() == []
    assert house.procedures.seated == 0


def test_rooms_that_are_being_joined_count() -> None:
    house, members = slow_house()
    house.procedures.limits = Limits(rooms=2)
    joining = [house.lines[0].invoke(1, "join", room=f"R{n}", name="Ann") for n in range(2)]
    with pytest.raises(ApplicationError) as error:
        house.join(1, "Ann", room="R3")
    assert reason(error) == "too_many_rooms"
    for claim in members.claims:
        claim.callback(None)
    house.desk.pass_time()
    for answer in joining:
        now(answer)


# ---- how much ----------------------------------------------------------------------------------------------


def test_who_posts_too_fast_is_told_when_to_come_again() -> None:
    house = House(Limits(post_rate=2.0, post_burst=1.0))
    house.join(1, "Ann")
    house.ask(1, "post", room="R", uuid="u1", body={"text": "hi"})
    for _ in range(3):  # a refusal costs nothing
        with pytest.raises(ApplicationError) as error:
            house.ask(1, "post", room="R", uuid="u2", body={"text": "hi"})
        assert reason(error) == "rate_limited"
        assert error.value.kwargs == {"retryable": True, "retry_after_ms": 500}
    house.desk.pass_time(0.5)
    assert house.ask(1, "post", room="R", uuid="u2", body={"text": "hi"})["seq"] == 2


def test_too_many_calls_at_a_time_are_refused() -> None:
    house, members = slow_house()
    house.procedures.limits = Limits(inflight=1)
    joining = house.lines[0].invoke(1, "join", room="R", name="Ann")
    with pytest.raises(ApplicationError) as error:
        house.ask(1, "key", room="R")
    assert reason(error) == "rate_limited"
    assert house.ask(2, "key", room="R") == house.desk.rooms.key("r")
    members.claims[0].callback(None)
    house.desk.pass_time()
    now(joining)


def test_idle_is_kept_when_the_last_call_was_answered() -> None:
    house, members = slow_house()
    idle: list[None] = []
    Deferred.fromCoroutine(wait(house, idle))
    assert idle == [None]
    joining = house.lines[0].invoke(1, "join", room="R", name="Ann")
    Deferred.fromCoroutine(wait(house, idle))
    assert idle == [None]
    members.claims[0].errback(Unavailable("away"))
    house.desk.pass_time()
    assert idle == [None, None]
    with pytest.raises(ApplicationError) as error:
        now(joining)
    assert reason(error) == "unavailable"


async def wait(house: House, done: list[None]) -> None:
    done.append(await house.procedures.idle().wait())
