"""One node of a simulated cluster: the real core, its doors in memory, and a life that may end at any effect."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from random import Random
from typing import Protocol

from attrs import define, field

from eftchat.bridge.connection import Conversation, Settings
from eftchat.bridge.farewell import Farewell
from eftchat.bridge.v1 import V1Conversation, V1Dialect, V1Readers
from eftchat.bridge.v2 import V2Conversation, V2Dialect
from eftchat.domain.errors import Unavailable
from eftchat.drain import Drain, Notice, Pace, Parting
from eftchat.lease import Lease
from eftchat.log import Log
from eftchat.rooms import Rooms
from eftchat.testing.plan import Plan
from eftchat.testing.sim_bus import NodeBus
from eftchat.testing.sim_clock import NodeClock, NodeLoop
from eftchat.testing.sim_store import Link, SimMembers, SimMessages
from eftchat.testing.sockets import Far, Wire
from eftchat.testing.stage import Stage
from eftchat.wire import close_codes

FAREWELL = 1.0
"""Seconds that a client may stay behind its slot while a node leaves."""


class Owner(Protocol):
    """Whoever keeps the nodes."""

    def gone(self, node: SimNode) -> None:
        """The node has crashed, or begins to leave."""


@define(eq=False)
class SimNode:
    """One node, from its start to its crash or stop."""

    stage: Stage
    plan: Plan
    owner: Owner
    name: str
    link: Link
    messages: SimMessages
    members: SimMembers
    bus: NodeBus
    clock: NodeClock
    rng: Random
    open: bool = field(default=False, init=False)
    stopped: bool = field(default=False, init=False)
    wires: dict[Wire, None] = field(factory=dict, init=False)
    rooms: Rooms = field(init=False)
    loop: NodeLoop = field(init=False)
    lease: Lease = field(init=False)
    _farewell: Farewell = field(init=False)
    _settings: Settings = field(init=False)
    _dialects: tuple[V1Dialect, V2Dialect] = field(factory=lambda: (V1Dialect(), V2Dialect()), init=False)
    _readers: V1Readers = field(factory=V1Readers, init=False)
    _numbers: count[int] = field(factory=lambda: count(1), init=False)

    def __attrs_post_init__(self) -> None:
        self.loop = NodeLoop(self.clock, node=self.clock)
        common = (self.messages, self.members, self.bus, self.loop, self.rng)
        self.rooms = Rooms(self.name, b"secret", *common)
        stored = self.rooms.log.stored
        self.rooms.log = Log(self.messages, self.loop, self.rng, stored, self.plan.bounds)
        self.rooms.feeds.reach = self.plan.reach
        self.lease = Lease(self.rooms, self.loop, self.plan.ttl, self._lapsing)
        self._farewell = Farewell(self.loop, self.rng, lambda: self.wires, FAREWELL)
        self._settings = Settings(self.name, self.plan.limits)
        self.bus.listener = self.rooms
        self.clock.dies = self.crash

    @property
    def listening(self) -> bool:
        """Whether the load balancer leads clients here."""
        return self.open and not self.stopped and not self.rooms.fenced

    @property
    def dead(self) -> bool:
        """It crashed: nothing of it happens any more."""
        return self.clock.dead

    def start(self) -> None:
        """Connects to the routers, takes a lease, then listens."""
        self.stage.tell(self.name, "starts")
        self.bus.routers.join(self.bus)
        self.rooms.feeds.start()
        self.loop.spawn(self._open(), "starting")

    async def _open(self) -> None:
        while not self.stopped:
            try:
                await self.lease.start()
            except Unavailable:
                await self.loop.sleep(0.2)
            else:
                self.open = True
                return

    def accept(self, far: Far, subprotocol: str | None, hop: float, rng: Random) -> Wire:
        """A client has connected, and the handshake chose its dialect."""
        wire = Wire(self.stage, rng, self, far, hop, self.plan.high_water)
        identity = f"{self.name}-{next(self._numbers)}"
        common = (self.rooms, self.loop, wire, self._settings, identity)
        if subprotocol is None:
            wire.conversation = V1Conversation(*common, self._dialects[0], readers=self._readers)
        else:
            wire.conversation = V2Conversation(*common, self._dialects[1])
        self.wires[wire] = None
        return wire

    def act(self) -> bool:
        """Counts an effect on a socket."""
        return self.clock.act()

    def hung_up(self, wire: Wire) -> None:
        """A socket has ended."""
        self.wires.pop(wire, None)

    def conversations(self) -> list[Conversation]:
        """Those whose sockets are open."""
        return [wire.conversation for wire in self.wires if wire.talking]

    def crash(self) -> None:
        """Ends here and now."""
        if not self.dead:
            self.stage.tell(self.name, f"crashes after {self.clock.effects} effects")
            self.clock.kill()
            self.bus.routers.leave(self.bus)
            for wire in self.wires:
                wire.node_died()
            if not self.stopped:
                self.owner.gone(self)

    def drain(self, grace: float) -> None:
        """Leaves in good order: SIGTERM."""
        if not self.stopped:
            self.stage.tell(self.name, "begins to leave")
            self.stopped = True
            self.owner.gone(self)
            self.loop.spawn(self._leave(grace), "leaving")

    async def _leave(self, grace: float) -> None:
        way_out = Drain(self.rooms, self.loop, Pace(linger=FAREWELL), (self,))
        report = await way_out.leave(grace)
        self.stage.tell(self.name, f"leaves: {report}")
        self.lease.stop()
        self.rooms.feeds.stop()
        with suppress(Unavailable):
            await self.members.forget(self.name)
        if report.unfinished or self.rooms.releasing:
            self.clock.kill()  # the process ends; clients have in their outboxes what is not acknowledged

    # -- the door, as the drain sees it ----------------------------------------------------------------

    @property
    def inside(self) -> int:
        """How many sockets are open."""
        return len(self.wires)

    async def refuse(self) -> None:
        """The load balancer has no way here any more."""

    async def tell(self, notice: Notice) -> int:
        """Gives everyone a slot."""
        return self._farewell.tell(notice)

    async def see_off(self) -> None:
        """Until nobody is here, or everyone had its time."""
        await self._farewell.see_off()

    async def close(self, seconds: float) -> Parting:
        """Ends the sockets that are left."""
        return await self._farewell.close(seconds)

    async def leave(self) -> None:
        """Leaves the bus."""
        self.bus.routers.leave(self.bus)

    def _lapsing(self) -> None:
        """Its lease is about to lapse: everyone is sent elsewhere."""
        self.stage.tell(self.name, "fences itself")
        for wire in list(self.wires):
            wire.close(close_codes.NODE_LEAVING, "no lease")
