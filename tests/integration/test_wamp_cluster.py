"""WAMP members of a real Crossbar router that two nodes serve in turn: whichever of them dies, their seats stay."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from attrs import define
from autobahn.wamp.exception import ApplicationError
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from eftchat.domain.limits import Limits
from eftchat.domain.messages import Left, Typing
from eftchat.lease import Lease
from eftchat.ops.loop import TwistedLoop
from eftchat.wamp.link import RouterAddress
from eftchat.wamp.router import RouterProcess
from tests.integration.cores import Core, Reader, Store, core, until
from tests.integration.peers import Peer, join

LIMITS = Limits(post_rate=1000.0, post_burst=1000.0)
TTL = 1.0


@define(eq=False)
class Pair:
    """Two nodes on one router, over one store, with leases that are short."""

    store: Store
    cores: list[Core]
    leases: list[Lease]

    async def names(self, room: str = "r") -> list[str]:
        return [member.name for member in await self.store.members.present(room)]

    def serving(self) -> tuple[Core, Core]:
        """The node that served the only join so far, and the other."""
        one, other = sorted(self.cores, key=lambda core: -core.procedures.seated)
        assert (one.procedures.seated, other.procedures.seated) == (1, 0)
        return one, other

    def kill(self, victim: Core) -> None:
        """As kill -9 does it: its sockets end, and it never comes back."""
        self.leases[self.cores.index(victim)].stop()
        for link in victim.links:
            link._stopping = True
            cut(victim)


def cut(victim: Core) -> None:
    """The connections to its routers break."""
    for link in victim.links:
        if link._visit is not None:
            link._visit.dial.hang_up()


async def pair_on(router: RouterProcess) -> Pair:
    store, loop = Store(), TwistedLoop(reactor)
    address = RouterAddress(router.settings.node_url, router.ticket)
    cores = [core(name, address, store, LIMITS) for name in ("n1", "n2")]
    leases = [Lease(each.rooms, loop, TTL, each.procedures.visitors.forget) for each in cores]
    for each, lease in zip(cores, leases, strict=True):
        each.lease_ms = round(TTL * 1000)
        await lease.start()
        await each.up()
    return Pair(store, cores, leases)


async def down(pair: Pair) -> None:
    for lease in pair.leases:
        lease.stop()
    for each in pair.cores:
        await each.down()


@pytest_twisted.async_yield_fixture
async def pair(router: RouterProcess) -> AsyncIterator[Pair]:
    made = await pair_on(router)
    yield made
    await down(made)


@pytest_twisted.async_yield_fixture
async def ann(router: RouterProcess) -> AsyncIterator[Peer]:
    peer = await join(router.settings.client_url)
    yield peer
    if peer._transport is not None:
        peer.leave()
        await peer.gone


async def api(peer: Peer, method: str, **params: Any) -> Any:
    return await peer.call(f"eftchat.api.{method}", **params).addTimeout(10, reactor)


async def post(peer: Peer, uuid: str) -> Any:
    return await api(peer, "post", room="R", uuid=uuid, body={"text": uuid})


async def refusal(peer: Peer, method: str, **params: Any) -> str:
    with pytest.raises(ApplicationError) as error:
        await api(peer, method, **params)
    return str(error.value.error)


async def held(pair: Pair, *names: str) -> None:
    """Returns when exactly these hold a name."""
    deadline = reactor.seconds() + 20
    while await pair.names() != list(names):
        assert reactor.seconds() < deadline, "did not happen in time"
        await deferLater(reactor, 0.01)


async def later(seconds: float, condition: Callable[[], bool]) -> None:
    """Returns after so many seconds in which the condition held all the time."""
    end = reactor.seconds() + seconds
    while reactor.seconds() < end:
        assert condition()
        await deferLater(reactor, 0.02)


@pytest_twisted.ensureDeferred
async def test_a_member_is_served_by_every_node(pair: Pair, ann: Peer) -> None:
    await api(ann, "join", room="R", name="Ann")
    answers = [await post(ann, f"u{n}") for n in range(8)]
    assert [answer["seq"] for answer in answers] == list(range(1, 9))
    assert all(each.rooms.log.durable >= 3 for each in pair.cores)


@pytest_twisted.ensureDeferred
async def test_what_a_session_has_changed_through_one_node_holds_at_the_other(pair: Pair, ann: Peer) -> None:
    for n in range(15):  # an odd number of calls each time: every step is served by either node
        await api(ann, "join", room="R", name=f"Ann{n}", user="uA")
        assert [(await post(ann, f"u{n}.{m}"))["repeated"] for m in range(2)] == [False, False]
        await api(ann, "join", room="R", name=f"Anna{n}", user="uA")
        await post(ann, f"v{n}")
        assert await pair.names() == [f"Anna{n}"]
        await api(ann, "leave", room="R")
        assert (
            await refusal(ann, "post", room="R", uuid="w", body={"text": "w"}) == "eftchat.error.not_joined"
        )
        assert await refusal(ann, "leave", room="R") == "eftchat.error.not_joined"
        await api(ann, "key", room="R")
    page = await api(ann, "since", room="R", seq=0)
    said = {message["uuid"]: message["name"] for message in page["messages"]}
    assert all(said[f"u{n}.{m}"] == f"Ann{n}" for n in range(15) for m in range(2))
    assert all(said[f"v{n}"] == f"Anna{n}" for n in range(15))
    assert all(each.rooms.log.durable > 5 for each in pair.cores)


@pytest_twisted.ensureDeferred
async def test_posts_go_on_though_the_node_that_served_the_join_loses_the_router(
    pair: Pair, ann: Peer
) -> None:
    await api(ann, "join", room="R", name="Ann")
    serving, _ = pair.serving()
    errors: set[str] = set()
    for n in range(60):
        if n in (10, 30):
            cut(serving)
        stored = False
        while not stored:
            try:
                stored = (await post(ann, f"u{n}"))["seq"] == n + 1
            except ApplicationError as error:
                errors.add(error.error)
        if n == 20:
            await until(lambda: serving.link.state == "up")
    assert errors <= {"wamp.error.canceled"}
    assert await pair.names() == ["Ann"]


@pytest_twisted.ensureDeferred
async def test_a_client_that_dies_frees_its_name_within_a_second_and_is_told_once(
    pair: Pair, ann: Peer, router: RouterProcess
) -> None:
    victim = await join(router.settings.client_url)
    await api(victim, "join", room="R", name="Bob", user="uB")
    await post(victim, "u1")
    reader = Reader()
    joined = await pair.cores[0].join("R", "Watcher", "uW")
    joined.feed.attach(reader, joined.cursor)
    died = reactor.seconds()
    victim._transport.transport.abortConnection()
    await held(pair, "Watcher")
    assert reactor.seconds() - died < 1.0
    await until(lambda: Left(joined.members[0]) in reader.presences)
    await api(ann, "join", room="R", name="Bob", user="uA")
    assert [told for told in reader.presences if isinstance(told, Left)] == [Left(joined.members[0])]
    pair.cores[0].rooms.leave(joined.seat)


@pytest_twisted.ensureDeferred
async def test_a_name_is_kept_when_the_node_that_gave_it_is_killed(pair: Pair, ann: Peer) -> None:
    await api(ann, "join", room="R", name="Ann")
    serving, other = pair.serving()
    pair.kill(serving)
    checks: list[list[str]] = []
    end = reactor.seconds() + 4 * TTL
    while reactor.seconds() < end:
        checks.append(await pair.names())
        await deferLater(reactor, 0.05)
    assert all(names == ["Ann"] for names in checks)
    assert (await post(ann, "u1"))["seq"] == 1
    assert other.rooms.log.durable == 1
    ann.leave()
    await held(pair)


@pytest_twisted.ensureDeferred
async def test_a_session_that_leaves_while_no_node_is_there_is_found_by_the_next(
    pair: Pair, ann: Peer
) -> None:
    await api(ann, "join", room="R", name="Ann", user="uA")
    for each in pair.cores:
        cut(each)
    await until(lambda: all(each.link.state == "down" for each in pair.cores))
    ann._transport.transport.abortConnection()
    died = reactor.seconds()
    await held(pair)
    assert reactor.seconds() - died < 2 * TTL
    await until(lambda: all(each.link.state == "up" for each in pair.cores))


@pytest_twisted.ensureDeferred
async def test_a_seat_is_kept_though_all_nodes_lose_the_router_for_a_moment(pair: Pair, ann: Peer) -> None:
    await api(ann, "join", room="R", name="Ann", user="uA")
    for each in pair.cores:
        cut(each)
    await until(lambda: all(each.link.state == "down" for each in pair.cores))
    await until(lambda: all(each.link.state == "up" for each in pair.cores))
    await later(3 * TTL, lambda: True)
    assert await pair.names() == ["Ann"]
    assert [(await post(ann, f"u{n}"))["seq"] for n in range(4)] == [1, 2, 3, 4]


@pytest_twisted.ensureDeferred
async def test_when_a_router_is_killed_its_members_names_are_free_within_the_lease(
    make_router: Callable[..., RouterProcess], tmp_path_factory: pytest.TempPathFactory
) -> None:
    mortal = make_router(tmp_path_factory.mktemp("mortal"))
    mortal.start()
    await mortal.ready
    pair = await pair_on(mortal)
    peer = await join(mortal.settings.client_url)
    await api(peer, "join", room="R", name="Ann", user="uA")
    os.kill(mortal.pid, signal.SIGKILL)
    died = reactor.seconds()
    await held(pair)
    assert reactor.seconds() - died <= TTL + 0.2
    await until(lambda: all(each.link.state == "up" for each in pair.cores), 60)
    other = await join(mortal.settings.client_url)
    await api(other, "join", room="R", name="Ann", user="uX")
    assert await pair.names() == ["Ann"]
    other.leave()
    await other.gone
    await down(pair)
    await mortal.stop()


def typed(events: list[Any]) -> list[Any]:
    """Who typed or stopped."""
    return [(e["event"], e["member"], e["on"]) for e in events if e["event"] == "typing"]


@pytest_twisted.ensureDeferred
async def test_typing_reaches_all_but_the_session_that_types(
    pair: Pair, ann: Peer, router: RouterProcess
) -> None:
    bob = await join(router.settings.client_url)
    heard: dict[str, list[Any]] = {"ann": [], "bob": []}
    for name, peer in (("ann", ann), ("bob", bob)):
        joined = await api(peer, "join", room="R", name=name, user=name)
        listening: Deferred[Any] = peer.subscribe(
            lambda mine=heard[name], **event: mine.append(event), joined["topics"]["presence"]
        )
        await listening
    readers = [Reader(), Reader()]
    for each, reader in zip(pair.cores, readers, strict=True):
        seat = await each.join("R", f"W {each.rooms.node}", each.rooms.node)
        seat.feed.attach(reader, seat.cursor)
    for on in (True, False):
        await api(ann, "typing", room="R", on=on)
    typing = [("typing", {"user": "ann", "name": "ann"}, on) for on in (True, False)]
    await until(lambda: typed(heard["bob"]) == typing)
    for reader in readers:
        await until(
            lambda reader=reader: (
                [p.on for p in reader.presences if isinstance(p, Typing)][:2] == [True, False]
            )
        )
    assert typed(heard["ann"]) == []
    bob.leave()
    await bob.gone
