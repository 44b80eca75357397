"""A whole cluster in one process, from one seed: nodes, routers, database, clients, faults, and the verdict.

Theory of operation. Everything that happens is a call on one clock; all chance comes from the seed, in streams
of their own. Faults strike for a while, then everything is healed, clients say what they still have to say, and
when all is quiet the world is compared with what was promised. Most invariants are judged at once, at the moment
in which a client is told something, because the simulation knows what is durable.

Not modelled: a room that is made anew under another epoch (its place is `ReplicaSet`), blobs, WAMP clients, the
websocket handshake and pings (a cut is noticed after a random time instead), clocks that disagree, a claim of a name
that lands after its caller gave up.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from random import Random
from re import sub
from traceback import format_exc
from typing import Any

import msgspec
from attrs import define, field
from twisted.logger import globalLogPublisher

from eftchat.domain.messages import Claim
from eftchat.domain.names import fold
from eftchat.testing import plan as plans
from eftchat.testing.faults import Client, Faults
from eftchat.testing.memory import MemoryMembers
from eftchat.testing.plan import Plan
from eftchat.testing.replica_set import ReplicaSet
from eftchat.testing.sim_bus import NodeBus, Routers
from eftchat.testing.sim_clients import Place, V2Client
from eftchat.testing.sim_clock import NodeClock
from eftchat.testing.sim_node import SimNode
from eftchat.testing.sim_rivals import Rival
from eftchat.testing.sim_store import Link, SimMembers, SimMessages
from eftchat.testing.sim_v1 import V1Client
from eftchat.testing.sockets import Far, Wire
from eftchat.testing.stage import Broken, Stage
from eftchat.testing.truth import Truth

QUIET_WITHIN = 600.0
"""Seconds after the healing in which all must be said and shown."""
CUT_IS_NOTICED = 10.0
"""Seconds after which a node has found all its dead sockets, and let their names go."""
STOPPED_WITHIN = 60.0


class Verdict(msgspec.Struct, frozen=True):
    """How a run ended. `broken` is empty when every invariant held."""

    seed: int
    broken: str = ""
    evidence: str = ""
    messages: int = 0
    seconds: float = 0.0
    trace: tuple[str, ...] = ()


def run(seed: int, *, trace: bool = False) -> Verdict:
    """One run from its seed."""
    world = World(Stage(seed, [] if trace else None))
    broken: Broken | None = None
    try:
        world.run()
    except Broken as error:
        broken = error
    stage = world.stage
    return Verdict(
        seed,
        broken.invariant if broken else "",
        broken.evidence if broken else "",
        sum(len(rows) for rows in world.replicas.durable.rows.values()),
        stage.clock.rightNow,
        tuple(stage.lines or ()),
    )


@define(eq=False)
class World:
    """One run."""

    stage: Stage
    plan: Plan = field(init=False)
    replicas: ReplicaSet = field(init=False)
    routers: Routers = field(init=False)
    twin: MemoryMembers = field(init=False)
    truth: Truth = field(init=False)
    faults: Faults = field(init=False)
    nodes: list[SimNode] = field(factory=list, init=False)
    clients: list[Client] = field(factory=list, init=False)
    _ever: list[SimNode] = field(factory=list, init=False)
    _closing: bool = field(default=False, init=False)
    _balance: Random = field(init=False)
    _lives: count[int] = field(factory=lambda: count(1), init=False)

    def __attrs_post_init__(self) -> None:
        stage = self.stage
        self.plan = plan = plans.draw(stage.rng("plan"))
        stage.tell("plan", repr(plan))
        self.replicas = ReplicaSet(stage, plan.store_faults, plan.store)
        self.routers = Routers(stage, plan.bus_faults, plan.hop, plan.routers)
        self.twin = MemoryMembers(stage.clock.seconds)
        self.truth = Truth(stage, self.replicas.durable)
        self.faults = Faults(stage, plan, self)
        self._balance = stage.rng("load balancer")

    def run(self) -> None:
        """All of it. Raises Broken."""
        observer: Any = self._logged  # zope's interfaces say nothing to a type checker
        globalLogPublisher.addObserver(observer)
        try:
            for _ in range(self.plan.nodes):
                self._start_node()
            self._people()
            self.faults.start()
            self._until(self.plan.duration)
            self._heal()
            self._until_quiet()
            self._stop()
            for room in self._rooms():
                self.truth.judge(room)
            self._fail_if_broken()
        finally:
            globalLogPublisher.removeObserver(observer)
            for node in self._ever:
                node.clock.kill()

    # -- time ------------------------------------------------------------------------------------------

    def _until(self, end: float) -> None:
        """Runs the clock up to `end`; stops at the first thing that is wrong."""
        stage = self.stage
        step = stage.clock.step
        try:
            while step(end):
                if stage.failure is not None:
                    raise stage.failure
        except Broken:
            raise
        except Exception:
            stage.broken("no error escapes", format_exc())
        self._fail_if_broken()

    def _fail_if_broken(self) -> None:
        if self.stage.failure is not None:
            raise self.stage.failure

    def _heal(self) -> None:
        self.stage.tell("world", "is healed")
        self.faults.heal()

    def _until_quiet(self) -> None:
        """Until everyone has said and seen everything, and only who is there holds a name."""
        start = self.stage.clock.rightNow
        waits: str | None = ""
        while waits is not None:
            now = self.stage.clock.rightNow
            if now - start > QUIET_WITHIN:
                self.stage.broken("all is delivered in the end", waits)
            if now - start > 6.0:
                for client in self.clients:
                    if isinstance(client, V1Client):
                        client.nudge()
            self._until(now + (0.5 if now - start < 6.0 else 6.0))
            waits = self._unsettled()
        self.stage.tell("world", "is quiet")

    def _unsettled(self) -> str | None:
        for client in self.clients:
            waits = client.unsettled()
            if waits is not None:
                return waits
        return None

    def _stop(self) -> None:
        """Clients go, and their names; then nodes, and nothing is left."""
        self._judge_members()
        for client in self.clients:
            client.end()
        self._until(self.stage.clock.rightNow + CUT_IS_NOTICED)
        living = {node.name for node in self.nodes}
        holds = [hold for holds in self.twin._holds.values() for hold in holds.values()]
        ghosts = [str(hold) for hold in holds if hold.node in living]
        if ghosts:
            self.stage.broken("nobody holds a name that is gone", "; ".join(ghosts))
        self._closing = True
        for node in list(self.nodes):
            node.drain(5.0)
        self._until(self.stage.clock.rightNow + STOPPED_WITHIN)
        left = self.stage.clock.getDelayedCalls()
        if left:
            calls = ", ".join(f"{call.func.__qualname__}{call.args} at {call.time:.2f}" for call in left[:3])
            self.stage.broken("nothing is left running", sub(" at 0x[0-9a-f]+", "", calls))

    def _judge_members(self) -> None:
        """Who sits in a room is a member of it, and one name has one user."""
        for client in self.clients:
            if not isinstance(client, Rival):
                for room in self._rooms_of(client):
                    holds = self.twin._holds.get((room, fold(client.name)), {}).values()
                    if not any(self.twin._lives(hold) and hold.member.user == client.user for hold in holds):
                        self.stage.broken("who is there is a member", f"{client.user} is none of {room}")

    # -- nodes -----------------------------------------------------------------------------------------

    def _start_node(self) -> None:
        if self._closing:
            return
        name = f"n{next(self._lives)}"
        stage, clock = self.stage, NodeClock(self.stage)
        link = Link(name, clock, self.replicas, stage.rng(f"link {name}"))
        node = SimNode(
            stage,
            self.plan,
            self,
            name,
            link,
            SimMessages(link),
            SimMembers(link, self.twin, self._claimed),
            NodeBus(name, clock, self.routers),
            clock,
            stage.rng(f"node {name}"),
        )
        self.nodes.append(node)
        self._ever.append(node)
        if self.faults.healed:
            self.faults.widen(node)
        node.start()

    def gone(self, node: SimNode) -> None:
        """A new one comes in its place."""
        self.nodes.remove(node)
        wait = self._balance.choice((0.05, 1.0, 3.0)) * self._balance.random()
        self.stage.clock.callLater(wait, self._start_node)

    def _claimed(self, claim: Claim) -> None:
        """The store has granted a name: nobody else may sit on it now."""
        for node in self.nodes:
            for conversation in node.conversations():
                sitting = conversation.sittings.get(claim.room)
                if sitting is None or sitting.seat.claim.folded != claim.folded:
                    continue
                if sitting.seat.member.user != claim.member.user:
                    self.stage.broken("one name, one user", f"{claim} while {sitting.seat.claim} sits there")

    # -- clients ---------------------------------------------------------------------------------------

    def dial(
        self,
        far: Far,
        subprotocol: str | None,
        opened: Callable[[Wire], None],
        failed: Callable[[], None],
    ) -> None:
        """The load balancer: some node that listens."""
        wait = self.plan.hop * (1 + 2 * self._balance.random())
        self.stage.clock.callLater(wait, self._connect, far, subprotocol, opened, failed)

    def _connect(
        self,
        far: Far,
        subprotocol: str | None,
        opened: Callable[[Wire], None],
        failed: Callable[[], None],
    ) -> None:
        open_nodes = [node for node in self.nodes if node.listening]
        if not open_nodes:
            failed()
            return
        node = self._balance.choice(open_nodes)
        opened(node.accept(far, subprotocol, self.plan.hop, Random(self._balance.getrandbits(32))))

    def _rooms_of(self, client: Client) -> list[str]:
        return [client.room] if isinstance(client, V1Client) else list(client.places)

    def _rooms(self) -> list[str]:
        return [f"room{number}" for number in range(1, self.plan.rooms + 1)]

    def _people(self) -> None:
        rng = self.stage.rng("people")
        for number in range(1, self.plan.v2 + 1):
            self.clients.append(self._v2(f"u{number}", rng))
        for number in range(1, self.plan.v1 + 1):
            self.clients += self._v1(f"w{number}", rng)
        talkers = list(self.clients)
        for number in range(1, self.plan.rivals + 1):
            self.clients.append(self._rival(f"x{number}", rng))
        for client in self.clients:
            start = rng.choice((0.0, 0.0, self.plan.duration * 0.5)) * rng.random()
            self.stage.clock.callLater(start, client.start)
        left = self.plan.posts
        while left > 0:
            burst = min(left, rng.randint(1, self.plan.burst))
            left -= burst
            at = rng.uniform(0.0, self.plan.duration)
            self.stage.clock.callLater(at, self._say, rng.choice(talkers), burst, rng)

    def _say(self, client: Client, burst: int, rng: Random) -> None:
        for _ in range(burst):
            if isinstance(client, V1Client):
                client.say()
            else:
                client.say(rng.choice(list(client.places.values())))

    def _v2(self, user: str, rng: Random) -> V2Client:
        rooms = rng.sample(self._rooms(), rng.randint(1, self.plan.rooms))
        first = rng.choice(({}, {"tail": 0}, {"tail": 3}, {"after": {"epoch": None, "seq": 0}}))
        places = {room: Place(room, first) for room in rooms}
        chance = self.stage.rng(f"client {user}")
        return V2Client(self.stage, self.truth, self, chance, user, f"Name of {user}", places)

    def _v1(self, user: str, rng: Random) -> list[V1Client]:
        room, history = rng.choice(self._rooms()), self.plan.limits.history
        pages = [user, f"{user}b"] if self.plan.tabs else [user]
        made = []
        for page in pages:
            chance, name = self.stage.rng(f"client {page}"), f"Name of {user}"
            person = (chance, user, name, room, history, page, len(pages) == 1)
            made.append(V1Client(self.stage, self.truth, self, *person))
        return made

    def _rival(self, user: str, rng: Random) -> Rival:
        places = {"room1": Place("room1", {})}
        name = rng.choice(("Ann", "ANN", "ann"))
        return Rival(self.stage, self.truth, self, self.stage.rng(f"client {user}"), user, name, places)

    # -- what is logged --------------------------------------------------------------------------------

    def _logged(self, event: dict[str, object]) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            self.stage.broken("no failure is logged", f"{event.get('what')}: {failure}")
