"""The sockets under the conversations: Autobahn's websocket server protocol, and nothing of the chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from attrs import define, field
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from eftchat.bridge.connection import Conversation, Settings
from eftchat.bridge.v1 import V1Conversation, V1Dialect, V1Readers
from eftchat.bridge.v2 import V2Conversation, V2Dialect
from eftchat.ports import Loop, Timer
from eftchat.rooms import Rooms
from eftchat.wire import close_codes
from eftchat.wire.uris import SUBPROTOCOL

HANDSHAKE_TIMEOUT = 5
PING_TIMEOUT = 10.0
REASON_MAX = 120


@define(eq=False)
class Conversations:
    """Makes the conversation of each websocket of a node, and knows those that are open."""

    rooms: Rooms
    loop: Loop
    settings: Settings
    open: dict[ChatSocket, None] = field(factory=dict, init=False)
    _v1: V1Dialect = field(factory=V1Dialect, init=False)
    _v2: V2Dialect = field(factory=V2Dialect, init=False)
    _readers: V1Readers = field(factory=V1Readers, init=False)
    _numbers: Iterator[int] = field(factory=lambda: count(1), init=False)

    def begin(self, socket: ChatSocket, subprotocol: str | None) -> Conversation:
        """The conversation for a socket whose handshake is done; the subprotocol chose the dialect."""
        self.open[socket] = None
        identity = f"{self.rooms.node}-{next(self._numbers)}"
        common = (self.rooms, self.loop, socket, self.settings, identity)
        if subprotocol == SUBPROTOCOL:
            return V2Conversation(*common, self._v2)
        return V1Conversation(*common, self._v1, readers=self._readers)

    def counts(self) -> dict[str, int]:
        """How many websockets are open, by dialect."""
        v2 = sum(isinstance(socket.conversation, V2Conversation) for socket in self.open)
        return {"v1": len(self.open) - v2, "v2": v2}

    def send_away(self) -> int:
        """Closes every websocket with 1012, so that its client connects again; how many that were."""
        sockets = list(self.open)
        for socket in sockets:
            socket.close(close_codes.NODE_LEAVING, "connect again")
        return len(sockets)


@implementer(IPushProducer)
class ChatSocket(WebSocketServerProtocol):
    """One websocket. Every callback is a guarded one-liner: Autobahn would swallow what escapes from it."""

    _log = Logger("eftchat.bridge")
    conversations: Conversations
    conversation: Conversation | None = None
    transport: Any
    _full = False
    _reading = True
    _heard = True
    _beating: Timer | None = None

    # -- from Autobahn ---------------------------------------------------------------------------------

    def onConnect(self, request: ConnectionRequest) -> str | None:
        """Chooses the dialect: none asked for is v1; only unknown ones asked for is refused."""
        if SUBPROTOCOL in request.protocols:
            return SUBPROTOCOL
        if request.protocols:
            raise ConnectionDeny(ConnectionDeny.BAD_REQUEST, f"subprotocol: {SUBPROTOCOL} or none")
        return None

    def onOpen(self) -> None:
        """The handshake is done."""
        self._guarded(self._begin)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole frame came."""
        self._heard = True
        if self.conversation is not None:
            self._guarded(self.conversation.received, None if isBinary else payload)

    def onPong(self, payload: bytes) -> None:
        """The client lives."""
        self._heard = True

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The socket is gone."""
        self._guarded(self._end)

    def _begin(self) -> None:
        transport = self.transport
        transport.unregisterProducer()  # the web server's, which this socket was taken over from
        transport.registerProducer(self, True)
        self.conversation = self.conversations.begin(self, self.websocket_protocol_in_use)
        self._beat()

    def _end(self) -> None:
        conversation, self.conversation = self.conversation, None
        if self._beating is not None:
            self._beating.cancel()
        self.conversations.open.pop(self, None)
        if conversation is not None:
            conversation.lost()

    def _guarded(self, call: Callable[..., object], *given: Any) -> None:
        try:
            call(*given)
        except Exception:
            self._log.failure("a connection failed on our side")
            self.close(close_codes.OUR_FAULT, "internal error")

    def _beat(self) -> None:
        """Pings. Autobahn's own pings would cut a client whose answer we leave unread on purpose."""
        self._heard = False
        self.sendPing()
        self._beating = self.conversations.loop.call_later(PING_TIMEOUT, self._check_pulse)

    def _check_pulse(self) -> None:
        """Cuts a client that is silent though it is read, or that does not read what it is sent."""
        if not self._heard and (self._reading or self._full):
            self.transport.abortConnection()
            return
        rest = self.conversations.settings.heartbeat_ms / 1000 - PING_TIMEOUT
        self._beating = self.conversations.loop.call_later(max(0.0, rest), self._beat)

    # -- for the conversation --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Frames, ready made, straight to the transport."""
        if self.state == self.STATE_OPEN:
            self.transport.write(data)

    def writable(self) -> bool:
        """Whether the transport's buffer has room."""
        return not self._full and self.state == self.STATE_OPEN

    def stop_reading(self) -> None:
        """The client is too fast for us: leave its bytes in its socket."""
        self._reading = False
        self.transport.pauseProducing()

    def read_on(self) -> None:
        """Reads again."""
        self._reading = True
        if self.state == self.STATE_OPEN:
            self.transport.resumeProducing()

    def close(self, code: int, reason: str) -> None:
        """Sends a close frame and ends the connection."""
        if self.state == self.STATE_OPEN:
            # Not `sendClose`, which lets applications send 1000 and 3000-4999 only.
            told = reason.encode()[:REASON_MAX].decode(errors="ignore")
            self.sendCloseFrame(code, told.encode(), isReply=False)

    def abort(self) -> None:
        """Ends the connection at once."""
        self.transport.abortConnection()

    # -- from the transport ----------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The buffer towards the client is full."""
        self._full = True

    def resumeProducing(self) -> None:
        """It has room again."""
        self._full = False
        if self.conversation is not None:
            self._guarded(self.conversation.drained)

    def stopProducing(self) -> None:
        """The transport is going away."""
        self._full = True


def factory(conversations: Conversations, reactor: object) -> WebSocketServerFactory:
    """Makes the protocol of each websocket, with the limits of the settings."""

    class BoundChatSocket(ChatSocket):
        pass

    BoundChatSocket.conversations = conversations
    made = WebSocketServerFactory(protocols=[SUBPROTOCOL], reactor=reactor)
    made.protocol = BoundChatSocket
    limits = conversations.settings.limits
    made.setProtocolOptions(
        versions=[13],
        maxFramePayloadSize=limits.frame,
        maxMessagePayloadSize=limits.frame,
        openHandshakeTimeout=HANDSHAKE_TIMEOUT,
        closeHandshakeTimeout=2,  # Autobahn rounds its timers down to whole seconds
        failByDrop=False,
        tcpNoDelay=True,
        serveFlashSocketPolicy=False,
        webStatus=False,
    )
    return made
