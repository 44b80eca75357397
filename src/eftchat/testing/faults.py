"""What befalls a simulated cluster, and when: each fault its own process with its own chance, until all is healed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from attrs import define, field

from eftchat.log import Bounds
from eftchat.testing.plan import Plan
from eftchat.testing.replica_set import ReplicaSet
from eftchat.testing.sim_bus import Routers
from eftchat.testing.sim_clients import Place, V2Client
from eftchat.testing.sim_node import SimNode
from eftchat.testing.sim_v1 import V1Client
from eftchat.testing.stage import Stage

Client = V1Client | V2Client


class Cluster(Protocol):
    """What there is to be broken."""

    replicas: ReplicaSet
    routers: Routers
    nodes: list[SimNode]
    clients: list[Client]


@define(eq=False)
class Faults:
    """Injects the faults of a plan into a cluster, until healed."""

    stage: Stage
    plan: Plan
    cluster: Cluster
    healed: bool = field(default=False, init=False)

    def start(self) -> None:
        """From now on things break."""
        bus, store, node = self.plan.bus_faults, self.plan.store_faults, self.plan.node_faults
        self._every(bus.dies, "router", lambda rng: self.cluster.routers.die(rng.uniform(0.2, 4.0)))
        self._every(bus.drops, "session", lambda rng: self.cluster.routers.drop())
        replicas = self.cluster.replicas
        self._every(store.steps_down, "step-down", lambda rng: replicas.step_down(rng.uniform(0.05, 1.5)))
        self._every(store.killed, "primary", lambda rng: replicas.kill(rng.uniform(0.05, 3.0)))
        self._every(store.parted, "partition", self._part)
        self._every(store.away, "database", self._away)
        self._every(node.crashes, "crash", self._crash)
        self._every(node.drains, "drain", self._drain)
        self._every(node.lapses, "lapse", self._lapse)
        for client in self.cluster.clients:
            self._torment(client)

    def heal(self) -> None:
        """Nothing breaks any more, and what is broken is mended."""
        self.healed = True
        self.stage.clock.drop(self)
        self.cluster.routers.heal()
        self.cluster.replicas.heal()
        for node in self.cluster.nodes:
            node.link.away_until = node.link.members_away_until = 0.0
            node.clock.last_effect = None
            self.widen(node)

    def widen(self, node: SimNode) -> None:
        """Healed, a node's queue takes what comes."""
        node.rooms.log.bounds = Bounds()

    def _every(self, mean: float, name: str, strike: Callable[[Random], None]) -> None:
        """Strikes after a random time, again and again."""
        if mean:
            rng = self.stage.rng(f"fault {name}")
            self._later(mean, rng, strike)

    def _later(self, mean: float, rng: Random, strike: Callable[[Random], None]) -> None:
        self.stage.clock.callLater(rng.expovariate(1 / mean), self._strike, mean, rng, strike)

    def _strike(self, mean: float, rng: Random, strike: Callable[[Random], None]) -> None:
        strike(rng)
        self._later(mean, rng, strike)

    # -- the store -------------------------------------------------------------------------------------

    def _part(self, rng: Random) -> None:
        names = [node.name for node in self.cluster.nodes]
        fooled = [name for name in names if rng.random() < 0.6]
        self.cluster.replicas.part(fooled, rng.uniform(0.1, 3.0))

    def _away(self, rng: Random) -> None:
        until = self.stage.clock.rightNow + rng.choice((0.5, 5.0, 15.0)) * rng.random()
        for node in self.cluster.nodes:
            if rng.random() < 0.7:
                self.stage.tell(node.name, f"loses the database until {until:.2f}")
                node.link.away_until = until

    # -- nodes -----------------------------------------------------------------------------------------

    def _crash(self, rng: Random) -> None:
        if self.cluster.nodes:
            node = rng.choice(self.cluster.nodes)
            if self.plan.node_faults.crashes_at_effect:
                node.clock.last_effect = node.clock.effects + rng.randint(0, 30)
            else:
                node.crash()

    def _drain(self, rng: Random) -> None:
        if self.cluster.nodes:
            rng.choice(self.cluster.nodes).drain(rng.choice((0.5, 5.0)))

    def _lapse(self, rng: Random) -> None:
        if self.cluster.nodes:
            node = rng.choice(self.cluster.nodes)
            until = self.stage.clock.rightNow + self.plan.ttl * rng.uniform(0.8, 2.0)
            self.stage.tell(node.name, f"loses the members until {until:.2f}")
            node.link.members_away_until = until

    # -- clients ---------------------------------------------------------------------------------------

    def _torment(self, client: Client) -> None:
        faults = self.plan.client_faults
        self._every(faults.cut, f"cut {client.user}", lambda rng: self._cut(client, rng))
        self._every(faults.stalls, f"stall {client.user}", lambda rng: self._stall(client, rng))
        if isinstance(client, V2Client):
            self._every(faults.repeats, f"repeat {client.user}", lambda rng: client.repeat(_one(client, rng)))
            self._every(faults.doubles, f"double {client.user}", lambda rng: self._double(client, rng))
            self._every(faults.rejoins, f"rejoin {client.user}", lambda rng: self._rejoin(client, rng))
            self._every(faults.reads, f"read {client.user}", lambda rng: client.read(_one(client, rng)))

    def _cut(self, client: Client, rng: Random) -> None:
        wire = client.wire
        if wire is not None:
            far, near = (rng.choice((0.0, 0.05, 3.0)) * rng.random() for _ in "ab")
            self.stage.tell(client.user, f"is cut off; sees it in {far:.2f}, its node in {near * 2:.2f}")
            wire.cut(far, near * 2)

    def _stall(self, client: Client, rng: Random) -> None:
        wire = client.wire
        if wire is not None:
            seconds = rng.uniform(0.1, 5.0)
            self.stage.tell(client.user, f"reads nothing for {seconds:.2f}")
            wire.stall(seconds)

    def _double(self, client: V2Client, rng: Random) -> None:
        if client.line is not None and not client.others:
            self.stage.tell(client.user, "opens a second connection")
            client.dial()
            self.stage.clock.callLater(rng.uniform(0.1, 3.0), client.let_go)

    def _rejoin(self, client: V2Client, rng: Random) -> None:
        place = _one(client, rng)
        if client.line is not None and place.joined and place.joining is None:
            self.stage.tell(client.user, f"joins {place.room} again")
            if rng.random() < 0.5:
                client.leave(place)
            client.join(place)


def _one(client: V2Client, rng: Random) -> Place:
    return rng.choice(list(client.places.values()))
