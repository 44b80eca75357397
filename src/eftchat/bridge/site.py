"""The node's HTTP side: which path leads where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any

import msgspec
from autobahn.twisted.resource import WebSocketResource
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from eftchat.bridge.protocol import Conversations, factory

_WELCOME = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>eftchat</title>
<h1>eftchat is up</h1>
<p>Websocket clients connect to <code>/chat</code>. Try <code>eftchat chat</code> in a terminal.</p>
</html>
"""


class Welcome(Resource):
    """What a browser sees at `/`."""

    isLeaf = False

    def getChild(self, path: bytes, request: Request) -> Any:
        """The page itself for the empty name; everything else does not exist."""
        return self if path == b"" else notFound()

    def render_GET(self, request: Request) -> bytes:
        """A page without scripts."""
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"content-security-policy", b"default-src 'none'")
        request.setHeader(b"x-content-type-options", b"nosniff")
        return _WELCOME


class Chat(Resource):
    """Websockets at this very path."""

    def __init__(self, websocket: WebSocketResource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._websocket = websocket

    def render(self, request: Request) -> object:
        """Hands the connection over; a request that is no websocket's is answered 426."""
        return self._websocket.render(request)

    def getChild(self, path: bytes, request: Request) -> Any:
        """There is nothing below."""
        return notFound()


class Bodiless(Request):
    """A request whose body nobody wants: it is refused before it is read, whatever the path.

    Twisted would read one of any size, and parse forms while everyone waits.
    """

    def gotLength(self, length: int | None) -> None:
        """The headers are there. None stands for a body in chunks, whose end is not known."""
        if length:
            self._refuse()
        super().gotLength(0)  # type: ignore[no-untyped-call]

    def handleContentChunk(self, data: bytes) -> None:
        """A part of a body, which is thrown away."""
        self._refuse()

    def _refuse(self) -> None:
        channel: Any = self.channel
        if channel is not None and channel.transport is not None:
            channel.transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n")
            channel.loseConnection()


class Probe(Resource):
    """A health endpoint: 200 while `problem()` is None, else 503 with what is wrong."""

    isLeaf = True

    def __init__(self, problem: Callable[[], str | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._problem = problem

    def render_GET(self, request: Request) -> bytes:
        """`{"ok": true}` or `{"ok": false, "problem": "..."}`."""
        problem = self._problem()
        request.setHeader(b"content-type", b"application/json")
        if problem is None:
            return msgspec.json.encode({"ok": True})
        request.setResponseCode(503)
        return msgspec.json.encode({"ok": False, "problem": problem})


class Status(Resource):
    """How the node does, for those on its own machine; to everyone else it does not exist."""

    isLeaf = True

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._status = status

    def render_GET(self, request: Request) -> Any:
        """One JSON object, see docs/operations.md."""
        if not _on_loopback(request):
            nothing: Any = notFound()
            return nothing.render(request)
        request.setHeader(b"content-type", b"application/json")
        return msgspec.json.encode(self._status())


def _on_loopback(request: Request) -> bool:
    peer = ip_address(getattr(request.getClientAddress(), "host", "0.0.0.0").partition("%")[0])
    return (getattr(peer, "ipv4_mapped", None) or peer).is_loopback


def site(
    conversations: Conversations,
    readiness: Callable[[], str | None],
    reactor: object,
    status: Callable[[], Mapping[str, Any]] = dict,
    metrics: Any = None,
) -> Site:
    """`/chat` for websockets, `/healthz` (the process lives), `/readyz` (send clients here), `/`, and what is
    given for `/status` and `/metrics`."""
    root = Welcome()  # type: ignore[no-untyped-call]
    put: Callable[[bytes, Any], None] = root.putChild  # zope's interfaces say nothing to a type checker
    put(b"chat", Chat(WebSocketResource(factory(conversations, reactor))))
    put(b"healthz", Probe(lambda: None))
    put(b"readyz", Probe(readiness))
    put(b"status", Status(status))
    if metrics is not None:
        put(b"metrics", metrics)
    made = Site(root, requestFactory=Bodiless)
    made.displayTracebacks = False
    return made
