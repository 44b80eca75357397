"""The WAMP door as the drain sees it: the links of a node to its routers, with all that it serves there."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define

from eftchat.ports import CannotStart, Loop, Promise
from eftchat.wamp.bus import WampBus
from eftchat.wamp.link import Link, RouterDenied
from eftchat.wamp.procedures import Procedures


@define(eq=False)
class WampDoor:
    """One link per router, not started by anybody else."""

    node: str
    loop: Loop
    bus: WampBus
    procedures: Procedures
    links: Sequence[Link]

    def __attrs_post_init__(self) -> None:
        for number, link in enumerate(self.links):
            self.bus.lines.append(link)
            self.procedures.serve(number, link)

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

    async def refuse(self) -> None:
        """No more calls come; those that came are answered."""
        for link in self.links:
            await link.withdraw()

    async def tell(self, reason: str) -> int:
        """Publishes the reconnect notice; how many members this node seated."""
        self.bus.notice({"node": self.node, "spread_ms": 0, "reason": reason})
        return self.procedures.seated

    async def close(self) -> int:
        """Waits for the last answers, then leaves the routers."""
        seated = self.procedures.seated
        await self.procedures.idle().wait()
        for link in self.links:
            await link.stop()
        return seated
