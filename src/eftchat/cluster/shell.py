"""The command's inside: runs a cluster until it is asked to stop, and shows it."""

from __future__ import annotations

from collections.abc import Mapping
from random import SystemRandom
from typing import Any

from rich.console import Console
from twisted.internet.defer import Deferred

from eftchat.cluster.cluster import Cluster
from eftchat.cluster.control import Control
from eftchat.cluster.plan import DATA, Plan
from eftchat.cluster.screen import Screen
from eftchat.ops.signals import stop_requested


async def serve_cluster(reactor: Any, plan: Plan, environment: Mapping[str, str], console: Console) -> int:
    """Runs until SIGTERM or SIGINT; the exit code. Raises CannotStart with what is wrong and what to do."""
    stop = stop_requested(reactor)
    cluster = Cluster(reactor, plan, environment, SystemRandom())
    control = Control(reactor, cluster, plan.data)
    screen = Screen(reactor, cluster, console)
    control.open()
    screen.start()
    starting = Deferred.fromCoroutine(cluster.start())
    starting.addCallbacks(
        lambda _: screen.say(_banner(cluster, plan)),
        lambda failure: None if stop.called else stop.errback(failure),
    )
    try:
        screen.say(f"{await stop}: everyone leaves ...")
    finally:
        starting.cancel()
        await control.close()
        await cluster.stop()
        await screen.stop()
    screen.say("all have left")
    return 0


def _banner(cluster: Cluster, plan: Plan) -> str:
    orders = "eftchat cluster" if plan.data == DATA else f"eftchat cluster --data {plan.data}"
    place = cluster.url.removeprefix("ws://").removesuffix("/chat")
    return f"""the cluster is up
  chat   {cluster.url}  (a balancer before all nodes)
  WAMP   {"  ".join(cluster.router_urls)}
  logs   {plan.data / "logs"}
Talk:    eftchat chat {place} --room lobby --name Ann
Break:   {orders} kill node 1     ({orders} --help has more)
Stop:    Ctrl-C"""
