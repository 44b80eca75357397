"""What a node tells Prometheus, read from its parts when asked: nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import define
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.twisted import MetricsResource

from eftchat.lease import Lease
from eftchat.rooms import Rooms

Labelled = Callable[[], Mapping[str, int]]
"""Numbers by the value of one label."""


@define(eq=False)
class NodeCollector:
    """The figures of one node. `connections` are by dialect, `bus` by what went wrong, `routers` 1 when up."""

    rooms: Rooms
    lease: Lease
    connections: Labelled
    bus: Labelled
    routers: Labelled

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        log, feeds = self.rooms.log, self.rooms.feeds
        yield _gauge("connections", "Open websockets", self.connections(), "dialect")
        yield _gauge("readers", "Readers by how they keep up", feeds.reading(), "state")
        yield _gauge("rooms_active", "Rooms with readers on this node", len(feeds))
        yield _gauge("log_waiting", "Posts accepted and not yet durable", log.waiting)
        yield _gauge("log_waiting_bytes", "Memory that they take", log.waiting_bytes)
        yield _gauge("store_away", "1 while the store cannot be reached", log.away or self.lease.away)
        yield _gauge("lease_held", "1 while names taken here count", self.lease.held)
        yield _gauge("draining", "1 while the node leaves", self.rooms.refusing)
        yield _gauge("router_up", "1 while the node is on the router", self.routers(), "url")
        yield _counter("posts_stored", "Messages made durable by this node", log.appended)
        yield _counter("posts_refused", "Posts that found the queue full", log.refused)
        yield _counter("log_unknown_outcomes", "Batches that had to be read back", log.doubted)
        yield _counter("log_collisions", "Batches that met a place or uuid taken", log.collisions)
        yield _counter("cursors_reset", "Readers whose cursor was of another log", self.rooms.resets)
        yield _counter(
            "bus_troubles", "Events that no router took, or that were malformed", self.bus(), "kind"
        )


def _gauge(name: str, what: str, value: float | Mapping[str, int], label: str = "") -> Metric:
    return _filled(GaugeMetricFamily(f"eftchat_{name}", what, labels=[label] if label else None), value)


def _counter(name: str, what: str, value: float | Mapping[str, int], label: str = "") -> Metric:
    return _filled(CounterMetricFamily(f"eftchat_{name}", what, labels=[label] if label else None), value)


def _filled(family: Any, value: float | Mapping[str, int]) -> Metric:
    labelled = (
        {(name,): number for name, number in value.items()} if isinstance(value, Mapping) else {(): value}
    )
    for labels, number in labelled.items():
        family.add_metric(labels, float(number))
    made: Metric = family
    return made


def metrics_resource(collector: NodeCollector) -> Any:
    """A web resource in the format that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return MetricsResource(registry=registry)  # type: ignore[no-untyped-call]
