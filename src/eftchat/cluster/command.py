"""`eftchat cluster` on the command line: a shell around `Cluster`, and the orders to one that runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
from rich.console import Console

from eftchat.cluster.orders import Order, Reply, tell
from eftchat.cluster.plan import DATA, Plan
from eftchat.cluster.table import table
from eftchat.ops.options import no_password

Main = Callable[[Any], Coroutine[Any, Any, int]]
Start = Callable[[Main], object]

EPILOG = """
\b
A story to try. In one terminal:
  eftchat cluster
In two more, through the balancer:
  eftchat chat localhost:8080 --room lobby --name Ann
  eftchat chat localhost:8080 --room lobby --name Bob
In a fourth, while they talk:
  eftchat cluster status                see who has how many clients
  eftchat cluster kill node 1           kill -9: its clients move, nothing is lost
  eftchat cluster kill mongod primary   they wait a moment for a new primary
  eftchat cluster kill router 1         nobody notices
  eftchat cluster add node              the next clients go there
  eftchat cluster drain node 2          as a scale-down does: they move first
  eftchat cluster restart node 1        what is dead stays dead until you say so
Then Ctrl-C in the first one: everything leaves in good order.

\b
With --data, say it before the order: eftchat cluster --data D kill node 1
Exit: 0 done, 1 it could not be done, 2 wrong usage.
"""


_PORT = click.IntRange(0, 65535)


def cluster_command(start: Start, environment: Callable[[], Mapping[str, str]]) -> click.Command:
    """The command. `start` runs a coroutine of the reactor and exits with its result."""

    @click.group("cluster", invoke_without_command=True, epilog=EPILOG)
    @click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, 50))
    @click.option("--routers", default=2, show_default=True, type=click.IntRange(1, 9))
    @click.option("--port", default=8080, show_default=True, type=_PORT, help="The balancer's; 0: any.")
    @click.option(
        "--data",
        default=DATA,
        show_default=True,
        type=click.Path(file_okay=False, path_type=Path),
        help="A folder for everything: the database, secrets, logs, and the socket that takes orders.",
    )
    @click.option(
        "--mongodb",
        metavar="URI",
        callback=no_password,
        help="This replica set, instead of three mongods of its own.",
    )
    @click.option("--grace", default=10.0, show_default=True, help="Seconds that leaving may take.")
    @click.pass_context
    def cluster(context: click.Context, /, **options: Any) -> None:
        """Run a whole cluster on this machine, to try, to break and to trust.

        Nodes, Crossbar routers, a MongoDB replica set and a balancer, all of them real processes. What dies stays
        dead until you say otherwise. Ctrl-C ends everything in good order; nothing outlives it.
        """
        if context.invoked_subcommand is None:
            plan = Plan(**options)
            try:
                from eftchat.cluster.shell import serve_cluster
            except ModuleNotFoundError as missing:
                text = f"{missing.name} is not installed: pip install 'eftchat[all]'"
                raise click.ClickException(text) from None
            start(lambda reactor: serve_cluster(reactor, plan, environment(), Console()))

    for order in (_add, _kill, _drain, _restart, _status):
        cluster.add_command(order)
    return cluster


class _Which(click.ParamType):  # type: ignore[type-arg]  # generic since 8.4 only
    """A member's number; of mongods also "primary"."""

    name = "which"

    def convert(self, value: Any, param: Any, context: Any) -> int | Literal["primary"]:
        if value == "primary":
            return "primary"
        if not str(value).isdecimal():
            self.fail(f"{value!r} is no number")
        return int(value)


_KIND = click.argument("kind", type=click.Choice(["node", "router", "mongod"]))
_SERVER = click.argument("kind", type=click.Choice(["node", "router"]))
_WHICH = click.argument("which", type=_Which())


@click.command("add")
@click.argument("kind", type=click.Choice(["node"]))
@click.pass_context
def _add(context: click.Context, kind: Literal["node"]) -> None:
    """One more node; done when it serves."""
    click.echo(_ask(context, Order("add", kind)).said)


@click.command("kill")
@_KIND
@_WHICH
@click.pass_context
def _kill(context: click.Context, kind: Any, which: Any) -> None:
    """kill -9 of one process: node 2, router 1, mongod 3, mongod primary."""
    click.echo(_ask(context, Order("kill", kind, which)).said)


@click.command("drain")
@_SERVER
@_WHICH
@click.pass_context
def _drain(context: click.Context, kind: Any, which: Any) -> None:
    """Ask one to leave (SIGTERM), as a scale-down does; done when it has."""
    click.echo(_ask(context, Order("drain", kind, which)).said)


@click.command("restart")
@_KIND
@_WHICH
@click.pass_context
def _restart(context: click.Context, kind: Any, which: Any) -> None:
    """Start what is gone; what runs leaves first. Done when it serves."""
    click.echo(_ask(context, Order("restart", kind, which)).said)


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.pass_context
def _status(context: click.Context, as_json: bool) -> None:
    """Who is up."""
    view = _ask(context, Order("status")).view
    if as_json:
        click.echo(msgspec.json.encode(view))
    elif view is not None:
        Console(width=None if Console().is_terminal else 160).print(table(view))
        click.echo(f"chat: {view.chat}")


def _ask(context: click.Context, order: Order) -> Reply:
    """The cluster's reply. A refusal, or no cluster, is one line and exit 1."""
    assert context.parent is not None
    data: Path = context.parent.params["data"]
    try:
        reply = tell(data, order)
    except (ConnectionError, FileNotFoundError):
        raise click.ClickException(f"No cluster runs in {data}. Start one: eftchat cluster") from None
    except OSError as error:
        raise click.ClickException(f"The cluster in {data} cannot be asked: {error}") from None
    if not reply.ok:
        raise click.ClickException(reply.said)
    return reply
