"""The line to a node: Autobahn's websocket client, and nothing of the chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure

from eftchat.client.seams import Dial, Listener
from eftchat.wire.uris import SUBPROTOCOL

PING_EVERY = 10
PONG_WITHIN = 5
CLOSE_WITHIN = 2
"""Seconds. Autobahn cuts the fraction off the moment at which a timer is due: one second can be none."""
FRAME_MAX = 32 * 1024 * 1024
"""A page of 200 messages, all as long as they may be and all of it escaped, is shorter."""
ABNORMAL = 1006
"""What Autobahn reports where there was no close frame."""

_log = Logger("eftchat.client")


def websockets(reactor: Any) -> Dial:
    """Lines by this reactor, which has TCP, and TLS for `wss`. Certificates are verified."""

    def dial(url: str, listener: Listener) -> WebSocketLine:
        line = WebSocketLine(listener)
        line.connect(url, reactor)
        return line

    return dial


@define(eq=False)
class WebSocketLine:
    """See `seams.Line`."""

    _listener: Listener
    _socket: Any = field(default=None, init=False)
    _connecting: Deferred[Any] | None = field(default=None, init=False)
    _over: bool = field(default=False, init=False)

    def connect(self, url: str, reactor: Any) -> None:
        """Begins the line. Once."""
        factory = _factory(self, url, reactor)
        endpoint: Any = HostnameEndpoint(reactor, factory.host, factory.port)
        if factory.isSecure:
            from twisted.internet.ssl import optionsForClientTLS  # OpenSSL only where it is used

            endpoint = wrapClientTLS(optionsForClientTLS(factory.host), endpoint)
        self._connecting = endpoint.connect(factory)
        self._connecting.addErrback(self._not_connected)

    def send(self, payload: bytes) -> None:
        """One text frame."""
        if self._socket is not None and not self._over:
            self._socket.sendMessage(payload)

    def close(self, code: int, reason: str) -> None:
        """A close frame; Autobahn drops the line when the node does not answer it."""
        if self._socket is None or self._socket.state != self._socket.STATE_OPEN:
            self.abort()
        elif not self._over:
            self._socket.sendClose(code, reason or None)

    def abort(self) -> None:
        """Ends the line at once."""
        if self._over:
            return
        if self._socket is not None:
            self._socket.dropConnection(abort=True)
        elif self._connecting is not None:
            self._connecting.cancel()

    # -- from the socket -------------------------------------------------------------------------------

    def begun(self, socket: _Socket) -> None:
        """TCP stands; the handshake is under way."""
        self._socket = socket

    def opened(self) -> None:
        """The handshake is done."""
        self._guarded(self._listener.opened)

    def received(self, payload: bytes) -> None:
        """A text frame came."""
        self._guarded(self._listener.received, payload)

    def lost(self, code: int | None, reason: str) -> None:
        """The socket is gone, or never was."""
        if not self._over:
            self._over = True
            self._guarded(self._listener.lost, code, reason)

    def refuse(self, reason: str) -> None:
        """The other side is none that we can talk to."""
        if self._socket is not None:
            self._socket.failHandshake(reason)

    def _not_connected(self, failure: Failure) -> None:
        self.lost(None, failure.getErrorMessage() or repr(failure.value))

    def _guarded(self, call: Callable[..., object], *given: Any) -> None:
        """Autobahn would swallow what escapes from its callbacks."""
        try:
            call(*given)
        except Exception:
            _log.failure("a connection failed on our side")
            self.abort()


class _Socket(WebSocketClientProtocol):
    """Autobahn's end of the line. Every callback is a one-liner into a guarded method."""

    line: WebSocketLine

    def connectionMade(self) -> None:
        """TCP stands."""
        self.line.begun(self)
        super().connectionMade()

    def onOpen(self) -> None:
        """The handshake is done; a server that did not choose our dialect is no eftchat."""
        if self.websocket_protocol_in_use == SUBPROTOCOL:
            self.line.opened()
        else:
            self.line.refuse(f"this server does not speak {SUBPROTOCOL}")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole frame came. The dialect has no binary ones."""
        if not isBinary:
            self.line.received(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The socket is gone."""
        if wasClean and code is not None and code != ABNORMAL:
            self.line.lost(code, reason or f"the node closed the connection ({code})")
        else:
            self.line.lost(None, self.wasNotCleanReason or "the connection was lost")


def _factory(line: WebSocketLine, url: str, reactor: object) -> WebSocketClientFactory:
    """Makes the one socket of the line."""

    class BoundSocket(_Socket):
        pass

    BoundSocket.line = line
    made = WebSocketClientFactory(url, protocols=[SUBPROTOCOL], reactor=reactor)
    made.protocol = BoundSocket
    made.noisy = False
    made.setProtocolOptions(
        maxFramePayloadSize=FRAME_MAX,
        maxMessagePayloadSize=FRAME_MAX,
        openHandshakeTimeout=0,  # the session has its own
        closeHandshakeTimeout=CLOSE_WITHIN,
        serverConnectionDropTimeout=CLOSE_WITHIN,
        autoPingInterval=PING_EVERY,
        autoPingTimeout=PONG_WITHIN,
        tcpNoDelay=True,
    )
    return made
