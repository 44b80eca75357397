"""What a running cluster can be asked, and how: JSON lines over a unix socket that only its owner can open."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

import msgspec

from eftchat.cluster.view import View

PATIENCE = 180.0
"""Seconds that an order may take."""


class Order(msgspec.Struct, frozen=True):
    """What is asked of a cluster."""

    do: Literal["add", "kill", "drain", "restart", "status"]
    kind: Literal["node", "router", "mongod"] = "node"
    which: int | Literal["primary"] = 0


class Reply(msgspec.Struct, frozen=True):
    """What came of it: `said` in words, `view` for status."""

    ok: bool
    said: str = ""
    view: View | None = None


def socket_path(folder: Path) -> Path:
    """Where the cluster of a folder listens."""
    return folder.absolute() / "control.sock"


def tell(folder: Path, order: Order) -> Reply:
    """Gives the order to the running cluster and waits. Raises ConnectionError or FileNotFoundError if there is none.

    Blocks: for commands.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as way:
        way.settimeout(PATIENCE)
        way.connect(str(socket_path(folder)))
        way.sendall(msgspec.json.encode(order) + b"\n")
        with way.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise ConnectionResetError("the cluster has ended")
    return msgspec.json.decode(line, type=Reply)
