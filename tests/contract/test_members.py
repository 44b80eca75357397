"""What `ports.Members` promises, sentence by sentence, held against every adapter.

Leases run by the store's own clock, so the tests wait for short ones to run out, and never count on a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList

from eftchat.domain.errors import NameTaken
from eftchat.domain.messages import Claim, Member

LONG = 60_000
SHORT = 100
ANN, BOB = Member("ann", "Ann"), Member("bob", "ANN")

Until = Callable[..., Any]


def hold(holder: str, node: str = "n1", member: Member = ANN, room: str = "lobby") -> Claim:
    return Claim(room, "ann", member, holder, node)


async def gone(store: Any, room: str = "lobby") -> bool:
    return not await store.members.present(room)


@pytest_twisted.ensureDeferred
async def test_a_claim_makes_a_member_present(store: Any) -> None:
    await store.members.renew("n1", LONG)
    assert await store.members.claim(hold("h1")) is True
    assert await store.other_members.present("lobby") == [ANN]
    assert await store.other_members.present("elsewhere") == []


@pytest_twisted.ensureDeferred
async def test_claiming_twice_changes_nothing(store: Any) -> None:
    await store.members.renew("n1", LONG)
    await store.members.claim(hold("h1"))
    assert await store.members.claim(hold("h1")) is False
    assert await store.members.release(hold("h1")) is True
    assert await store.members.present("lobby") == []


@pytest_twisted.ensureDeferred
async def test_one_user_holds_a_name_through_several_connections(store: Any) -> None:
    await store.members.renew("n1", LONG)
    await store.members.renew("n2", LONG)
    assert await store.members.claim(hold("h1")) is True
    assert await store.other_members.claim(hold("h2", "n2")) is False
    assert await store.members.release(hold("h1")) is False
    assert await store.members.present("lobby") == [ANN]
    assert await store.other_members.release(hold("h2", "n2")) is True
    assert await gone(store)


@pytest_twisted.ensureDeferred
async def test_a_living_users_name_is_taken(store: Any) -> None:
    await store.members.renew("n1", LONG)
    await store.members.renew("n2", LONG)
    await store.members.claim(hold("h1"))
    with pytest.raises(NameTaken):
        await store.other_members.claim(hold("h2", "n2", BOB))
    assert await store.members.present("lobby") == [ANN]
    assert await store.members.claim(hold("h3", "n1", BOB, room="other room")) is True


@pytest_twisted.ensureDeferred
async def test_a_released_name_is_free(store: Any) -> None:
    await store.members.renew("n1", LONG)
    await store.members.claim(hold("h1"))
    await store.members.release(hold("h1"))
    assert await store.members.claim(hold("h2", "n1", BOB)) is True
    assert await store.members.present("lobby") == [BOB]


@pytest_twisted.ensureDeferred
async def test_only_what_is_held_can_be_released(store: Any) -> None:
    await store.members.renew("n1", LONG)
    assert await store.members.release(hold("h1")) is False
    await store.members.claim(hold("h1"))
    assert await store.members.release(hold("h2")) is False
    assert await store.members.release(hold("h1", "n1", BOB)) is False
    assert await store.members.release(hold("h1")) is True
    assert await store.members.release(hold("h1")) is False


@pytest_twisted.ensureDeferred
async def test_present_is_by_name(store: Any) -> None:
    await store.members.renew("n1", LONG)
    for name in ("Żółw", "zoe", "Bert", "anna"):
        await store.members.claim(
            Claim("lobby", name.casefold(), Member(f"u-{name}", name), f"h-{name}", "n1")
        )
    names = [member.name for member in await store.other_members.present("lobby")]
    assert names == ["Bert", "anna", "zoe", "Żółw"]


@pytest_twisted.ensureDeferred
async def test_a_name_may_be_any_text(store: Any) -> None:
    await store.members.renew("$n.1", LONG)
    strange = Claim("$room.x", "$a.b", Member("$u.1", "$A.b"), "$$NOW", "$n.1")
    assert await store.members.claim(strange) is True
    assert await store.members.present("$room.x") == [strange.member]
    await store.members.forget("$n.1")
    assert await store.members.present("$room.x") == []


@pytest_twisted.ensureDeferred
async def test_a_claim_without_a_running_lease_does_not_count(store: Any) -> None:
    assert await store.members.claim(hold("h1", "never renewed")) is True
    assert await store.members.present("lobby") == []
    await store.members.renew("n2", LONG)
    assert await store.members.claim(hold("h2", "n2", BOB)) is True


@pytest_twisted.ensureDeferred
async def test_a_lapsed_name_can_be_taken_at_once(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    await store.members.renew("n2", LONG)
    await store.members.claim(hold("h1"))
    await until(lambda: gone(store))
    assert await store.other_members.claim(hold("h2", "n2", BOB)) is True
    assert await store.members.present("lobby") == [BOB]
    assert await store.members.lapsed() == [hold("h1")]
    assert await store.members.lapsed() == []
    assert await store.members.present("lobby") == [BOB]


@pytest_twisted.ensureDeferred
async def test_a_name_that_was_taken_over_does_not_come_back_with_its_lease(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    await store.members.renew("n2", LONG)
    await store.members.claim(hold("h1"))
    await until(lambda: gone(store))
    await store.members.claim(hold("h2", "n2", BOB))
    await store.members.renew("n1", LONG)
    assert await store.members.present("lobby") == [BOB]
    assert await store.members.claim(hold("h3", "n2", BOB)) is False
    assert await store.members.lapsed() == [hold("h1")]


@pytest_twisted.ensureDeferred
async def test_a_renewed_lease_goes_on(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    await store.members.renew("n1", LONG)
    await store.members.renew("n2", SHORT)
    await store.members.claim(hold("h1"))
    await store.members.claim(hold("h2", "n2", Member("eve", "Eve"), room="other room"))
    await until(lambda: gone(store, "other room"))
    assert await store.members.present("lobby") == [ANN]


@pytest_twisted.ensureDeferred
async def test_a_lapsed_claim_is_reported_once_over_all_nodes(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    rooms = {f"room {n}" for n in range(40)}
    for room in rooms:
        await store.members.claim(hold("h1", room=room))
    await until(lambda: gone(store, "room 0"))
    asking = [
        Deferred.fromCoroutine(members.lapsed()) for members in [store.members, store.other_members] * 3
    ]
    answers = [claims for _, claims in await DeferredList(asking, fireOnOneErrback=True)]
    reported = sorted(claim.room for claims in answers for claim in claims)
    assert reported == sorted(rooms)
    assert await store.members.lapsed() == []


@pytest_twisted.ensureDeferred
async def test_lapsed_leaves_the_living_alone(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    await store.members.renew("n2", LONG)
    await store.members.claim(hold("h1", room="lost"))
    await store.members.claim(hold("h2", "n2"))
    await until(lambda: gone(store, "lost"))
    assert await store.members.lapsed() == [hold("h1", room="lost")]
    assert await store.members.present("lobby") == [ANN]


@pytest_twisted.ensureDeferred
async def test_a_member_that_lives_on_another_node_is_not_reported(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    await store.members.renew("n2", LONG)
    await store.members.claim(hold("h0", room="watched"))
    await store.members.claim(hold("h1"))
    await store.members.claim(hold("h2", "n2"))
    await until(lambda: gone(store, "watched"))
    assert [claim.room for claim in await store.members.lapsed()] == ["watched"]
    assert await store.members.release(hold("h2", "n2")) is True


@pytest_twisted.ensureDeferred
async def test_of_a_members_many_lapsed_connections_one_is_reported(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    await store.members.claim(hold("h1"))
    await store.members.claim(hold("h2"))
    await until(lambda: gone(store))
    (claim,) = await store.members.lapsed()
    assert (claim.room, claim.folded, claim.member, claim.node) == ("lobby", "ann", ANN, "n1")


@pytest_twisted.ensureDeferred
async def test_a_member_that_came_back_is_not_reported(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    await store.members.renew("n2", LONG)
    await store.members.claim(hold("h1"))
    await until(lambda: gone(store))
    assert await store.members.claim(hold("h2", "n2")) is True
    assert await store.members.lapsed() == []
    assert await store.members.present("lobby") == [ANN]


@pytest_twisted.ensureDeferred
async def test_a_leaving_is_told_by_release_or_by_lapsed_never_by_both(store: Any, until: Until) -> None:
    await store.members.renew("n1", SHORT)
    await store.members.claim(hold("h1"))
    await store.members.claim(hold("h2"))
    await until(lambda: gone(store))
    told = [await store.members.release(hold("h1")), await store.members.release(hold("h2"))]
    told += [bool(await store.members.lapsed())]
    assert told.count(True) == 1


@pytest_twisted.ensureDeferred
async def test_a_forgotten_node_leaves_nothing_behind(store: Any) -> None:
    await store.members.renew("n1", LONG)
    await store.members.renew("n2", LONG)
    await store.members.claim(hold("h1"))
    await store.members.claim(hold("h2", "n2"))
    await store.members.claim(hold("h3", "n1", room="other"))
    await store.members.forget("n1")
    assert await store.members.present("other") == []
    assert await store.members.present("lobby") == [ANN]
    assert await store.members.lapsed() == []
    await store.members.renew("n1", LONG)
    assert await store.members.present("other") == []
    assert await store.members.release(hold("h2", "n2")) is True


@pytest_twisted.ensureDeferred
async def test_of_users_that_race_for_a_name_one_gets_it(store: Any) -> None:
    await store.members.renew("n1", LONG)

    async def claim(members: Any, user: str) -> bool:
        try:
            return bool(await members.claim(hold(f"h-{user}", "n1", Member(user, "Ann"))))
        except NameTaken:
            return False

    views = [store.members, store.other_members] * 4
    racing = [Deferred.fromCoroutine(claim(members, f"u{n}")) for n, members in enumerate(views)]
    won = [result for _, result in await DeferredList(racing, fireOnOneErrback=True)]
    assert won.count(True) == 1
    assert await store.members.present("lobby") == [Member(f"u{won.index(True)}", "Ann")]


@pytest_twisted.ensureDeferred
async def test_of_one_users_connections_that_race_one_is_the_first_and_one_the_last(store: Any) -> None:
    await store.members.renew("n1", LONG)
    views = [store.members, store.other_members] * 4
    claims = [hold(f"h{n}") for n in range(8)]

    async def all_at_once(calls: list[Any]) -> list[bool]:
        running = [Deferred.fromCoroutine(call) for call in calls]
        return [answer for _, answer in await DeferredList(running, fireOnOneErrback=True)]

    came = await all_at_once([view.claim(claim) for view, claim in zip(views, claims, strict=True)])
    went = await all_at_once([view.release(claim) for view, claim in zip(views, claims, strict=True)])
    assert (came.count(True), went.count(True)) == (1, 1)
    assert await gone(store)


@pytest_twisted.ensureDeferred
async def test_where_a_user_first_joined_is_kept_for_ever(store: Any) -> None:
    assert await store.members.first_joined("lobby", "ann", 0) == 0
    assert await store.other_members.first_joined("lobby", "ann", 17) == 0
    assert await store.members.first_joined("lobby", "bob", 17) == 17
    assert await store.members.first_joined("other", "ann", 3) == 3


@pytest_twisted.ensureDeferred
async def test_two_first_joins_at_once_agree(store: Any) -> None:
    views = [store.members, store.other_members] * 4
    joining = [Deferred.fromCoroutine(view.first_joined("lobby", "ann", n)) for n, view in enumerate(views)]
    answers = [answer for _, answer in await DeferredList(joining, fireOnOneErrback=True)]
    assert len(set(answers)) == 1


# ---- WAMP sessions, whose claims any node may have made ----------------------------------------------------


def by(session: str, holder: str, member: Member = ANN, **where: str) -> Claim:
    return Claim(where.get("room", "lobby"), "ann", member, holder, where.get("lease", "$r1"), session)


@pytest_twisted.ensureDeferred
async def test_what_a_session_holds_is_found_by_every_node(store: Any) -> None:
    await store.members.renew("$r1", LONG)
    mine = [by("7", "h1"), by("7", "h2", room="$other")]
    for claim in [*mine, by("8", "h3", room="third"), hold("h4", "$r1", room="fourth")]:
        await store.members.claim(claim)
    found = await store.other_members.held(["7", "9", "", "$8"])
    assert sorted(found, key=lambda claim: claim.holder) == mine
    assert await store.other_members.held(["9"]) == await store.other_members.held([]) == []
    assert await store.other_members.release(mine[0]) is True
    assert await store.members.held(["7"]) == [mine[1]]
    assert {claim.holder for claim in await store.members.hanging("$r1")} == {"h2", "h3", "h4"}
    assert await store.members.hanging("7") == []


@pytest_twisted.ensureDeferred
async def test_a_session_that_holds_one_name_twice_is_found_with_both(store: Any) -> None:
    await store.members.renew("$r1", LONG)
    for holder in ("h1", "h2"):
        await store.members.claim(by("7", holder))
    await store.members.claim(hold("h3", "$r1"))
    assert {claim.holder for claim in await store.other_members.held(["7"])} == {"h1", "h2"}


@pytest_twisted.ensureDeferred
async def test_what_hangs_on_a_lapsed_lease_is_found_until_somebody_else_has_the_name(
    store: Any, until: Until
) -> None:
    await store.members.renew("$r1", SHORT)
    await store.members.renew("n2", LONG)
    await store.members.claim(by("7", "h1"))
    await until(lambda: gone(store))
    assert await store.other_members.held(["7"]) == await store.members.hanging("$r1") == [by("7", "h1")]
    await store.members.claim(hold("h2", "n2", BOB))
    assert await store.other_members.held(["7"]) == await store.members.hanging("$r1") == []


@pytest_twisted.ensureDeferred
async def test_a_lapsed_claim_of_a_session_tells_which_session_it_was(store: Any, until: Until) -> None:
    await store.members.renew("$r1", SHORT)
    await store.members.claim(by("7", "h1"))
    await until(lambda: gone(store))
    assert await store.members.lapsed() == [by("7", "h1")]
    assert await store.members.held(["7"]) == []


@pytest_twisted.ensureDeferred
async def test_what_a_session_holds_can_be_moved_to_another_lease(store: Any, until: Until) -> None:
    await store.members.renew("$r1", SHORT)
    await store.members.renew("$r2", LONG)
    for claim in (by("7", "h1"), by("8", "h2", room="second"), hold("h3", "$r1", room="third")):
        await store.members.claim(claim)
    await store.other_members.adopt(["7", "9", ""], "$r2")
    await until(lambda: gone(store, "second"))
    assert await store.members.present("lobby") == [ANN]
    assert (
        await store.members.hanging("$r2") == await store.members.held(["7"]) == [by("7", "h1", lease="$r2")]
    )
    assert {claim.room for claim in await store.members.lapsed()} == {"second", "third"}
    assert await store.members.release(by("7", "h1", lease="$r2")) is True


@pytest_twisted.ensureDeferred
async def test_a_name_that_another_user_has_is_not_moved_back(store: Any, until: Until) -> None:
    await store.members.renew("$r1", SHORT)
    await store.members.renew("$r2", LONG)
    await store.members.claim(by("7", "h1"))
    await until(lambda: gone(store))
    await store.members.claim(hold("h2", "$r2", BOB))
    await store.members.adopt(["7"], "$r2")
    assert await store.members.present("lobby") == [BOB]
    assert await store.members.held(["7"]) == []
    assert await store.members.lapsed() == [by("7", "h1")]
