"""Two nodes of a cluster on one router, over one store, on a clock that tests drive."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from attrs import define, field
from autobahn.wamp.exception import ApplicationError
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from eftchat.domain.errors import Unavailable
from eftchat.domain.limits import Limits
from eftchat.domain.messages import Claim, Member
from eftchat.lease import Lease
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.testing.memory import MemoryMembers, MemoryMessages
from eftchat.wamp.procedures import Procedures
from eftchat.wire import uris
from tests.unit.desk import RecordingBus
from tests.unit.lines import FakeLine
from tests.unit.test_wamp_procedures import now, reason

TTL = 10.0


@define
class Members(MemoryMembers):
    """The store, as all nodes reach it, or not; it counts what it is asked."""

    away: bool = field(default=False, kw_only=True)
    slow: list[Deferred[None]] | None = field(default=None, kw_only=True)
    """Where looks at seats wait to be let go on."""
    looks: int = field(default=0, init=False)

    async def renew(self, node: str, ttl_ms: int) -> None:
        self._reach()
        await MemoryMembers.renew(self, node, ttl_ms)

    async def lapsed(self) -> list[Claim]:
        self._reach()
        return await MemoryMembers.lapsed(self)

    async def held(self, sessions: Any) -> list[Claim]:
        self._reach()
        self.looks += 1
        found = await MemoryMembers.held(self, sessions)
        if self.slow is not None:
            self.slow.append(Deferred())
            await self.slow[-1]
        return found

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("away")


@define(eq=False)
class WampNode:
    """One node, on one router."""

    name: str
    cluster: Cluster
    line: FakeLine = field(factory=FakeLine)
    bus: RecordingBus = field(factory=RecordingBus)
    rooms: Rooms = field(init=False)
    procedures: Procedures = field(init=False)
    lease: Lease = field(init=False)

    def __attrs_post_init__(self) -> None:
        cluster = self.cluster
        loop, rng = TwistedLoop(cluster.clock), Random(self.name)
        stores = (cluster.messages, cluster.members)
        self.rooms = Rooms(self.name, b"secret", *stores, self.bus, loop, rng)
        self.procedures = Procedures(self.rooms, loop, Limits())
        self.procedures.serve(self.line)
        self.lease = Lease(self.rooms, loop, TTL, self.procedures.visitors.forget)
        loop.spawn(self.lease.start(), "starting")
        self.line.present = cluster.present
        cluster.clock.advance(0)

    def comes(self, subscription: int = 1) -> None:
        """It gets onto the router."""
        self.line.comes_up(subscription)

    def dies(self) -> None:
        """Killed: nothing of it happens any more, and the router has noticed."""
        self.lease.stop()
        self.line.alive = False
        self.line.becomes("stopped")
        self.cluster.nodes.remove(self)

    def ask(self, session: int, method: str, **params: Any) -> Any:
        answer = self.line.invoke(session, method, **params)
        self.cluster.pass_time()
        return now(answer)

    def join(self, session: int, name: str, room: str = "R", **params: Any) -> Any:
        return self.ask(session, "join", room=room, name=name, **params)

    def post(self, session: int, uuid: str, room: str = "R") -> Any:
        return self.ask(session, "post", room=room, uuid=uuid, body={"text": "hi"})

    def refused(self, session: int, method: str = "post") -> str:
        """Why a call is refused."""
        more = {"uuid": "x", "body": {"text": "hi"}} if method == "post" else {}
        with pytest.raises(ApplicationError) as error:
            self.ask(session, method, room="R", **more)
        return reason(error)


@define(eq=False)
class Cluster:
    """Two nodes on a router that has these sessions."""

    clock: Clock = field(factory=Clock)
    messages: MemoryMessages = field(factory=MemoryMessages)
    members: Members = field(init=False)
    present: list[int] = field(factory=list)
    nodes: list[WampNode] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.members = Members(self.clock.seconds)
        self.nodes = [WampNode("n1", self), WampNode("n2", self)]
        a, b = self.nodes
        a.line.others, b.line.others = [b.line], [a.line]
        for node in self.nodes:
            node.comes()

    def pass_time(self, seconds: float = 0.0) -> None:
        for _ in range(max(10, round(seconds * 4))):
            self.clock.advance(seconds / max(10, round(seconds * 4)))

    def names(self) -> list[str]:
        found: list[list[Member]] = []
        Deferred.fromCoroutine(self.members.present("r")).addCallback(found.append)
        return [member.name for member in found[0]]

    def leaves(self, session: int) -> None:
        """The router tells every node."""
        for node in self.nodes:
            node.line.event(uris.SESSION_LEFT, session)
        self.pass_time()

    def told(self, *kinds: type) -> list[Any]:
        return [told for node in self.nodes for told in node.bus.announced if isinstance(told, kinds)]


def two() -> tuple[Cluster, WampNode, WampNode]:
    cluster = Cluster()
    return cluster, *cluster.nodes  # type: ignore[return-value]
