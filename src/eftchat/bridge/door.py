"""The websocket door as the drain sees it: refuse newcomers, tell those inside, see them off, close."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from eftchat.bridge.farewell import Farewell
from eftchat.bridge.protocol import Conversations
from eftchat.drain import Notice, Parting
from eftchat.ports import CannotStart


@define(eq=False)
class WebDoor:
    """A listening port with the conversations behind it; see `drain.Door`."""

    reactor: Any
    conversations: Conversations
    site: Any
    host: str
    port: int
    farewell: Farewell
    _listening: Any = field(default=None, init=False)

    def open(self) -> int:
        """Listens; the number of the port (of interest when it was 0). Raises PortTaken."""
        try:
            self._listening = self.reactor.listenTCP(self.port, self.site, interface=self.host, backlog=1024)
        except CannotListenError as error:
            why = f"{self.host}:{self.port} cannot be listened on ({error.socketError.strerror})"
            raise PortTaken(f"{why}: choose another with --port or --host") from None
        return int(self._listening.getHost().port)

    @property
    def inside(self) -> int:
        """How many websockets are open."""
        return len(self.conversations.open)

    async def refuse(self) -> None:
        """No new connections. A connection that is open already may still ask whether the node is ready."""
        if self._listening is not None:
            stopped = self._listening.stopListening()
            self._listening = None
            if isinstance(stopped, Deferred):
                await stopped

    async def tell(self, notice: Notice) -> int:
        """Sends v2 clients their slots; v1 clients would only get confused."""
        return self.farewell.tell(notice)

    async def see_off(self) -> None:
        """See `Farewell`."""
        await self.farewell.see_off()

    async def close(self, seconds: float) -> Parting:
        """Closes every websocket with 1012, and cuts those that are still there after so many seconds."""
        return await self.farewell.close(seconds)

    async def leave(self) -> None:
        """It needs nobody."""


class PortTaken(CannotStart):
    """The port cannot be listened on; the text says why."""
