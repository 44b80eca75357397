"""What a link needs of Autobahn in its own way: sessions nobody can deceive, calls that can be hung up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import txaio
from attrs import define, field
from autobahn.twisted.component import Component
from autobahn.twisted.wamp import ApplicationSession, Session
from autobahn.wamp import message
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import ComponentConfig
from autobahn.websocket.util import parse_url
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

CONNECT_WITHIN = 5.0

_quiet = txaio.make_logger(level="critical")  # type: ignore[attr-defined]


class QuietComponent(Component):
    """A Component that leaves it to its owner to say what happens; else it writes several lines a try."""

    log = _quiet


class NodeSession(Session):
    """A session that shows its endpoints and subscribers only what the router vouches for.

    Any client can put `forward_for` into a call: the router then gives the forged session, authid and role as
    the caller's. No router of ours forwards, so what carries it is refused here, where it can still be seen.

    Arguments arrive packed, `(args, kwargs)`: Autobahn would spread a stranger's over its own functions,
    and the name of a parameter that one of these has would end the session.
    """

    traceback_app = False

    def __init__(self, config: ComponentConfig, forged: Callable[[Any], None]) -> None:
        super().__init__(config)
        self.log = _quiet
        self._forged = forged
        self._errors = Logger("eftchat.wamp.session")

    def onMessage(self, msg: Any) -> None:
        if isinstance(msg, message.Invocation | message.Event):
            if msg.forward_for:
                self._refuse(msg)
                return
            if msg.enc_algo is None:
                msg.args, msg.kwargs = [msg.args or [], msg.kwargs or {}], None
        super().onMessage(msg)

    def _refuse(self, msg: Any) -> None:
        if isinstance(msg, message.Invocation):
            said = ["forward_for is not allowed"]
            kind, uri = message.Invocation.MESSAGE_TYPE, ApplicationError.NOT_AUTHORIZED
            transport: Any = self._transport
            transport.send(message.Error(kind, msg.request, uri, args=said))
        self._forged(msg.forward_for[-1].get("session"))  # the router puts who it really was at the end

    def onLeave(self, details: Any) -> Any:
        return ApplicationSession.onLeave(
            self, details
        )  # Session's own leaves pending requests hanging for ever

    def onDisconnect(self) -> Any:
        return ApplicationSession.onDisconnect(self)

    def onUserError(self, fail: Failure, msg: str) -> None:
        if not fail.check(ApplicationError):  # these are answers
            self._errors.failure("in a WAMP session: {what}", fail, what=msg)


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Dial:
    """A client endpoint for one connection that can be given up at any moment, which Component cannot."""

    endpoint: Any
    _connecting: Deferred[Any] | None = field(default=None, init=False)
    _protocol: Any = field(default=None, init=False)
    _hung_up: bool = field(default=False, init=False)

    @classmethod
    def to(cls, reactor: Any, url: str) -> Dial:
        """An endpoint for the host and port of a ws:// or wss:// URL. Raises ValueError."""
        secure, host, port, *_ = parse_url(url)
        endpoint: Any = HostnameEndpoint(reactor, host.encode(), port, timeout=CONNECT_WITHIN)
        return cls(wrapClientTLS(optionsForClientTLS(host), endpoint) if secure else endpoint)

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """See IStreamClientEndpoint."""
        if self._hung_up:
            return fail(CancelledError())
        self._connecting = self.endpoint.connect(protocolFactory)
        self._connecting.addCallback(self._connected)
        return self._connecting

    def _connected(self, protocol: Any) -> Any:
        self._protocol = protocol
        return protocol

    def hang_up(self) -> None:
        """Gives up trying, or ends the connection at once."""
        self._hung_up = True
        if self._protocol is not None:
            self._protocol.transport.abortConnection()
        elif self._connecting is not None:
            self._connecting.cancel()
