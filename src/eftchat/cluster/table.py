"""A cluster as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from eftchat.cluster.view import MemberView, View

COLOURS = {"up": "green", "primary": "green", "secondary": "green", "dead": "red", "left": "dim"}


def table(view: View) -> Table:
    """Everyone, with what can be said of each."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in (("who", "left"), ("state", "left"), ("pid", "right"), ("clients", "right")):
        made.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]  # one of its words
    made.add_column("where")
    made.add_column("")
    for member in view.members:
        made.add_row(*_row(member))
    return made


def _row(member: MemberView) -> list[Text]:
    colour = COLOURS.get(member.state, "yellow")
    if member.state == "up" and member.detail:
        colour = "yellow"
    pid = "" if member.pid is None else str(member.pid)
    clients = "" if member.clients is None else str(member.clients)
    cells = [Text(text) for text in (pid, clients, member.url or f"127.0.0.1:{member.port}", member.detail)]
    return [Text(member.name), Text(member.state, colour), *cells]
