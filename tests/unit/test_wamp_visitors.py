"""Where WAMP sessions sit, as several nodes of a cluster see it."""

from __future__ import annotations

import pytest
from autobahn.wamp.exception import ApplicationError
from twisted.internet.defer import Deferred

from eftchat.domain.limits import Limits
from eftchat.domain.messages import Claim, Entered, Left, Member, Typing
from eftchat.testing.memory import MemoryMembers
from tests.unit.test_wamp_procedures import now, reason
from tests.unit.wamp_nodes import TTL, two

# ---- one session, any node ---------------------------------------------------------------------------------


def test_a_session_that_joined_through_one_node_posts_through_any() -> None:
    _, a, b = two()
    a.join(1, "Ann")
    assert [node.post(1, f"u{n}")["seq"] for n, node in enumerate((b, a, b, b))] == [1, 2, 3, 4]


def test_a_seat_is_looked_up_once_and_then_known() -> None:
    cluster, a, b = two()
    a.join(1, "Ann")
    before = cluster.members.looks
    for n in range(20):
        b.post(1, f"u{n}")
    assert cluster.members.looks == before + 1
    assert b.refused(2) == "not_joined"
    assert b.refused(2) == "not_joined"
    assert cluster.members.looks == before + 2


def test_what_one_node_knows_is_out_of_date_when_the_session_acts_through_another() -> None:
    cluster, a, b = two()
    assert b.refused(1) == "not_joined"
    a.join(1, "Ann")
    assert b.post(1, "u1")["seq"] == 1
    b.ask(1, "leave", room="R")
    assert a.refused(1) == "not_joined"
    assert cluster.names() == []
    a.join(1, "Ann", user="uA")
    b.join(1, "Annie", user="uA")
    assert cluster.names() == ["Annie"]
    a.post(1, "u2")
    page = a.ask(1, "since", room="R", seq=1)
    assert page["messages"][0]["name"] == "Annie"


def test_a_change_while_a_seat_is_looked_up_is_not_missed() -> None:
    cluster, a, b = two()
    a.join(1, "Ann")
    cluster.members.slow = []
    posting = b.line.invoke(1, "post", room="R", uuid="u1", body={"text": "hi"})
    slow, cluster.members.slow = cluster.members.slow, None
    a.ask(1, "leave", room="R")
    slow[0].callback(None)
    cluster.pass_time()
    with pytest.raises(ApplicationError) as error:
        now(posting)
    assert reason(error) == "not_joined"


def test_posts_that_wait_for_a_seat_keep_their_order() -> None:
    cluster, a, b = two()
    a.join(1, "Ann")
    cluster.members.slow = []
    posts = [
        b.line.invoke(1, "post", room="R", uuid=f"u{n}", body={"text": str(n)}) for n in range(5)
    ]  # fmt: skip
    (look,) = cluster.members.slow
    look.callback(None)
    cluster.pass_time()
    assert [now(post)["seq"] for post in posts] == [1, 2, 3, 4, 5]


def test_a_session_is_in_a_few_rooms_at_most_over_all_nodes() -> None:
    _, a, b = two()
    a.procedures.limits = b.procedures.limits = Limits(rooms=2)
    a.join(1, "Ann", room="R1")
    b.join(1, "Ann", room="R2")
    with pytest.raises(ApplicationError) as error:
        a.join(1, "Ann", room="R3")
    assert reason(error) == "too_many_rooms"


# ---- the end of a session ----------------------------------------------------------------------------------


def test_a_session_that_leaves_is_told_once_though_every_node_hears_it() -> None:
    cluster, a, b = two()
    a.join(1, "Ann", user="uA")
    b.post(1, "u1")
    cluster.leaves(1)
    cluster.leaves(1)
    assert cluster.names() == []
    assert cluster.told(Left) == [Left(Member("uA", "Ann"))]
    assert len(a.procedures.visitors) == len(b.procedures.visitors) == 0


def test_a_name_is_kept_when_the_node_that_gave_it_dies_and_freed_when_the_session_leaves() -> None:
    cluster, a, b = two()
    a.join(1, "Ann", user="uA")
    a.dies()
    cluster.pass_time(10 * TTL)
    assert cluster.names() == ["Ann"]
    assert b.post(1, "u1")["seq"] == 1
    cluster.leaves(1)
    assert cluster.names() == []
    assert [type(told) for told in b.bus.announced] == [Left]


def test_a_session_that_left_while_the_store_was_away_is_let_go_when_it_is_back() -> None:
    cluster, a, _ = two()
    a.join(1, "Ann")
    cluster.members.away = True
    cluster.leaves(1)
    cluster.pass_time(3)
    cluster.members.away = False
    cluster.pass_time(3)
    assert cluster.names() == []
    assert len(cluster.told(Left)) == 1


def test_a_node_that_leaves_takes_no_seat_along() -> None:
    cluster, a, b = two()
    a.join(1, "Ann")
    Deferred.fromCoroutine(cluster.members.forget("n1"))
    a.dies()
    assert b.post(1, "u1")["seq"] == 1


# ---- routers that go and come ------------------------------------------------------------------------------


def test_who_left_while_no_node_was_there_is_found_by_the_next_and_who_stayed_keeps_its_seat() -> None:
    cluster, a, b = two()
    a.join(1, "Ann")
    a.join(2, "Bob")
    for node in (a, b):
        node.line.becomes("down")
    cluster.pass_time(TTL / 2)
    cluster.present[:] = [2, 3]
    b.comes(subscription=1)
    assert cluster.names() == ["Bob"]
    cluster.pass_time(5 * TTL)
    assert cluster.names() == ["Bob"]
    assert b.post(2, "u1")["seq"] == 1
    assert b.refused(1) == "not_joined"


def test_a_seat_outlives_the_lease_that_it_was_taken_on() -> None:
    """The router drew a new number, because for a moment no node was there."""
    cluster, a, b = two()
    a.join(1, "Ann")
    a.join(2, "Bob")
    for node in (a, b):
        node.line.becomes("down")
    cluster.pass_time(TTL / 2)
    cluster.present[:] = [1]
    b.comes(subscription=2)
    cluster.pass_time(3 * TTL)
    assert cluster.names() == ["Ann"]
    assert b.post(1, "u1")["seq"] == 1
    assert [told.member.name for told in cluster.told(Left)] == ["Bob"]


def test_when_a_router_dies_its_members_lapse_and_are_told_once() -> None:
    cluster, a, b = two()
    cluster.pass_time(2 * TTL)
    a.join(1, "Ann")
    b.join(2, "Bob")
    for node in (a, b):
        node.line.becomes("down")
    cluster.pass_time(TTL / 2)
    assert cluster.names() == ["Ann", "Bob"]
    cluster.pass_time(TTL / 2)
    assert cluster.names() == []
    cluster.pass_time(TTL / 2)
    assert sorted(told.member.name for told in cluster.told(Left)) == ["Ann", "Bob"]
    for node in (a, b):
        node.comes(subscription=2)
    assert a.join(3, "Ann")["members"] == [{"user": "auth3", "name": "Ann"}]


def test_a_line_that_falls_while_a_join_is_under_way_leaves_no_name_behind() -> None:
    cluster, a, b = two()
    cluster.members.slow = []
    joining = a.line.invoke(1, "join", room="R", name="Ann")
    a.line.becomes("down")
    (look,), cluster.members.slow = cluster.members.slow, None
    look.callback(None)
    cluster.pass_time()
    with pytest.raises(ApplicationError):
        now(joining)
    assert cluster.names() == []


def test_a_line_that_falls_while_it_is_asked_changes_nothing() -> None:
    cluster, a, b = two()
    a.join(1, "Ann")
    b.line.becomes("down")
    b.line.present = None
    b.comes()
    cluster.pass_time(TTL)
    assert cluster.names() == ["Ann"]


def test_nobody_joins_before_it_is_clear_who_is_on_the_router() -> None:
    cluster, a, b = two()
    a.line.becomes("down")
    cluster.members.away = True
    a.comes()
    assert a.refused(1, "leave") == "unavailable"
    joining = a.line.invoke(1, "join", room="R", name="Ann")
    cluster.pass_time(2)
    with pytest.raises(ApplicationError) as error:
        now(joining)
    assert reason(error) == "unavailable"
    cluster.members.away = False
    cluster.pass_time(3)
    a.join(1, "Ann")
    assert b.post(1, "u1")["seq"] == 1


# ---- the store is away -------------------------------------------------------------------------------------


def test_when_the_store_was_away_for_longer_than_the_lease_those_who_stayed_are_still_there() -> None:
    cluster, a, b = two()
    cluster.pass_time(2 * TTL)
    a.join(1, "Ann")
    cluster.members.away = True
    cluster.pass_time(2 * TTL)
    assert b.refused(1) == "unavailable"
    assert a.refused(1) == "unavailable"
    cluster.members.away = False
    cluster.pass_time(3 * TTL)
    assert cluster.names() == ["Ann"]
    assert cluster.told(Left) == []
    assert b.post(1, "u1")["seq"] == a.post(1, "u2")["seq"] - 1 == 1


def test_a_seat_whose_name_another_user_took_meanwhile_is_no_seat() -> None:
    cluster, a, b = two()
    a.join(1, "Ann")
    b.post(1, "u1")
    cluster.members.away = True
    cluster.pass_time(2 * TTL)
    taking = Claim("r", "ann", Member("uX", "Ann"), "h", "n3")
    Deferred.fromCoroutine(MemoryMembers.renew(cluster.members, "n3", 100_000))
    Deferred.fromCoroutine(cluster.members.claim(taking))
    cluster.members.away = False
    cluster.pass_time(TTL / 2)
    assert a.refused(1) == b.refused(1) == "not_joined"


# ---- typing ------------------------------------------------------------------------------------------------


def test_typing_is_told_through_any_node_and_needs_a_seat() -> None:
    cluster, a, b = two()
    assert b.refused(1, "typing") == "bad_params"
    a.join(1, "Ann", user="uA")
    assert b.ask(1, "typing", room="R", on=True) == {}
    assert a.ask(1, "typing", room="R", on=False) == {}
    assert cluster.told(Typing) == [Typing(Member("uA", "Ann"), on) for on in (False, True)]
    with pytest.raises(ApplicationError) as error:
        b.ask(2, "typing", room="R", on=True)
    assert reason(error) == "not_joined"
    assert [type(told) for told in a.bus.announced] == [Entered, Typing]
