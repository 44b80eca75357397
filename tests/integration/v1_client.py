"""A client of the original system over a real socket, with its habits: it must be served unmodified."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from attrs import define, field
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred

RETURNS_AFTER = 5.0


class _Protocol(WebSocketClientProtocol):
    client: V1Client

    def onOpen(self) -> None:
        self.client.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.client.heard(json.loads(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.client.closed(self)


@define(eq=False)
class V1Client:
    """Joins one room, sends on demand, and after every close returns in exactly five seconds, for ever."""

    reactor: Any
    url: str
    room: str
    user: str
    name: str
    returns_after: float = RETURNS_AFTER
    received: dict[str, dict[str, Any]] = field(factory=dict, init=False)
    """uuid -> the first frame that brought it, in order of arrival."""
    errors: list[Any] = field(factory=list, init=False)
    joined: Deferred[None] = field(factory=Deferred, init=False)
    _pending: dict[str, dict[str, Any]] = field(factory=dict, init=False)
    _waiting: dict[str, Deferred[str]] = field(factory=dict, init=False)
    _protocol: _Protocol | None = field(default=None, init=False)
    _count: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        factory = WebSocketClientFactory(self.url, reactor=self.reactor)
        factory.protocol = type("Bound", (_Protocol,), {"client": self})
        factory.clientConnectionFailed = lambda *_: self.closed(None)  # type: ignore[method-assign]
        self.reactor.connectTCP(factory.host, factory.port, factory, timeout=5)

    def stop(self) -> None:
        self._stopped = True
        if self._protocol is not None:
            self._protocol.transport.abortConnection()

    def send(self, text: str) -> Deferred[str]:
        """Sends the text, and everything again that is not acknowledged; fires, acknowledged, with its uuid."""
        uuid = str(uuid4())
        self._pending[uuid] = {"text": text, "uuid": uuid, "ack": False, "date": "2026-01-01T15:40:46.945Z"}
        self._waiting[uuid] = Deferred()
        self._send_pending()
        return self._waiting[uuid]

    def _send_pending(self) -> None:
        for params in self._pending.values():
            self._say("textMessage", **params)

    def _say(self, method: str, **params: Any) -> None:
        if self._protocol is None or self._protocol.state != WebSocketClientProtocol.STATE_OPEN:
            return
        self._count += 1
        me = {"userId": self.user, "roomName": self.room, "userName": self.name}
        frame = {"jsonrpc": "2.0", "method": method, "params": {**me, **params}, "id": self._count}
        self._protocol.sendMessage(json.dumps(frame).encode())

    def opened(self, protocol: _Protocol) -> None:
        self._protocol = protocol
        if not self.joined.called:
            self._say("joinRoom", lastMessageId=None)
            return
        oldest = next(iter(self.received.values()), None)
        self._say("reconnect", sessionId=str(uuid4()), lastMessageId=oldest and oldest["_id"])
        self._send_pending()

    def closed(self, protocol: _Protocol | None) -> None:
        if not self._stopped and protocol is self._protocol or protocol is None:
            self._protocol = None
            self.reactor.callLater(self.returns_after, self._return)

    def cut(self, last: bytes) -> None:
        """The socket breaks behind these bytes."""
        if self._protocol is not None:
            self._protocol.transport.write(last)
            self._protocol.transport.abortConnection()

    def _return(self) -> None:
        if not self._stopped:
            self.start()

    def heard(self, frame: dict[str, Any]) -> None:
        assert not ("error" in frame and "result" in frame)
        if "error" in frame:
            self.errors.append(frame["error"])
        elif "result" in frame:
            assert frame["result"] == "OK"
            if not self.joined.called:
                self.joined.callback(None)
        elif frame["method"] == "textMessage":
            uuid = frame["params"]["uuid"]
            self.received.setdefault(uuid, frame)
            if self._pending.pop(uuid, None) is not None:
                self._waiting.pop(uuid).callback(uuid)
