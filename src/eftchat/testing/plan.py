"""What one run will be like: the shape of the cluster, and which faults strike how often. All from the seed.

A run picks a random subset of the faults, so that each is also met alone and in every company; one run in
twenty has none at all.
"""

from __future__ import annotations

from random import Random

import msgspec

from eftchat.domain.limits import Limits
from eftchat.feeds import Reach
from eftchat.log import Bounds


class BusFaults(msgspec.Struct, frozen=True):
    """Per delivery, but for `dies` and `drops`: seconds between two such events (0: never)."""

    lost: float = 0.0
    repeated: float = 0.0
    delayed: float = 0.0
    dies: float = 0.0
    """A router dies and comes back."""
    drops: float = 0.0
    """A node's session with a router ends and is made anew."""


class StoreFaults(msgspec.Struct, frozen=True):
    """Per call, but for those with seconds between two such events (0: never)."""

    reply_lost: float = 0.0
    request_lost: float = 0.0
    request_late: float = 0.0
    """It lands after the caller gave up."""
    unsent: float = 0.0
    lag: float = 0.0
    """A majority read sees an older prefix."""
    slow: float = 0.0
    """A write's replication takes seconds."""
    steps_down: float = 0.0
    killed: float = 0.0
    parted: float = 0.0
    """Some nodes keep talking to a primary that is none any more."""
    away: float = 0.0
    """Some or all nodes cannot reach the database for a while."""


class NodeFaults(msgspec.Struct, frozen=True):
    """Seconds between two such events, over all nodes (0: never)."""

    crashes: float = 0.0
    crashes_at_effect: bool = False
    """The moment is a number of effects (calls of ports) from now, not a time."""
    drains: float = 0.0
    """A node leaves in good order, and a new one comes."""
    lapses: float = 0.0
    """A node cannot reach the members for longer than its lease."""


class ClientFaults(msgspec.Struct, frozen=True):
    """Seconds between two such events per client (0: never)."""

    cut: float = 0.0
    stalls: float = 0.0
    repeats: float = 0.0
    """It sends again what is in flight."""
    doubles: float = 0.0
    """It opens a second connection and sends its outbox there too, before it lets the first one go."""
    rejoins: float = 0.0
    """It joins a room again, or leaves it and comes back."""
    reads: float = 0.0
    """It asks for a page of the log."""


class Plan(msgspec.Struct, frozen=True):
    """One run, before it begins. Times in seconds of the simulated clock."""

    nodes: int
    routers: int
    rooms: int
    v2: int
    v1: int
    tabs: bool
    """The v1 clients have two pages each, in the same room under the same name."""
    rivals: int
    """Clients that contend for one name."""
    duration: float
    posts: int
    """Messages that all clients together will want to send."""
    burst: int
    """The most that one client sends at once."""
    hop: float
    """One way over the network, typically."""
    store: float
    """A round trip to the store, typically."""
    high_water: int
    """Bytes towards a client at which its transport is full."""
    ttl: float
    """The lease of a node."""
    bounds: Bounds
    reach: Reach
    limits: Limits
    bus_faults: BusFaults = BusFaults()
    store_faults: StoreFaults = StoreFaults()
    node_faults: NodeFaults = NodeFaults()
    client_faults: ClientFaults = ClientFaults()


def draw(rng: Random) -> Plan:
    """A run, drawn by chance."""
    calm = rng.random() < 0.05
    none = (BusFaults(), StoreFaults(), NodeFaults(), ClientFaults())
    faults = none if calm else (_bus(rng), _store(rng), _nodes(rng), _clients(rng))
    v1 = rng.choice((0, 0, 1, 1, 2))
    return Plan(
        nodes=rng.choice((1, 2, 2, 3, 3, 4)),
        routers=rng.choice((1, 1, 2, 2, 3)),
        rooms=rng.choice((1, 1, 1, 2)),
        v2=rng.choice((1, 2, 2, 3, 4)) + (not v1),
        v1=v1,
        tabs=rng.random() < 0.2,
        rivals=rng.choice((0, 0, 0, 2, 2, 3)),
        duration=rng.uniform(2.0, 12.0),
        posts=rng.randint(10, 70),
        burst=rng.choice((1, 3, 8, 16)),
        hop=rng.choice((0.001, 0.01, 0.05)),
        store=rng.choice((0.002, 0.01, 0.05, 0.2)),
        high_water=rng.choice((200, 1_500, 65_536)),
        ttl=rng.choice((2.0, 5.0)),
        bounds=_bounds(rng),
        reach=_reach(rng),
        limits=_limits(rng),
        bus_faults=faults[0],
        store_faults=faults[1],
        node_faults=faults[2],
        client_faults=faults[3],
    )


def _maybe(rng: Random, low: float, high: float, chance: float = 0.3) -> float:
    """0 for a fault that is off, else a rate or a distance in time."""
    return rng.uniform(low, high) if rng.random() < chance else 0.0


def _bus(rng: Random) -> BusFaults:
    return BusFaults(
        lost=_maybe(rng, 0.05, 0.7),
        repeated=_maybe(rng, 0.05, 0.5),
        delayed=_maybe(rng, 0.05, 0.5),
        dies=_maybe(rng, 1.5, 8.0),
        drops=_maybe(rng, 1.0, 6.0),
    )


def _store(rng: Random) -> StoreFaults:
    return StoreFaults(
        reply_lost=_maybe(rng, 0.03, 0.3),
        request_lost=_maybe(rng, 0.03, 0.3),
        request_late=_maybe(rng, 0.03, 0.3),
        unsent=_maybe(rng, 0.03, 0.3),
        lag=_maybe(rng, 0.1, 0.8),
        slow=_maybe(rng, 0.03, 0.3),
        steps_down=_maybe(rng, 2.0, 8.0),
        killed=_maybe(rng, 1.0, 6.0),
        parted=_maybe(rng, 2.0, 8.0),
        away=_maybe(rng, 2.0, 8.0, 0.2),
    )


def _nodes(rng: Random) -> NodeFaults:
    return NodeFaults(
        crashes=_maybe(rng, 1.0, 6.0),
        crashes_at_effect=rng.random() < 0.6,
        drains=_maybe(rng, 1.0, 6.0, 0.2),
        lapses=_maybe(rng, 3.0, 8.0, 0.2),
    )


def _clients(rng: Random) -> ClientFaults:
    return ClientFaults(
        cut=_maybe(rng, 1.0, 8.0, 0.5),
        stalls=_maybe(rng, 1.0, 6.0),
        repeats=_maybe(rng, 0.5, 4.0),
        doubles=_maybe(rng, 1.0, 6.0),
        rejoins=_maybe(rng, 2.0, 8.0),
        reads=_maybe(rng, 1.0, 5.0),
    )


def _bounds(rng: Random) -> Bounds:
    return Bounds(
        queue=rng.choice((3, 8, 20_000, 20_000)),
        batch=rng.choice((1, 3, 1_000, 1_000)),
        recent=rng.choice((1, 4, 8_192, 8_192)),
        rooms=rng.choice((1, 10_000)),
    )


def _reach(rng: Random) -> Reach:
    return Reach(
        ring=rng.choice((1, 3, 512)),
        page=rng.choice((1, 3, 200)),
        write_bytes=rng.choice((200, 131_072)),
        check_every=rng.choice((1.0, 3.0)),
        linger=rng.choice((0.5, 30.0)),
    )


def _limits(rng: Random) -> Limits:
    return Limits(
        post_rate=rng.choice((10.0, 30.0, 1_000.0)),
        post_burst=rng.choice((2.0, 100.0)),
        inflight=rng.choice((1, 4, 256)),
        history=rng.choice((0, 5, 100)),
    )
