"""The bus of a simulated cluster: independent routers, each of which loses, repeats and delays as it likes.

Every node has a session with every router and publishes to all of them. A session that ends takes its
subscriptions with it; made anew, it subscribes again, and tells its node for every room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from attrs import define, field

from eftchat.domain.messages import Message, Presence, Room
from eftchat.ports import BusListener
from eftchat.testing.plan import BusFaults
from eftchat.testing.sim_clock import NodeClock
from eftchat.testing.stage import Stage

Event = Callable[[BusListener], None]


@define(eq=False)
class Session:
    """One node at one router."""

    bus: NodeBus
    alive: bool = True
    rooms: dict[str, None] = field(factory=dict)

    def hear(self, room: str, event: Event) -> None:
        """An event arrives, if the session and its subscription still are."""
        if self.alive and room in self.rooms and not self.bus.clock.dead:
            event(self.bus.listener)

    def subscribed(self, room: str) -> None:
        """The router says that a subscription holds."""
        if self.alive and room in self.bus.rooms and not self.bus.clock.dead:
            self.rooms[room] = None
            self.bus.listener.watching(room)


@define(eq=False)
class Router:
    """One router: who is there."""

    name: str
    up: bool = True
    sessions: dict[NodeBus, Session] = field(factory=dict)


@define(eq=False)
class Routers:
    """All routers, and the network between them and the nodes."""

    stage: Stage
    faults: BusFaults
    hop: float
    count: int
    nodes: dict[NodeBus, None] = field(factory=dict, init=False)
    routers: list[Router] = field(init=False)
    _rng: Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._rng = self.stage.rng("bus")
        self.routers = [Router(f"r{number}") for number in range(1, self.count + 1)]

    def delay(self) -> float:
        """From a node to a router and on to another node."""
        return self.hop * (0.5 + self._rng.random())

    def join(self, bus: NodeBus) -> None:
        """A node has started: it connects to every router."""
        self.nodes[bus] = None
        for router in self.routers:
            self._connect(router, bus)

    def leave(self, bus: NodeBus) -> None:
        """A node is gone."""
        self.nodes.pop(bus, None)
        for router in self.routers:
            self._end(router, bus)

    def subscribe(self, bus: NodeBus, room: str) -> None:
        """At every router, soon."""
        for router in self.routers:
            session = router.sessions.get(bus)
            if session is not None:
                self.stage.clock.callLater(self.delay(), session.subscribed, room)

    def unsubscribe(self, bus: NodeBus, room: str) -> None:
        """At every router, now."""
        for router in self.routers:
            session = router.sessions.get(bus)
            if session is not None:
                session.rooms.pop(room, None)

    def publish(self, bus: NodeBus, room: str, event: Event) -> None:
        """Through every router to everyone else who is there."""
        for router in self.routers:
            if bus in router.sessions:
                for other, session in router.sessions.items():
                    if other is not bus and room in session.rooms:
                        self._send(session, room, event)

    def _send(self, session: Session, room: str, event: Event) -> None:
        if self._rng.random() < self.faults.lost:
            return
        wait = self.delay()
        if self._rng.random() < self.faults.delayed:
            wait += self._rng.choice((0.1, 1.0, 4.0)) * self._rng.random()
        self.stage.clock.callLater(wait, session.hear, room, event)
        if self._rng.random() < self.faults.repeated:
            wait += self._rng.choice((0.0, 1.0)) * self._rng.random()
            self.stage.clock.callLater(wait, session.hear, room, event)

    # -- what may happen -------------------------------------------------------------------------------

    def die(self, seconds: float) -> None:
        """One router dies, and comes back after a while."""
        router = self._rng.choice(self.routers)
        if router.up:
            self.stage.tell(router.name, "dies")
            router.up = False
            for bus in list(router.sessions):
                self._end(router, bus)
            self.stage.clock.callLater(seconds, self._restore, router)

    def drop(self) -> None:
        """One node loses its session with one router, and makes a new one."""
        router = self._rng.choice(self.routers)
        if router.sessions:
            bus = self._rng.choice(list(router.sessions))
            self.stage.tell(router.name, f"drops {bus.node}")
            self._end(router, bus)
            self._come(router, bus)

    def heal(self) -> None:
        """No more faults; every router is there."""
        self.faults = BusFaults()
        for router in self.routers:
            self._restore(router)

    def _restore(self, router: Router) -> None:
        if not router.up:
            self.stage.tell(router.name, "is back")
            router.up = True
            for bus in self.nodes:
                self._come(router, bus)

    def _come(self, router: Router, bus: NodeBus) -> None:
        self.stage.clock.callLater(self._rng.uniform(0.01, 1.0), self._connect, router, bus)

    def _connect(self, router: Router, bus: NodeBus) -> None:
        if router.up and bus in self.nodes and bus not in router.sessions:
            session = router.sessions[bus] = Session(bus)
            for room in bus.rooms:
                self.stage.clock.callLater(self.delay(), session.subscribed, room)

    def _end(self, router: Router, bus: NodeBus) -> None:
        session = router.sessions.pop(bus, None)
        if session is not None:
            session.alive = False


@define(eq=False)
class NodeBus:
    """The port `Bus` of one node."""

    node: str
    clock: NodeClock
    routers: Routers
    listener: BusListener = field(init=False)
    rooms: dict[str, None] = field(factory=dict, init=False)

    def watch(self, room: Room) -> None:
        """Events of the room come to the listener, soon."""
        if self.clock.act():
            self.rooms[room.id] = None
            self.routers.subscribe(self, room.id)

    def unwatch(self, room: Room) -> None:
        """No more events of the room."""
        if self.clock.act():
            self.rooms.pop(room.id, None)
            self.routers.unsubscribe(self, room.id)

    def publish(self, room: Room, messages: Sequence[Message]) -> None:
        """Tells the other nodes."""
        if self.clock.act():
            kept = list(messages)
            self.routers.publish(self, room.id, lambda to: to.arrived(room.id, room.epoch, kept))

    def announce(self, room: Room, presence: Presence, but: int | None = None) -> None:
        """Tells the other nodes."""
        if self.clock.act():
            self.routers.publish(self, room.id, lambda to: to.noticed(room.id, presence))
