"""`eftchat router`: one Crossbar router, supervised, that takes its leave before it stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec
from attrs import define
from twisted.internet.defer import Deferred

from eftchat.drain import Pace
from eftchat.ops.loop import TwistedLoop
from eftchat.ops.signals import stop_requested
from eftchat.wamp.link import Link, RouterAddress
from eftchat.wamp.manners import Manners
from eftchat.wamp.router import RouterProcess
from eftchat.wamp.router_settings import RouterSettings

Say = Callable[[str], None]

STOP_WITHIN = 5.0
"""Seconds that the router's processes have to end once they are asked to; at most half of the grace."""


class RouterConfig(msgspec.Struct, frozen=True):
    """What a router is told: where it serves, the ticket that it shares with the nodes, and how it leaves.

    `grace`: seconds that leaving may take, all in all; so many must its process be given between SIGTERM and SIGKILL.
    """

    settings: RouterSettings
    ticket: str
    grace: float = 50.0
    pace: Pace = Pace()
    name: str = ""
    """What the notice calls it; by default the URL of its clients' door, as this machine sees it."""


@define(eq=False)
class Router:
    """A router and its manners. Start it once, stop it once."""

    process: RouterProcess
    manners: Manners
    grace: float

    @classmethod
    def of(
        cls, reactor: Any, config: RouterConfig, environment: Mapping[str, str], rng: Random, say: Say
    ) -> Router:
        """Not started yet. `say` is told in a line each how it does."""
        stopping = min(STOP_WITHIN, config.grace / 2)
        process = RouterProcess(
            reactor, config.settings, config.ticket, environment, rng, _says(say), grace=stopping
        )
        where = RouterAddress(config.settings.node_url, config.ticket, realm=config.settings.realm)
        loop = TwistedLoop(reactor)
        name = config.name or config.settings.client_url
        manners = Manners(name, loop, Link(reactor, loop, rng, where), config.pace)
        return cls(process, manners, config.grace - stopping)

    def start(self) -> Deferred[None]:
        """Fires when it serves. Raises, or fails with, CannotStart that says what to do."""
        self.process.start()
        return self.process.ready.addCallback(lambda _: self.manners.start())

    async def stop(self) -> int:
        """Tells its clients, gives them time, stops; how many were told. From then on nothing of it is left."""
        try:
            return await self.manners.take_leave(self.grace)
        finally:
            await self.process.stop()


async def serve_router(
    reactor: Any, config: RouterConfig, environment: Mapping[str, str], rng: Random, say: Say
) -> int:
    """Runs a router until SIGTERM or SIGINT; the exit code. Raises CannotStart with what is wrong and what to do.

    A router that ends unasked is started again; only the first start may fail.
    """
    stop = stop_requested(reactor)
    router = Router.of(reactor, config, environment, rng, say)
    began = router.start()
    began.addCallback(lambda _: say(_banner(config.settings)))
    began.addErrback(lambda failure: None if stop.called else stop.errback(failure))
    told = 0
    try:
        say(f"{await stop}: leaving ...")
    finally:
        told = await router.stop()
    say(f"left: {told} clients told")
    return 0


def _banner(settings: RouterSettings) -> str:
    return f"""the router is up
  WAMP clients  {settings.client_url}  (realm {settings.realm})
  nodes         {settings.node_url}
Stop:    Ctrl-C"""


def _says(say: Say) -> Callable[[str, str], None]:
    def on_state(state: str, detail: str) -> None:
        if state == "ready":
            say("the WAMP door is open")
        elif state in ("died", "restarting"):
            say(f"the router {state}: {detail}")

    return on_state
