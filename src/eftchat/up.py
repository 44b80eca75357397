"""`eftchat up`: all that one machine needs, from one process tree: a node, its store, and a router as its child."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from eftchat import __version__
from eftchat.app import Node, NodeConfig, build, open_store
from eftchat.domain.limits import Limits
from eftchat.drain import Pace
from eftchat.ops.secret import kept_secret
from eftchat.ops.signals import stop_requested
from eftchat.ports import CannotStart
from eftchat.router import Router, RouterConfig
from eftchat.wamp.router_settings import RouterSettings

Say = Callable[[str], None]

PACE = Pace(linger=0.0)
"""There is no other node to go to: clients come back when this one does, but not all at once."""
NODES_SHARE = 0.8
"""The node's part of the grace. The router has the rest."""


class UpConfig(msgspec.Struct, frozen=True):
    """What `eftchat up` is told. A port of 0 is any free one; `node_port` is where the node finds its router."""

    host: str
    port: int
    router_port: int
    node_port: int
    data: Path
    mongodb: str | None
    limits: Limits
    grace: float


async def up(reactor: Any, config: UpConfig, environment: Mapping[str, str], say: Say) -> int:
    """Runs until SIGTERM or SIGINT; the exit code. Raises CannotStart with what is wrong and what to do."""
    stop = stop_requested(reactor)
    rng = SystemRandom()
    secret = _secret(config.data, rng)
    settings = _router_settings(reactor, config)
    ticket = rng.randbytes(24).hex()
    router_config = RouterConfig(settings, ticket, (1 - NODES_SHARE) * config.grace, PACE)
    router = Router.of(reactor, router_config, environment, Random(rng.getrandbits(64)), say)
    store = await open_store(reactor, config.mongodb, config.data)
    name = f"n{rng.getrandbits(32):08x}"
    node_config = NodeConfig(
        id=name,
        host=config.host,
        port=config.port,
        secret=secret,
        ticket=ticket,
        routers=(settings.node_url,),
        limits=config.limits,
        grace=NODES_SHARE * config.grace,
        pace=PACE,
    )
    node = build(reactor, node_config, store, Random(rng.getrandbits(64)))
    try:
        port = await node.start()
        serves = _start(router)
    except CannotStart:
        await node.stop()
        raise
    say(_banner(config, settings, name, port))
    try:
        failed = _when_ready(serves, node)
        failed.addErrback(lambda failure: None if stop.called else stop.errback(failure))
        say(f"{await stop}: leaving ...")
    finally:
        say(f"left: {await node.stop()}")
        await router.stop()
    return 0


def _router_settings(reactor: Any, config: UpConfig) -> RouterSettings:
    return RouterSettings(
        cbdir=config.data / "router",
        client_interface=config.host,
        client_port=config.router_port or free_port(reactor),
        node_port=config.node_port or free_port(reactor),
    )


def _start(router: Router) -> Deferred[None]:
    try:
        return router.start()
    except CannotStart as error:
        raise CannotStart(f"The router cannot start: {error} (see --router-port and --node-port)") from None


def _when_ready(serves: Deferred[None], node: Node) -> Deferred[None]:
    """Opens the WAMP door when the router serves. Fires only to fail: with CannotStart."""

    async def follow() -> None:
        await serves
        await node.wamp.open().wait()

    return Deferred.fromCoroutine(follow())


def free_port(reactor: Any) -> int:
    """A loopback port that nobody listens on at the moment."""
    from twisted.internet.protocol import Factory

    listening = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    port: int = listening.getHost().port
    listening.stopListening()
    return port


def _secret(data: Path, rng: Random) -> bytes:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        return kept_secret(data / "room-secret", rng)
    except OSError as error:
        text = f"The data folder {data} cannot be written ({error.strerror}): choose another with --data"
        raise CannotStart(text) from None


def _banner(config: UpConfig, settings: RouterSettings, name: str, port: int) -> str:
    store = "MongoDB" if config.mongodb else f"{config.data} (SQLite)"
    return f"""eftchat {__version__} is up: node {name}
  chat   ws://{config.host}:{port}/chat
  page   http://{config.host}:{port}/
  WAMP   {settings.client_url}  (realm {settings.realm}; ready in a few seconds)
  data   {store}
Talk:    eftchat chat ws://{config.host}:{port}/chat --room lobby --name Ann
Stop:    Ctrl-C"""
