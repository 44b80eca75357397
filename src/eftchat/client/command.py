"""`eftchat chat` on the command line. The reactor, and what stops it, belong to whoever adds the command."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import SystemRandom
from typing import Any

import click
from twisted.internet.defer import Deferred

from eftchat.client.terminal import Options, run
from eftchat.client.urls import complete
from eftchat.domain import names
from eftchat.domain.errors import ChatError
from eftchat.domain.messages import Cursor

DEFAULT_URL = "localhost:8080"

Main = Callable[[Any], Coroutine[Any, Any, int]]

EPILOG = """
\b
Examples:
  eftchat chat --room lobby --name Ann              talk; Ctrl-D leaves
  eftchat chat chat.example.org --room lobby --name Ann
  eftchat chat a:8080 b:8080 --room lobby --name Ann    two nodes, tried in turn
  eftchat chat --room ci --name bot < report.txt    one message a line; ends
                                                    when all are stored
  eftchat chat --room ci --name spy --since 0 --json < /dev/null
                                                    the whole log, then ends
  eftchat chat --room ci --name tap --tail 0 --follow < /dev/null
                                                    what is said from now on

\b
With --json each line of output is one object; "event" tells which:
  message  room seq uuid kind user name at body     once each, in order of seq
  posted   room uuid seq at repeated                yours, now durable
  refused  room uuid reason                         yours, and never will be
  joined   room position head members again         also after interruptions
  entered, left  room member
  reset    room position missed                     a break in the log
Everything about the connection goes to the standard error.

\b
A server that goes away costs nothing: what you said is kept and sent once it
is back, and what others said meanwhile follows, each message once.

Exit: 0 all was stored, 1 something was refused, 2 wrong usage, 130 Ctrl-C.
"""


def chat_command(
    start: Callable[[Main], object], stop_requested: Callable[[Any], Deferred[str]]
) -> click.Command:
    """The command. `start` runs a coroutine of the reactor and exits with its result; `stop_requested` gives,
    once the reactor runs, what fires with the name of the signal that asks to stop."""

    @click.command("chat", epilog=EPILOG)
    @click.argument("urls", metavar="[URL]...", nargs=-1, callback=_complete)
    @click.option("--room", required=True, callback=_name, help="The room; made when it does not exist.")
    @click.option("--name", required=True, callback=_name, help="What the others see.")
    @click.option("--user", help="Who you are to the server: the same user takes its own name over.")
    @click.option("--since", type=click.IntRange(0), help="Begin after this message; 0: with the first one.")
    @click.option(
        "--tail", type=click.IntRange(0, 1_000), help="Begin with so many old ones, 100 by default."
    )
    @click.option("--json", is_flag=True, help="Output for programs, one JSON object a line.")
    @click.option("--follow", is_flag=True, help="Stay when the input has ended, until Ctrl-C.")
    def chat(since: int | None, tail: int | None, **given: Any) -> None:
        """Talk in a room, from a terminal or a script.

        Lines of the standard input are sent as messages; what is said in the room is printed. At the end of
        the input it waits until everything is stored and printed, and ends. URL is host:port,
        http://host:port or ws://host:port/chat, by default localhost:8080; several are tried in turn.
        """
        if since is not None and tail is not None:
            raise click.UsageError("--since and --tail: one of them")
        after = None if since is None else Cursor(None, since)
        options = Options(after=after, tail=100 if tail is None else tail, **given)
        start(lambda reactor: run(reactor, options, SystemRandom(), stop_requested(reactor)))

    return chat


def _complete(_context: click.Context, _parameter: click.Parameter, urls: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(complete(url) for url in urls or (DEFAULT_URL,))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _name(_context: click.Context, parameter: click.Parameter, text: str) -> str:
    try:
        return names.name(text, f"--{parameter.name}").shown
    except ChatError as error:
        raise click.BadParameter(error.text) from None
