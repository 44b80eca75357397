"""The command `eftchat`. The only importer of the global reactor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click

from eftchat import __version__
from eftchat.client.command import chat_command
from eftchat.cluster.command import cluster_command
from eftchat.commands import node_command, router_command
from eftchat.domain.limits import Limits
from eftchat.ops.config import environment
from eftchat.ops.logs import Format, begin
from eftchat.ops.signals import stop_requested
from eftchat.ports import CannotStart

PORT = click.IntRange(0, 65535)
Main = Callable[[Any], Coroutine[Any, Any, int]]


def run(main: Main) -> NoReturn:
    """Runs the coroutine on the reactor and exits with its result; CannotStart is one plain line and its status."""
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    reactor: Any = installed
    result: list[int] = []

    def failed(failure: Failure) -> None:
        if isinstance(failure.value, CannotStart):
            click.echo(f"eftchat: {failure.value}", err=True)
            result.append(failure.value.status)
            return
        text = f"eftchat: this should not happen; please report it\n{failure.getTraceback()}"
        click.echo(text, err=True)
        result.append(1)

    def begin_main() -> None:
        work = Deferred.fromCoroutine(main(reactor))
        work.addCallbacks(result.append, failed).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin_main)
    reactor.run()
    sys.exit(result[0] if result else 1)


@click.group(context_settings={"auto_envvar_prefix": "EFTCHAT", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """A group chat that loses nothing.

    Every option can also be given by environment: --router-port of `up` is EFTCHAT_UP_ROUTER_PORT.
    """


@main.command(epilog="Example:  eftchat up --port 9000 --data /var/lib/eftchat")
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface for all clients.")
@click.option(
    "--port", default=8080, show_default=True, type=PORT, help="/chat, / and probes; 0: any free one."
)
@click.option(
    "--router-port", default=8081, show_default=True, type=PORT, help="WAMP clients; 0: any free one."
)
@click.option("--node-port", default=0, type=PORT, help="Between node and router.  [default: any free one]")
@click.option(
    "--data",
    default="eftchat-data",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for everything that is kept; made when it does not exist.",
)
@click.option(
    "--mongodb", metavar="URI", help="Keep messages in this MongoDB replica set instead of the folder."
)
@click.option(
    "--post-rate",
    default=Limits().post_rate,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Posts a second a connection.",
)
@click.option("--grace", default=10.0, show_default=True, help="Seconds that leaving may take.")
@click.option("--log-level", default="warn", type=click.Choice(["debug", "info", "warn", "error"]))
@click.option("--log-format", default="text", type=click.Choice(["text", "json"]))
def up(log_level: str, log_format: Format, post_rate: float, **options: Any) -> None:
    """Start a chat on this machine: one node, one router, and a store in --data.

    Open to everyone who can reach it, without passwords: for development and trusted networks. Ctrl-C or SIGTERM
    ends it in good order; what was acknowledged is on disk even after kill -9 or a power cut.
    """
    from eftchat.up import UpConfig
    from eftchat.up import up as run_up

    begin(log_level, log_format)
    limits = Limits(post_rate=post_rate, post_burst=max(Limits().post_burst, 3 * post_rate))
    config = UpConfig(limits=limits, **options)
    run(lambda reactor: run_up(reactor, config, environment(), click.echo))


main.add_command(chat_command(run, stop_requested))
main.add_command(node_command(run))
main.add_command(router_command(run))
main.add_command(cluster_command(run, environment))


if __name__ == "__main__":
    main()
