"""WAMP clients of a real Crossbar router, and a node behind it that has memory instead of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallOptions, PublishOptions, RegisterOptions, SubscribeOptions
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from eftchat.domain.limits import Limits
from eftchat.testing.memory import MemoryMessages
from eftchat.wamp.link import RouterAddress
from eftchat.wamp.router import RouterProcess
from tests.integration.cores import Core, Reader, Store, core, until
from tests.integration.peers import Peer, join, refusal

LIMITS = Limits(post_rate=1000.0, post_burst=1000.0, rooms=3, text=16 * 1024)


def address(router: RouterProcess) -> RouterAddress:
    return RouterAddress(router.settings.node_url, router.ticket)


@pytest_twisted.async_yield_fixture
async def node(router: RouterProcess) -> AsyncIterator[Core]:
    made = core("n1", address(router), Store(), LIMITS)
    await made.up()
    yield made
    await made.down()


async def leave(*peers: Peer) -> None:
    for peer in peers:
        peer.leave()
        await peer.gone


@pytest_twisted.async_yield_fixture
async def ann(router: RouterProcess) -> AsyncIterator[Peer]:
    peer = await join(router.settings.client_url)
    yield peer
    await leave(peer)


@pytest_twisted.async_yield_fixture
async def bob(router: RouterProcess) -> AsyncIterator[Peer]:
    peer = await join(router.settings.client_url)
    yield peer
    await leave(peer)


async def api(peer: Peer, method: str, **params: Any) -> Any:
    return await peer.call(f"eftchat.api.{method}", **params).addTimeout(10, reactor)


async def post(peer: Peer, uuid: str, text: str = "hi", room: str = "R") -> Any:
    return await api(peer, "post", room=room, uuid=uuid, kind="text", body={"text": text})


async def refused(peer: Peer, method: str, *args: Any, **params: Any) -> ApplicationError:
    with pytest.raises(ApplicationError) as error:
        await peer.call(f"eftchat.api.{method}", *args, **params).addTimeout(10, reactor)
    return error.value


# ---- the conversation --------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_members_hear_each_other_in_order(node: Core, ann: Peer, bob: Peer) -> None:
    heard: dict[str, list[tuple[int, str]]] = {"ann": [], "bob": []}
    for name, peer in (("ann", ann), ("bob", bob)):
        joined = await api(peer, "join", room="R", name=name)

        def remember(room: str, epoch: str, messages: Any, mine: Any = heard[name]) -> None:
            mine.extend((message["seq"], message["body"]["text"]) for message in messages)

        await peer.subscribe(remember, joined["topics"]["messages"])
    said = [(ann, "one"), (bob, "two"), (ann, "three")]
    for number, (peer, text) in enumerate(said):
        answer = await post(peer, f"u{number}", text)
        assert (answer["seq"], answer["repeated"]) == (number + 1, False)
    expected = [(1, "one"), (2, "two"), (3, "three")]
    await until(lambda: heard == {"ann": expected, "bob": expected})


@pytest_twisted.ensureDeferred
async def test_a_join_tells_all_that_a_client_needs_to_go_on(node: Core, ann: Peer, bob: Peer) -> None:
    await api(ann, "join", room="Räume", name="Ann", user="uA")
    await post(ann, "u1", room="Räume")
    joined = await api(bob, "join", room="räume", name="Bob", user="uB", after={"epoch": None, "seq": 0})
    key = await api(bob, "key", room="RÄUME")
    assert joined == {
        "room": "Räume",
        "key": key,
        "epoch": joined["epoch"],
        "seq": 0,
        "head": 1,
        "members": [{"user": "uA", "name": "Ann"}, {"user": "uB", "name": "Bob"}],
        "resumed": True,
        "topics": {
            "messages": f"eftchat.room.{key}.messages",
            "presence": f"eftchat.room.{key}.presence",
        },
    }


@pytest_twisted.ensureDeferred
async def test_what_was_missed_can_be_read_from_both_ends(node: Core, ann: Peer) -> None:
    await api(ann, "join", room="R", name="Ann", user="uA")
    for number in range(1, 6):
        await post(ann, f"u{number}")
    later = await api(ann, "since", room="R", seq=3)
    earlier = await api(ann, "before", room="R", seq=4, limit=2)
    assert [message["seq"] for message in later["messages"]] == [4, 5]
    assert [message["seq"] for message in earlier["messages"]] == [2, 3]
    assert later["head"] == earlier["head"] == 5
    assert later["messages"][0]["body"] == {"text": "hi"}
    assert (later["messages"][0]["user"], later["messages"][0]["name"]) == ("uA", "Ann")
    assert await api(ann, "members", room="R") == {"members": [{"user": "uA", "name": "Ann"}]}


@pytest_twisted.ensureDeferred
async def test_a_retried_post_keeps_its_number(node: Core, ann: Peer) -> None:
    await api(ann, "join", room="R", name="Ann")
    first = await post(ann, "u1")
    again = await post(ann, "u1")
    assert (again["seq"], again["at"], again["repeated"]) == (1, first["at"], True)


@pytest_twisted.ensureDeferred
async def test_posts_that_do_not_wait_for_each_other_are_stored_in_order(node: Core, ann: Peer) -> None:
    await api(ann, "join", room="R", name="Ann")
    calls = [
        ann.call("eftchat.api.post", room="R", uuid=f"u{number}", body={"text": "hi"}) for number in range(50)
    ]
    answers = await gatherResults(calls).addTimeout(10, reactor)
    assert [answer["seq"] for answer in answers] == list(range(1, 51))


@pytest_twisted.ensureDeferred
async def test_who_comes_and_goes_is_told(node: Core, ann: Peer, bob: Peer) -> None:
    told: list[tuple[str, str]] = []
    joined = await api(ann, "join", room="R", name="Ann")
    await ann.subscribe(
        lambda event, member, **_: told.append((event, member["name"])), joined["topics"]["presence"]
    )
    await api(bob, "join", room="R", name="Bob")
    await api(bob, "leave", room="R")
    await until(lambda: told == [("entered", "Bob"), ("left", "Bob")])


@pytest_twisted.ensureDeferred
async def test_joining_again_keeps_the_member_in_the_room(node: Core, ann: Peer) -> None:
    await api(ann, "join", room="R", name="Ann", user="uA")
    await api(ann, "join", room="R", name="Ann", user="uA")
    await deferLater(reactor, 0)
    assert await api(ann, "members", room="R") == {"members": [{"user": "uA", "name": "Ann"}]}
    await post(ann, "u1")


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_taken_is_refused(node: Core, ann: Peer, bob: Peer) -> None:
    await api(ann, "join", room="R", name="Ann")
    error = await refused(bob, "join", room="R", name="ANN")
    assert error.error == "eftchat.error.name_taken"
    assert error.args == ("There is another user with this name in the room",)
    assert error.kwargs == {"retryable": False}


@pytest.mark.parametrize(
    ("method", "params", "reason", "text"),
    [
        ("post", {"room": "R", "uuid": "u", "body": {"text": "hi"}}, "not_joined", "Join"),
        ("leave", {"room": "R"}, "not_joined", "Join"),
        ("join", {"name": "Ann"}, "bad_params", "room"),
        ("join", {"room": "R", "name": 7}, "bad_params", "params.name"),
        ("join", {"room": "", "name": "Ann"}, "bad_params", "params.room"),
        ("post", {"room": "R", "uuid": "u", "body": {"text": "x" * 20_000}}, "bad_params", "16384 bytes"),
        ("post", {"room": "R", "uuid": "no spaces", "body": {"text": "x"}}, "bad_params", "params.uuid"),
        ("post", {"room": "R", "uuid": "u", "body": "x"}, "bad_params", "params.body"),
        ("since", {"room": "R", "seq": -1}, "bad_params", "params.seq"),
        ("since", {"room": "R", "seq": 0, "limit": 1000}, "bad_params", "params.limit"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_request_is_refused_with_a_reason(
    node: Core, ann: Peer, method: str, params: dict[str, Any], reason: str, text: str
) -> None:
    error = await refused(ann, method, **params)
    assert error.error == f"eftchat.error.{reason}"
    assert text in error.args[0]


@pytest_twisted.ensureDeferred
async def test_arguments_by_position_are_refused(node: Core, ann: Peer) -> None:
    assert (await refused(ann, "key", "R")).error == "eftchat.error.bad_params"


@pytest_twisted.ensureDeferred
async def test_a_session_is_in_a_few_rooms_at_most(node: Core, ann: Peer) -> None:
    calls = [ann.call("eftchat.api.join", room=f"R{number}", name="Ann") for number in range(4)]
    with pytest.raises(ApplicationError) as error:
        await calls[3]
    assert error.value.error == "eftchat.error.too_many_rooms"
    await gatherResults(calls[:3])


@pytest_twisted.ensureDeferred
async def test_posting_too_fast_is_refused_with_the_time_to_wait(router: RouterProcess, ann: Peer) -> None:
    node = core("slow", address(router), Store(), Limits(post_rate=0.1, post_burst=2.0))
    await node.up()
    await api(ann, "join", room="R", name="Ann")
    for number in range(2):
        await post(ann, f"u{number}")
    error = await refused(ann, "post", room="R", uuid="u2", body={"text": "hi"})
    assert error.error == "eftchat.error.rate_limited"
    assert error.kwargs["retryable"] is True
    assert 8_000 < error.kwargs["retry_after_ms"] <= 10_000
    await node.down()


class Broken(MemoryMessages):
    """A store with a bug."""

    async def after(self, room: str, seq: int, limit: int) -> Any:
        raise ZeroDivisionError("the secret of the store")


@pytest_twisted.ensureDeferred
async def test_a_fault_of_ours_tells_a_client_nothing_about_it(router: RouterProcess, ann: Peer) -> None:
    node = core("broken", address(router), Store(Broken()))
    await node.up()
    error = await refused(ann, "since", room="R", seq=0)
    assert error.error == "eftchat.error.internal"
    assert error.args == ("Something went wrong on our side",)
    assert error.kwargs == {"retryable": True}
    await node.down()


# ---- strangers ---------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_forged_identity_is_refused_and_changes_nothing(node: Core, ann: Peer, bob: Peer) -> None:
    await api(ann, "join", room="R", name="Ann")
    forged = CallOptions(
        forward_for=[{"session": ann._session_id, "authid": "ann", "authrole": "node"}],
    )
    params = {"room": "R", "uuid": "u1", "body": {"text": "I am Ann"}}
    error = await refused(bob, "post", options=forged, **params)
    assert error.error == "wamp.error.not_authorized"
    assert node.link.forged == 1
    assert (await api(ann, "since", room="R", seq=0))["head"] == 0


@pytest.mark.parametrize("name", ["fun", "f", "details", "args", "kwargs", "endpoint", "call", "topic"])
@pytest_twisted.ensureDeferred
async def test_no_name_of_a_parameter_hurts_the_node(node: Core, ann: Peer, name: str) -> None:
    assert await ann.call("eftchat.api.key", **{"room": "R", name: 1}) == node.rooms.key("r")
    assert node.link.state == "up"


@pytest_twisted.ensureDeferred
async def test_a_client_can_only_listen_and_call(node: Core, ann: Peer) -> None:
    topic = (await api(ann, "join", room="R", name="Ann"))["topics"]["messages"]
    forged = {"room": "R", "epoch": "x", "messages": []}
    publishing = ann.publish(topic, options=PublishOptions(acknowledge=True), **forged)
    assert await refusal(publishing) == "wamp.error.not_authorized"
    serving = ann.register(lambda: None, "eftchat.api.post", RegisterOptions(invoke="roundrobin"))
    assert await refusal(serving) == "wamp.error.not_authorized"
    for match, wide in (("prefix", "eftchat.room."), ("wildcard", "eftchat.room..messages")):
        listening = ann.subscribe(lambda **_: None, wide, SubscribeOptions(match=match))
        assert await refusal(listening) == "wamp.error.not_authorized"


@pytest_twisted.ensureDeferred
async def test_the_name_of_a_client_that_dies_is_free(node: Core, router: RouterProcess, ann: Peer) -> None:
    victim = await join(router.settings.client_url)
    await api(victim, "join", room="R", name="Bob")
    victim._transport.transport.abortConnection()
    await until(lambda: node.procedures.seated == 0)
    assert (await api(ann, "members", room="R"))["members"] == []
    await api(ann, "join", room="R", name="Bob")


@pytest_twisted.ensureDeferred
async def test_a_caller_that_gives_up_does_not_undo_its_post(node: Core, ann: Peer) -> None:
    await api(ann, "join", room="R", name="Ann")
    calling = ann.call("eftchat.api.post", room="R", uuid="u1", body={"text": "hi"})
    calling.addErrback(lambda failure: None)
    calling.cancel()
    assert (await post(ann, "u1"))["seq"] == 1
    assert node.link.state == "up"


@pytest_twisted.ensureDeferred
async def test_large_messages_reach_wamp_clients_in_events_and_pages_that_fit(
    node: Core, ann: Peer, bob: Peer
) -> None:
    heard: list[int] = []
    joined = await api(bob, "join", room="R", name="Bob")
    await bob.subscribe(
        lambda messages, **_: heard.extend(message["seq"] for message in messages),
        joined["topics"]["messages"],
    )
    await api(ann, "join", room="R", name="Ann")
    text = "x" * 16_000
    await gatherResults(
        [ann.call("eftchat.api.post", room="R", uuid=f"u{n}", body={"text": text}) for n in range(80)]
    ).addTimeout(20, reactor)
    await until(lambda: heard == list(range(1, 81)))
    read: list[int] = []
    while len(read) < 80:
        page = await api(ann, "since", room="R", seq=len(read))
        read += [message["seq"] for message in page["messages"]]
    assert read == list(range(1, 81))
    nearest = [message["seq"] for message in (await api(ann, "before", room="R", seq=80))["messages"]]
    assert nearest == list(range(80 - len(nearest), 80))
    assert nearest


# ---- two nodes ---------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_what_one_node_stores_reaches_the_readers_of_another(router: RouterProcess) -> None:
    store = Store()
    here, there = (core(name, address(router), store) for name in ("n1", "n2"))
    await here.up()
    await there.up()
    reader = Reader()
    joined = await there.join("R", "Bob", "uB")
    joined.feed.attach(reader, joined.cursor)
    seat = (await here.join("R", "Ann", "uA")).seat
    for number in range(1, 4):
        await here.rooms.post(seat, f"u{number}", "text", {"text": f"m{number}"}).wait()
    here.rooms.leave(seat)
    await until(lambda: reader.texts == ["1 m1", "2 m2", "3 m3"])
    await until(lambda: [type(told).__name__ for told in reader.presences][-2:] == ["Entered", "Left"])
    assert (here.bus.malformed, there.bus.malformed) == (0, 0)
    await here.down()
    await there.down()
