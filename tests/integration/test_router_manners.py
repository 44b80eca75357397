"""A router that leaves says so: its clients hear it while they are connected, have their time, and nobody is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from eftchat.drain import Pace
from eftchat.ops.loop import TwistedLoop
from eftchat.router import Router, RouterConfig
from eftchat.wamp.bus import WampBus
from eftchat.wamp.door import WampDoor
from eftchat.wamp.link import Link, RouterAddress
from eftchat.wamp.procedures import Procedures
from eftchat.wamp.router import RouterSettings
from tests.integration.commands import Command, commands
from tests.integration.cores import Store, core
from tests.integration.crowd import eventually
from tests.integration.peers import Peer, join

TICKET = "open sesame, sixteen letters and more"
TOPIC = "eftchat.notice.reconnect"


@define(eq=False)
class Listener:
    """A WAMP client that remembers the notice, and whether it was connected then."""

    peer: Peer
    heard: list[dict[str, Any]] = field(factory=list)

    @classmethod
    async def at(cls, url: str) -> Listener:
        listener = cls(await join(url))
        await listener.peer.subscribe(listener._notice, TOPIC)
        return listener

    def _notice(self, **notice: Any) -> None:
        assert self.peer.is_connected() and not self.peer.gone.called
        self.heard.append(notice)


@pytest.fixture
def settings(tmp_path: Path, free_port: Callable[[], int]) -> RouterSettings:
    return RouterSettings(cbdir=tmp_path / "router", client_port=free_port(), node_port=free_port())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    with commands(tmp_path) as starts:
        yield starts


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What links log as trouble."""
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "eftchat.wamp.link" and event["log_level"] >= LogLevel.warn:
            found.append(event["log_format"])

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


async def router_of(settings: RouterSettings, said: list[str], pace: Pace, grace: float = 20.0) -> Router:
    config = RouterConfig(settings, TICKET, grace, pace, "the router")
    router = Router.of(reactor, config, dict(os.environ), Random(1), said.append)
    await router.start()
    await eventually(lambda: router.manners.link.state == "up", 20)
    return router


@pytest_twisted.ensureDeferred
async def test_clients_hear_it_before_their_connection_ends_and_have_their_time(
    settings: RouterSettings,
) -> None:
    router = await router_of(settings, [], Pace(rate=2.0, linger=10.0))
    clients = [await Listener.at(settings.client_url) for _ in range(3)]
    stopping = Deferred.fromCoroutine(router.stop())
    await eventually(lambda: all(client.heard for client in clients), 10)
    notice = {"router": "the router", "spread_ms": 1_500, "reason": "this router is leaving"}
    assert [client.heard for client in clients] == [[notice]] * 3
    assert not stopping.called and not any(client.peer.gone.called for client in clients)
    started = reactor.seconds()
    for client in clients:
        client.peer.leave()
    assert await stopping == 3
    assert reactor.seconds() - started < 10.0, "nobody is waited for who has gone"


@pytest_twisted.ensureDeferred
async def test_who_does_not_listen_is_cut_when_its_time_is_over(settings: RouterSettings) -> None:
    router = await router_of(settings, [], Pace(linger=0.5))
    deaf = await join(settings.client_url)
    assert await router.stop() == 1
    await deaf.gone.addTimeout(10, reactor)


@pytest_twisted.ensureDeferred
async def test_a_node_on_it_serves_to_the_end_and_takes_its_going_calmly(
    settings: RouterSettings, complaints: list[str]
) -> None:
    router = await router_of(settings, [], Pace(rate=1.0, linger=10.0))
    node = core("n1", (), Store())
    link = Link(reactor, TwistedLoop(reactor), Random(1), RouterAddress(settings.node_url, TICKET))
    bus = WampBus(lambda room: room)
    procedures = Procedures(node.rooms, TwistedLoop(reactor))
    door = WampDoor("n1", TwistedLoop(reactor), bus, procedures, [link])
    states: list[str] = []
    link.on_state(states.append)
    door.open()
    await eventually(lambda: link.state == "up", 20)
    client = await Listener.at(settings.client_url)
    stopping = Deferred.fromCoroutine(router.stop())
    await eventually(lambda: bool(client.heard), 10)
    assert await client.peer.call("eftchat.api.key", room="R") == node.rooms.key("r")
    assert states == ["up"]
    client.peer.leave()
    await stopping
    await eventually(lambda: states[-1] == "down", 10)
    assert complaints == []
    await door.leave()
    node.rooms.feeds.stop()


@pytest_twisted.ensureDeferred
async def test_the_command_tells_its_clients_and_exits_0(
    settings: RouterSettings, start: Callable[..., Command]
) -> None:
    ports = ("--client-port", str(settings.client_port), "--node-port", str(settings.node_port))
    words = ("router", *ports, "--client-host", "127.0.0.1", "--node-host", "127.0.0.1", "--grace", "20")
    command = start(*words, "--data", str(settings.cbdir), EFTCHAT_ROUTER_TICKET=TICKET)
    await deferToThread(command.says, settings.node_url)
    client = await Listener.at(settings.client_url)
    ended = deferToThread(command.stop)
    await eventually(lambda: bool(client.heard), 10)
    command.process.send_signal(signal.SIGTERM)  # once more: it only says that it knows
    await deferToThread(command.says, "already leaving")
    client.peer.leave()
    (_, code), _ = await DeferredList([ended, client.peer.gone])
    assert code == 0
    assert "left: 1 clients told" in command.said
