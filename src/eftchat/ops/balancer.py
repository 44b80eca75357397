"""A TCP balancer for one machine: each connection goes to the healthy backend that has the fewest.

It stands in for the balancer of a real cluster, where there is none. Backends are asked again and again how they do;
one that says no, does not answer in time or cannot be connected to gets no new connections, and keeps those it has:
a backend that drains sends its clients away itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from eftchat.ports import CannotStart

CONNECT_TIMEOUT = 2.0


@define(eq=False)
class Backend:
    """Where connections may go."""

    name: str
    host: str
    port: int
    healthy: bool = False
    connections: int = 0
    _asked: bool = field(default=False, init=False)


@define(eq=False)
class Balancer:
    """Listens on one port for many backends. `check` says whether a backend is well; it may raise, not hang."""

    reactor: Any
    check: Callable[[Backend], Awaitable[bool]]
    interval: float = 1.0
    backends: dict[str, Backend] = field(factory=dict, init=False)
    _open: dict[Protocol, None] = field(factory=dict, init=False)
    _listening: Any = field(default=None, init=False)
    _timer: Any = field(default=None, init=False)
    _log: Logger = field(factory=lambda: Logger("eftchat.balancer"), init=False)

    def listen(self, host: str, port: int) -> int:
        """Begins; the port (of interest when it was 0). Raises CannotStart."""
        factory = Factory.forProtocol(lambda: _Client(self))
        try:
            self._listening = self.reactor.listenTCP(port, factory, interface=host, backlog=1024)
        except CannotListenError as error:
            why = error.socketError.strerror
            raise CannotStart(f"{host}:{port} cannot be listened on ({why}): choose another port") from None
        self._turn()
        return int(self._listening.getHost().port)

    def add(self, backend: Backend) -> None:
        """One more; it gets connections when it has been found healthy."""
        self.backends[backend.name] = backend
        self._ask(backend)

    def remove(self, name: str) -> None:
        """It gets no more connections."""
        self.backends.pop(name, None)

    async def stop(self) -> None:
        """No more connections; those that are there end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        for end in list(self._open):
            end.transport.abortConnection()  # type: ignore[union-attr]  # connected: it has one

    def choose(self, without: frozenset[str] = frozenset()) -> Backend | None:
        """Where the next connection goes."""
        good = [each for each in self.backends.values() if each.healthy and each.name not in without]
        return min(good, key=lambda backend: backend.connections, default=None)

    def check_all(self) -> Deferred[Any]:
        """Asks everyone who is not being asked; done when all have answered."""
        return gatherResults([self._ask(backend) for backend in self.backends.values()])

    def _turn(self) -> None:
        self.check_all()
        self._timer = self.reactor.callLater(self.interval, self._turn)

    def _ask(self, backend: Backend) -> Deferred[None]:
        async def ask() -> None:
            if backend._asked:
                return
            backend._asked = True
            try:
                backend.healthy = await self.check(backend)
            except Exception:
                backend.healthy = False
                self._log.failure("a check failed on our side")
            finally:
                backend._asked = False

        return Deferred.fromCoroutine(ask())

    async def _connect(self, client: _Client) -> None:
        """Finds a backend for the client; without one it is turned away."""
        tried: frozenset[str] = frozenset()
        while (backend := self.choose(tried)) is not None:
            backend.connections += 1  # before it is there: many may come at once
            try:
                server = await self._dial(backend)
            except Exception:
                backend.connections -= 1
                backend.healthy = False  # until it is asked again
                tried |= {backend.name}
                continue
            client.pair(server)
            return
        client.transport.abortConnection()

    async def _dial(self, backend: Backend) -> _Server:
        way = TCP4ClientEndpoint(self.reactor, backend.host, backend.port, timeout=CONNECT_TIMEOUT)
        factory: Any = Factory.forProtocol(lambda: _Server(self, backend))
        server: Any = await way.connect(factory)
        made: _Server = server
        return made


class _End(Protocol):
    """One side of a connection through the balancer. A side that cannot take more holds up the other."""

    transport: Any
    peer: _End | None = None
    lost = False

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer

    def connectionMade(self) -> None:
        self.balancer._open[self] = None
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True
        self.balancer._open.pop(self, None)
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer.transport.unregisterProducer()
            peer.transport.loseConnection()


class _Client(_End):
    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.pauseProducing()  # until there is somebody to hear it
        Deferred.fromCoroutine(self.balancer._connect(self))

    def pair(self, server: _End) -> None:
        """From now on each hears what the other says."""
        if self.lost:
            server.transport.abortConnection()
            return
        self.peer, server.peer = server, self
        self.transport.registerProducer(server.transport, True)
        server.transport.registerProducer(self.transport, True)
        self.transport.resumeProducing()


class _Server(_End):
    def __init__(self, balancer: Balancer, backend: Backend) -> None:
        super().__init__(balancer)
        self.backend = backend

    def connectionLost(self, reason: object = None) -> None:
        self.backend.connections -= 1
        super().connectionLost(reason)
