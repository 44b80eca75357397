"""WAMP peers as plain as Autobahn allows, for tests that talk to a router from outside."""

from __future__ import annotations

from typing import Any

import pytest
import txaio
from autobahn.twisted.wamp import ApplicationSession
from autobahn.twisted.websocket import WampWebSocketClientFactory
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.serializer import CBORSerializer
from autobahn.wamp.types import ComponentConfig
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint


class Peer(ApplicationSession):
    """Joins as told; `joined` fires with the session, or fails with the router's reason."""

    def __init__(self, realm: str, ticket: str | None) -> None:
        super().__init__(ComponentConfig(realm=realm))
        self.ticket = ticket
        self.joined: Deferred[Peer] = Deferred()
        self.gone: Deferred[None] = Deferred()

    def onConnect(self) -> None:
        if self.ticket is None:
            self.join(self.config.realm, ["anonymous"])
        else:
            self.join(self.config.realm, ["ticket"], authid="node")

    def onChallenge(self, challenge: Any) -> str | None:
        return self.ticket

    def onJoin(self, details: Any) -> None:
        self.role = details.authrole
        self.joined.callback(self)

    def onLeave(self, details: Any) -> None:
        if not self.joined.called:
            self.joined.errback(ApplicationError(details.reason, details.message))
        super().onLeave(details)

    def onDisconnect(self) -> None:
        super().onDisconnect()
        self.gone.callback(None)


async def join(url: str, ticket: str | None = None) -> Peer:
    """A session on the listener at `url`: anonymous, or as the node with a ticket."""
    txaio.config.loop = reactor
    peer = Peer("eftchat", ticket)
    factory = WampWebSocketClientFactory(lambda: peer, url=url, serializers=[CBORSerializer()])
    await TCP4ClientEndpoint(reactor, "127.0.0.1", factory.port).connect(factory)
    return await peer.joined.addTimeout(5, reactor)


async def refusal(asked: Deferred[Any]) -> str:
    """The error URI with which the router answers; fails if it agrees."""
    with pytest.raises(ApplicationError) as refused:
        await asked.addTimeout(5, reactor)
    return str(refused.value.error)
