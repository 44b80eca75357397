"""One HTTP question, for probes: an answer within the time that is given, or none."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.web.client import Agent


class Answer(msgspec.Struct, frozen=True):
    """What came back. A status of 0 says that nothing did, within the time."""

    status: int = 0
    body: bytes = b""

    @property
    def good(self) -> bool:
        """Whether it is 200 OK."""
        return self.status == 200


class _Body(Protocol):
    def __init__(self) -> None:
        self._heard = b""
        self.whole: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._heard += data

    def connectionLost(self, reason: object = None) -> None:
        if not self.whole.called:
            self.whole.callback(self._heard)


async def fetch(reactor: Any, url: str, seconds: float) -> Answer:
    """GETs the URL; never raises for what the other side does."""

    async def ask() -> Answer:
        response: Any = await Agent(reactor, connectTimeout=seconds).request(b"GET", url.encode())
        body = _Body()
        response.deliverBody(body)
        return Answer(response.code, await body.whole)

    try:
        return await Deferred.fromCoroutine(ask()).addTimeout(seconds, reactor)
    except Exception:  # refused, reset, silent, no HTTP: all the same to a probe
        return Answer()
