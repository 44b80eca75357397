"""The built-in balancer: who gets a connection, and what happens when somebody does not answer."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure

from eftchat.ops.balancer import Backend, Balancer


class Transport(StringTransportWithDisconnection):
    def setTcpNoDelay(self, on: bool) -> None:
        """As sockets have it."""


def connected(protocol: Any) -> Any:
    transport = Transport()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return transport


@define(eq=False)
class Scene:
    """A balancer in memory, whose backends say what the test wants."""

    reactor: Any = field(factory=MemoryReactorClock)
    well: dict[str, object] = field(factory=dict)
    balancer: Balancer = field(init=False)

    def __attrs_post_init__(self) -> None:
        async def check(backend: Backend) -> bool:
            said: Any = self.well[backend.name]
            return bool(await said if isinstance(said, Deferred) else said)

        self.balancer = Balancer(self.reactor, check)
        self.balancer.listen("127.0.0.1", 8080)

    def add(self, name: str, well: object = True) -> Backend:
        self.well[name] = well
        self.balancer.add(Backend(name, name, 80))
        return self.balancer.backends[name]

    def client(self) -> Any:
        """Connects; its transport. What the balancer dials is in `dials`."""
        _, factory, _, _ = self.reactor.tcpServers[0]
        return connected(factory.buildProtocol(None))

    @property
    def dials(self) -> list[str]:
        return [host for host, *_ in self.reactor.tcpClients]

    def accept(self) -> Any:
        """The backend that was dialled last takes the connection; its transport."""
        return connected(self.reactor.tcpClients[-1][2].buildProtocol(None))

    def refuse(self) -> None:
        self.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def stop(self) -> None:
        Deferred.fromCoroutine(self.balancer.stop())
        assert self.reactor.getDelayedCalls() == []


def test_a_connection_goes_to_the_healthy_backend_with_the_fewest() -> None:
    scene = Scene()
    one, two = scene.add("one"), scene.add("two")
    one.connections, two.connections = 3, 2
    scene.client()
    assert scene.dials == ["two"]
    assert two.connections == 3
    scene.accept()
    scene.stop()


def test_bytes_go_both_ways_and_the_end_of_one_side_is_the_end_of_the_other() -> None:
    scene = Scene()
    backend = scene.add("one")
    client = scene.client()
    assert client.producerState == "paused"
    server = scene.accept()
    assert client.producerState == "producing"
    client.protocol.dataReceived(b"to the node")
    server.protocol.dataReceived(b"to the client")
    assert (server.value(), client.value()) == (b"to the node", b"to the client")
    server.loseConnection()
    assert not client.connected
    assert backend.connections == 0
    scene.stop()


def test_a_side_that_cannot_take_more_holds_up_the_other() -> None:
    scene = Scene()
    scene.add("one")
    client = scene.client()
    server = scene.accept()
    client.producer.pauseProducing()
    assert server.producerState == "paused"
    scene.stop()


def test_a_backend_that_cannot_be_connected_to_is_passed_over() -> None:
    scene = Scene()
    one, two = scene.add("one"), scene.add("two")
    two.connections = 1
    client = scene.client()
    scene.refuse()
    assert scene.dials == ["one", "two"]
    assert (one.healthy, one.connections) == (False, 0)
    scene.accept()
    assert client.connected
    scene.stop()


def test_without_a_healthy_backend_a_client_is_turned_away() -> None:
    scene = Scene()
    scene.add("one", False)
    assert not scene.client().connected
    scene.add("two")
    client = scene.client()
    scene.refuse()
    assert not client.connected
    scene.stop()


def test_a_client_that_left_meanwhile_leaves_no_connection_behind() -> None:
    scene = Scene()
    backend = scene.add("one")
    client = scene.client()
    client.loseConnection()
    server = scene.accept()
    assert not server.connected
    assert backend.connections == 0
    scene.stop()


def test_health_is_asked_every_second() -> None:
    scene = Scene()
    backend = scene.add("one", False)
    scene.well["one"] = True
    scene.reactor.advance(0.9)
    assert not backend.healthy
    scene.reactor.advance(0.1)
    assert backend.healthy
    scene.well["one"] = False
    scene.reactor.advance(1)
    assert scene.balancer.choose() is None
    scene.stop()


def test_one_that_takes_its_time_to_answer_holds_up_nobody_and_is_not_asked_twice() -> None:
    scene = Scene()
    answer: Deferred[bool] = Deferred()
    slow, quick = scene.add("slow", answer), scene.add("quick", False)
    scene.well["quick"] = True
    scene.reactor.pump([1, 1, 1])
    assert (slow.healthy, quick.healthy) == (False, True)
    answer.callback(True)
    assert slow.healthy
    scene.stop()


def test_a_check_that_fails_on_our_side_is_logged_and_counts_as_no(flush_errors: Any) -> None:
    scene = Scene()
    failing: Deferred[bool] = Deferred()
    backend = scene.add("one", failing)
    failing.errback(ZeroDivisionError())
    assert not backend.healthy
    assert len(flush_errors(ZeroDivisionError)) == 1
    scene.stop()


def test_a_backend_that_is_removed_gets_nothing_more() -> None:
    scene = Scene()
    scene.add("one")
    scene.balancer.remove("one")
    assert scene.balancer.choose() is None
    scene.stop()


def test_stopping_ends_what_is_open() -> None:
    scene = Scene()
    scene.add("one")
    client, server = scene.client(), scene.accept()
    scene.stop()
    assert not client.connected
    assert not server.connected
