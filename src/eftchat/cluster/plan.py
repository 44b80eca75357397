"""What kind of cluster is wanted."""

from __future__ import annotations

from pathlib import Path

import msgspec

DATA = Path("eftchat-cluster")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of cluster. `port` is the balancer's, 0 any free one; without `mongodb` it runs its own."""

    data: Path
    nodes: int = 3
    routers: int = 2
    port: int = 0
    mongodb: str | None = None
    grace: float = 10.0
    node_options: tuple[str, ...] = ()
    """More options for every `eftchat node`."""
