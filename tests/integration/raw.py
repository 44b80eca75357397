"""A websocket with nothing on top: sends what it is told, hands out what comes."""

from __future__ import annotations

import json
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue


class Raw(WebSocketClientProtocol):
    """Made by `dial`."""

    opened: Deferred[Raw]

    def onConnecting(self, details: Any) -> None:
        self.frames: DeferredQueue[Any] = DeferredQueue()
        self.closed: Deferred[tuple[int | None, str | None]] = Deferred()

    def onOpen(self) -> None:
        self.opened.callback(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.frames.put(json.loads(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if not self.opened.called:
            self.opened.errback(ConnectionRefusedError(reason))
        else:
            self.closed.callback((code, reason))

    def say(self, frame: object) -> None:
        """Text as it is, None as a binary frame, everything else as JSON."""
        if frame is None:
            self.sendMessage(b"\x00\x01", isBinary=True)
        else:
            self.sendMessage((frame if isinstance(frame, str) else json.dumps(frame)).encode())

    def call(self, method: str, ident: Any = 7, /, **params: Any) -> None:
        self.say({"jsonrpc": "2.0", "id": ident, "method": method, "params": params})

    async def heard(self) -> Any:
        """The next frame."""
        return await self.frames.get().addTimeout(10, reactor)

    async def answer(self, ident: Any = 7) -> Any:
        """The next response to that id; notifications on the way are dropped."""
        while True:
            frame = await self.heard()
            if "method" not in frame and frame["id"] == ident:
                return frame


async def dial(url: str, *protocols: str) -> Raw:
    """An open websocket; raises ConnectionRefusedError with the reason when the handshake is refused."""
    factory = WebSocketClientFactory(url, protocols=list(protocols), reactor=reactor)
    opened: Deferred[Raw] = Deferred()
    factory.protocol = type("Bound", (Raw,), {"opened": opened})
    reactor.connectTCP(factory.host, factory.port, factory)
    return await opened.addTimeout(10, reactor)


async def seated(url: str, room: str, name: str) -> Raw:
    """A v2 websocket that has connected and joined."""
    socket = await dial(url, "eftchat.v2")
    socket.call("connect", 1)
    await socket.answer(1)
    socket.call("join", 2, room=room, name=name, tail=0)
    assert "result" in await socket.answer(2)
    return socket
