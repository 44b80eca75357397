"""`eftchat node` and `eftchat router` on the command line: the parts of a cluster, one process each."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any
from urllib.parse import urlsplit

import click
from twisted.logger import Logger

from eftchat.domain.limits import Limits
from eftchat.drain import Pace
from eftchat.ops.config import environment
from eftchat.ops.logs import Format, begin
from eftchat.ops.options import no_password
from eftchat.ops.secret import given_secret

Main = Callable[[Any], Coroutine[Any, Any, int]]
Start = Callable[[Main], object]
Command = Callable[..., None]

EPILOG = """
\b
By environment: every option is also a variable, {prefix}_ and its
name; several values with spaces between them:
  {prefix}_TICKET_FILE=/run/secrets/ticket
  {several}

\b
Secrets are never options' values, which everyone on the machine could
read. They come from files, or else from
  {secrets}
To make one: openssl rand -hex 32

\b
Exit: {status}
"""
NODE_EPILOG = EPILOG.format(
    prefix="EFTCHAT_NODE",
    several='EFTCHAT_NODE_ROUTER="ws://r1:8082 ws://r2:8082"',
    secrets="EFTCHAT_NODE_TICKET, EFTCHAT_NODE_ROOM_SECRET, EFTCHAT_NODE_MONGODB.",
    status="""0 left in good order, 1 cannot start or go on, 2 wrong usage,
      3 a router refuses this node's ticket.""",
)
ROUTER_EPILOG = EPILOG.format(
    prefix="EFTCHAT_ROUTER",
    several='EFTCHAT_ROUTER_ALLOWED_ORIGIN="https://a.org https://b.org"',
    secrets="EFTCHAT_ROUTER_TICKET.",
    status="0 left in good order, 1 cannot start, 2 wrong usage.",
)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FILE = click.Path(dir_okay=False, path_type=Path)
_PORT = click.IntRange(0, 65535)
_FIXED_PORT = click.IntRange(1, 65535)


def _id(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str:
    if given is None:
        host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("-._")[:100]
        return f"{host or 'node'}-{SystemRandom().getrandbits(16):04x}"
    if not _ID.fullmatch(given):
        raise click.BadParameter("letters, digits, dots, dashes and underscores, 128 at most")
    return given


def _urls(_context: click.Context, _parameter: click.Parameter, urls: tuple[str, ...]) -> tuple[str, ...]:
    """Routers' addresses, complete: a path at least, and each once."""
    for url in urls:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("ws", "wss") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good:
            raise click.BadParameter(f"{url!r} is no router's address: ws://host:8082")
    return tuple(dict.fromkeys(url if urlsplit(url).path else f"{url}/" for url in urls))


_LOG_OPTIONS = (
    click.option(
        "--log-level",
        default="info",
        show_default=True,
        type=click.Choice(["debug", "info", "warn", "error"]),
    ),
    click.option("--log-format", default="text", show_default=True, type=click.Choice(["text", "json"])),
)
_NODE_OPTIONS = (
    click.option(
        "--id", callback=_id, help="Its name among the nodes, unique.  [default: from the host name]"
    ),
    click.option("--host", default="0.0.0.0", show_default=True, help="Interface for websockets and probes."),
    click.option("--port", default=8080, show_default=True, type=_PORT, help="0: any free one."),
    click.option(
        "--router", required=True, multiple=True, callback=_urls, metavar="URL", help="One for each router."
    ),
    click.option("--ticket-file", type=_FILE, help="What it shows to routers."),
    click.option(
        "--room-secret-file", type=_FILE, help="Where rooms' topics come from; the same for all nodes."
    ),
    click.option(
        "--mongodb", metavar="URI", callback=no_password, help="mongodb://a,b,c/chat?replicaSet=rs0"
    ),
    click.option("--mongodb-file", type=_FILE, help="A file with the URI, for one with a password."),
    click.option(
        "--post-rate", default=Limits().post_rate, show_default=True, help="Posts a second a client."
    ),
    click.option("--grace", default=50.0, show_default=True, help="Seconds that leaving may take."),
    click.option(
        "--settle",
        default=0.0,
        show_default=True,
        help="Seconds of these in which it still takes clients while /readyz says no, for balancers to see it.",
    ),
    click.option(
        "--move-rate", default=Pace().rate, show_default=True, help="Clients a second that are asked to move."
    ),
    *_LOG_OPTIONS,
)
_ROUTER_OPTIONS = (
    click.option("--client-host", default="0.0.0.0", show_default=True, help="Interface for WAMP clients."),
    click.option(
        "--client-port", default=8081, show_default=True, type=_FIXED_PORT, help="/ws and /ws-ready."
    ),
    click.option(
        "--node-host", default="0.0.0.0", show_default=True, help="Interface for nodes: a private one."
    ),
    click.option(
        "--node-port", default=8082, show_default=True, type=_FIXED_PORT, help="Where nodes connect."
    ),
    click.option(
        "--data",
        default="eftchat-router",
        show_default=True,
        type=click.Path(file_okay=False, path_type=Path),
        help="A folder of its own; holds nothing that needs to be kept.",
    ),
    click.option("--ticket-file", type=_FILE, help="What nodes have to show."),
    click.option("--grace", default=30.0, show_default=True, help="Seconds that leaving may take."),
    click.option(
        "--move-rate", default=Pace().rate, show_default=True, help="Clients a second that are asked to move."
    ),
    click.option("--public-url", metavar="URL", help="What its WAMP clients know it by, if that is another."),
    click.option("--allowed-origin", multiple=True, help="Web pages that may connect; once for each."),
    click.option("--max-connections", default=20_000, show_default=True, help="Clients at the same time."),
    *_LOG_OPTIONS,
)


def _with(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Many options at once, in the order in which help shows them."""

    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def say_to_log(name: str) -> Callable[[str], None]:
    """A server's own words go where the rest of its log goes."""
    log = Logger(name)
    return lambda line: log.info("{line}", line=line)


def node_command(start: Start) -> click.Command:
    """The command `node`. `start` runs a coroutine of the reactor and exits with its result."""

    @click.command("node", epilog=NODE_EPILOG)
    @_with(_NODE_OPTIONS)
    def node(log_level: str, log_format: Format, **options: Any) -> None:
        """Run one node of a cluster, against routers and a MongoDB replica set.

        It serves websockets at /chat and probes at /healthz and /readyz. A router that is not there is waited
        for; clients are served meanwhile. SIGTERM or Ctrl-C: its clients are told and move to other nodes, at a
        bounded rate, then it ends.
        """
        from eftchat.node import serve_node

        begin(log_level, log_format)
        say, rng = say_to_log("eftchat.node"), SystemRandom()
        if not (options["mongodb"] or options["mongodb_file"]):
            raise click.UsageError("Where is MongoDB? Give --mongodb or --mongodb-file.")

        async def main(reactor: Any) -> int:
            return await serve_node(reactor, _node_config(options), _mongodb(options), rng, say)

        start(main)

    return node


def router_command(start: Start) -> click.Command:
    """The command `router`. `start` runs a coroutine of the reactor and exits with its result."""

    @click.command("router", epilog=ROUTER_EPILOG)
    @_with(_ROUTER_OPTIONS)
    def router(log_level: str, log_format: Format, **options: Any) -> None:
        """Run one Crossbar router of a cluster: the event bus, and the door for WAMP clients.

        Routers know nothing of each other: every node connects to all of them, and any of them may end. SIGTERM
        or Ctrl-C: its clients are told to connect elsewhere, then it ends.
        """
        from eftchat.router import RouterConfig, serve_router

        begin(log_level, log_format)
        say, rng, settings = say_to_log("eftchat.router"), SystemRandom(), _router_settings(options)

        async def main(reactor: Any) -> int:
            ticket = given_secret("ticket", options["ticket_file"], "EFTCHAT_ROUTER_TICKET", environment())
            pace = Pace(rate=options["move_rate"])
            config = RouterConfig(settings, ticket, options["grace"], pace, options["public_url"] or "")
            return await serve_router(reactor, config, environment(), rng, say)

        start(main)

    return router


def _node_config(options: dict[str, Any]) -> Any:
    from eftchat.app import NodeConfig

    given = environment()
    secret = given_secret("room secret", options["room_secret_file"], "EFTCHAT_NODE_ROOM_SECRET", given)
    return NodeConfig(
        id=options["id"],
        host=options["host"],
        port=options["port"],
        secret=secret.encode(),
        ticket=given_secret("ticket", options["ticket_file"], "EFTCHAT_NODE_TICKET", given),
        routers=options["router"],
        limits=Limits(
            post_rate=options["post_rate"], post_burst=max(Limits().post_burst, 3 * options["post_rate"])
        ),
        grace=options["grace"],
        pace=Pace(settle=options["settle"], rate=options["move_rate"]),
    )


def _mongodb(options: dict[str, Any]) -> str:
    """The URI, from wherever it was given."""
    if options["mongodb"]:
        return str(options["mongodb"])
    return given_secret("MongoDB URI", options["mongodb_file"], "", {}, least=1)


def _router_settings(options: dict[str, Any]) -> Any:
    from eftchat.wamp.router_settings import LOOPBACK_ORIGINS, RouterSettings

    try:
        return RouterSettings(
            cbdir=options["data"],
            client_interface=options["client_host"],
            client_port=options["client_port"],
            node_interface=options["node_host"],
            node_port=options["node_port"],
            max_connections=options["max_connections"],
            allowed_origins=options["allowed_origin"] or LOOPBACK_ORIGINS,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
