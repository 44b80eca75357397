"""What is to be seen of a cluster at one moment."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class MemberView(msgspec.Struct, frozen=True):
    """One process. `clients` is None where nobody knows; `detail` of one that is up says what troubles it."""

    name: str
    state: str
    detail: str = ""
    pid: int | None = None
    port: int = 0
    url: str = ""
    clients: int | None = None

    @property
    def settled(self) -> bool:
        """Whether it is as it will be: serving without trouble, or gone."""
        if self.state == "up":
            return not self.detail
        return self.state in ("left", "dead", "primary", "secondary")

    @property
    def line(self) -> str:
        """For plain output."""
        more = f" ({self.detail})" if self.detail else ""
        process = f", pid {self.pid}" if self.pid is not None else ""
        return f"{self.name}: {self.state}{more}{process}, {self.url or f'port {self.port}'}"


class View(msgspec.Struct, frozen=True):
    """The whole cluster. `chat` is the balancer's URL, for websocket clients; `wamp` are the routers'."""

    chat: str
    wamp: list[str]
    mongodb: str
    members: list[MemberView]


class NodeStatus(msgspec.Struct, frozen=True):
    """What a node says at /status, as far as it matters here."""

    problem: str | None
    leaving: bool
    clients: Mapping[str, int]
    routers: Mapping[str, str]
