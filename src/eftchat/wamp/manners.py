"""A router's manners: before it stops, its clients are told on its own notice topic, and have time to go elsewhere.

Crossbar itself ends without a word. So whoever supervises it holds a session on it, as a node does, and says it.
"""

from __future__ import annotations

from attrs import define
from autobahn.wamp.exception import ApplicationError

from eftchat.drain import Notice, Pace, within
from eftchat.ports import Loop
from eftchat.wamp.line import LineDown
from eftchat.wamp.link import Link
from eftchat.wire import uris
from eftchat.wire.schema import shown_notice

REASON = "this router is leaving"
HEARD_WITHIN = 0.25
"""Seconds that the notice has to reach those who cannot leave sooner."""
_LOOK_EVERY = 0.1
_ANSWER_WITHIN = 1.0
_NODES = "node"
"""The role of nodes: they stay to the end."""


@define(eq=False)
class Manners:
    """Speaks for one router. `start` it when the router is ready, `take_leave` before the router is stopped."""

    name: str
    loop: Loop
    link: Link
    pace: Pace = Pace()

    def start(self) -> None:
        """Takes a session, now and whenever it is lost."""
        self.link.start()

    async def take_leave(self, grace: float) -> int:
        """Tells the clients, waits until they have gone or had their time, and takes its session off the router.

        Within `grace` seconds. How many were told: those that the router had; none when it does not answer.
        """
        told = await within(self.loop, self._see_off(grace), 0.8 * grace) or 0
        await within(self.loop, self.link.stop(), 0.2 * grace)
        return told

    async def _see_off(self, grace: float) -> int:
        told = await self._clients()
        notice = Notice(REASON, self.pace.window(told, grace))
        if not self.link.publish(uris.NOTICE_RECONNECT, shown_notice("router", self.name, notice)):
            return 0
        until = self.loop.seconds() + min(notice.window + max(HEARD_WITHIN, self.pace.linger), 0.7 * grace)
        here = told
        while here and self.loop.seconds() < until:
            await self.loop.sleep(_LOOK_EVERY)
            here = await self._clients()
        return told

    async def _clients(self) -> int:
        """How many sessions the router has that are no nodes'; 0 when it does not say."""
        return await within(self.loop, self._count(), _ANSWER_WITHIN) or 0

    async def _count(self) -> int:
        try:
            everyone = await self.link.call(uris.SESSION_COUNT)
            return int(everyone) - int(await self.link.call(uris.SESSION_COUNT, [_NODES]))
        except (LineDown, ApplicationError):
            return 0
