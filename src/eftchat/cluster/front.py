"""What stands in front of the nodes: the built-in balancer, which asks each at /readyz."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from eftchat.ops.balancer import Backend, Balancer
from eftchat.ops.fetch import fetch

CHECK = 0.8
"""Seconds that a node may take to say that it is ready."""


@define(eq=False)
class Front:
    """One address for all nodes."""

    reactor: Any
    port: int = field(default=0, init=False)
    _balancer: Balancer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._balancer = Balancer(self.reactor, self._ready)

    def listen(self, host: str, port: int) -> None:
        """Begins; `port` 0 is any free one. Raises CannotStart."""
        self.port = self._balancer.listen(host, port)

    def add(self, name: str, host: str, port: int) -> None:
        """A node that may get clients whenever it is ready."""
        self._balancer.add(Backend(name, host, port))

    def sends_to(self, name: str) -> bool:
        """Whether it has found the node ready."""
        return self._balancer.backends[name].healthy

    async def stop(self) -> None:
        """Ends it."""
        await self._balancer.stop()

    async def _ready(self, backend: Backend) -> bool:
        answer = await fetch(self.reactor, f"http://{backend.host}:{backend.port}/readyz", CHECK)
        return answer.good
