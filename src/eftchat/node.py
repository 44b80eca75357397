"""`eftchat node`: one node of a cluster, against routers and a database that others run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred

from eftchat import __version__
from eftchat.app import Node, NodeConfig, build, open_store
from eftchat.lease import TTL, IdTaken
from eftchat.ops.signals import stop_requested
from eftchat.ports import CannotStart

Say = Callable[[str], None]

PATIENCE = TTL + 2.0
"""Seconds that a node waits for its id: as long as the lease runs of a process that was killed, and a little more."""
AGAIN = 0.5


class TicketRefused(CannotStart):
    """A router does not accept this node."""

    status = 3


async def serve_node(reactor: Any, config: NodeConfig, mongodb: str, rng: Random, say: Say) -> int:
    """Runs until SIGTERM or SIGINT; the exit code. Raises CannotStart with what is wrong and what to do."""
    stop = stop_requested(reactor)
    store = await open_store(reactor, mongodb, Path())
    node = build(reactor, config, store, Random(rng.getrandbits(64)))

    def fail(error: CannotStart) -> None:
        if not stop.called:
            stop.errback(error)

    node.lease.ousted = fail
    try:
        port = await _started(node, stop, say)
    except CannotStart:
        await node.stop()
        raise
    try:
        if not stop.called:
            say(_banner(config, port))
            _open_wamp(node, fail)
        say(f"{await stop}: leaving")
    finally:
        say(f"left: {await node.stop()}")
    return 0


async def _started(node: Node, stop: Deferred[str], say: Say) -> int:
    """Starts the node; the port. A process that was killed keeps its id for some seconds: that is waited for."""
    until = node.loop.seconds() + PATIENCE
    waits = False
    while True:
        try:
            return await node.start()
        except IdTaken:
            if stop.called:
                return 0
            if node.loop.seconds() >= until:
                raise
        if not waits:
            waits = True
            say(f"a node ran as {node.config.id} a moment ago: waiting up to {PATIENCE:.0f} s for the id")
        await node.loop.sleep(AGAIN)


def _open_wamp(node: Node, fail: Callable[[CannotStart], None]) -> None:
    """Connects to the routers, each of which is waited for; `fail` is told if one refuses this node."""

    async def follow() -> None:
        try:
            await node.wamp.open().wait()
        except CannotStart as error:
            fail(TicketRefused(str(error)))

    node.loop.spawn(follow(), "opening the WAMP door")


def _banner(config: NodeConfig, port: int) -> str:
    routers = ", ".join(config.routers)
    return f"eftchat {__version__}: node {config.id} serves {config.host}:{port}, its routers are {routers}"
