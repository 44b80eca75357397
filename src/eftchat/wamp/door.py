"""The WAMP door as the drain sees it: the links of a node to its routers, with all that it serves there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define

from eftchat.drain import Notice, Parting, within
from eftchat.ports import CannotStart, Loop, Promise
from eftchat.wamp.bus import WampBus
from eftchat.wamp.link import Link, RouterDenied
from eftchat.wamp.procedures import Procedures
from eftchat.wamp.visit import together
from eftchat.wire import uris
from eftchat.wire.schema import shown_notice


@define(eq=False)
class WampDoor:
    """One link per router, not started by anybody else."""

    node: str
    loop: Loop
    bus: WampBus
    procedures: Procedures
    links: Sequence[Link]

    def __attrs_post_init__(self) -> None:
        for link in self.links:
            self.bus.lines.append(link)
            self.procedures.serve(link)
            link.listen(uris.NOTICE_RECONNECT, partial(self._noticed, link))

    @staticmethod
    def _noticed(link: Link, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A router, or a node on it, says that it leaves. The link to a router is kept until it drops: its
        clients are served for as long as they are there."""
        if "router" in kwargs:
            link.forewarned()

    def open(self) -> Promise[None]:
        """Starts the links, which try for ever. The promise fails with CannotStart if a router denies this node."""
        denied: Promise[None] = self.loop.promise()
        said = False

        def on_denied(why: RouterDenied) -> None:
            nonlocal said
            if not said:
                said = True
                denied.reject(CannotStart(f"{why}: check the ticket that router and node share"))

        for link in self.links:
            link.on_denied = on_denied
            link.start()
        return denied

    @property
    def inside(self) -> int:
        """Nobody has to move: WAMP clients are on the routers, and every node knows their seats."""
        return 0

    def routers_up(self) -> dict[str, int]:
        """By URL: 1 for a router that this node is on, 0 for one that is away."""
        return {link.address.url: int(link.state == "up") for link in self.links}

    async def refuse(self) -> None:
        """No more calls come; those that came are answered."""
        await together(link.withdraw() for link in self.links)

    async def tell(self, notice: Notice) -> int:
        """Publishes the reconnect notice, for those who want to know; nobody needs it."""
        self.bus.notice(shown_notice("node", self.node, notice))
        return 0

    async def see_off(self) -> None:
        """Nobody is inside."""

    async def close(self, seconds: float) -> Parting:
        """Waits for the last answers, for so long at most. Members keep their seats: other nodes serve them."""
        await within(self.loop, self.procedures.idle().wait(), seconds)
        return Parting()

    async def leave(self) -> None:
        """Leaves the routers."""
        await together(link.stop() for link in self.links)
