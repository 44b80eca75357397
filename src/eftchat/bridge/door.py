"""The websocket door as the drain sees it: refuse newcomers, tell those inside, close."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from eftchat.bridge.protocol import Conversations
from eftchat.bridge.v2 import V2Conversation, notification
from eftchat.ports import CannotStart, Loop

CLOSE_TIMEOUT = 2.0


@define(eq=False)
class WebDoor:
    """A listening port with the conversations behind it."""

    reactor: Any
    conversations: Conversations
    loop: Loop
    site: Any
    host: str
    port: int
    _listening: Any = field(default=None, init=False)

    def open(self) -> int:
        """Listens; the number of the port (of interest when it was 0). Raises PortTaken."""
        try:
            self._listening = self.reactor.listenTCP(self.port, self.site, interface=self.host, backlog=1024)
        except CannotListenError as error:
            why = f"{self.host}:{self.port} cannot be listened on ({error.socketError.strerror})"
            raise PortTaken(f"{why}: choose another with --port or --host") from None
        return int(self._listening.getHost().port)

    async def refuse(self) -> None:
        """No new connections."""
        if self._listening is not None:
            stopped = self._listening.stopListening()
            self._listening = None
            if isinstance(stopped, Deferred):
                await stopped

    async def tell(self, reason: str) -> int:
        """Sends v2 clients the reconnect notice; v1 clients would only get confused by one."""
        told = 0
        for socket in list(self.conversations.open):
            if isinstance(socket.conversation, V2Conversation):
                socket.write(notification("reconnect", {"after_ms": 0, "reason": reason}))
                told += 1
        return told

    async def close(self) -> int:
        """Closes every websocket with 1012 and waits, not for long, until they are gone."""
        closed = self.conversations.send_away()
        until = self.loop.seconds() + CLOSE_TIMEOUT
        while self.conversations.open and self.loop.seconds() < until:
            await self.loop.sleep(0.02)
        for socket in list(self.conversations.open):
            socket.transport.abortConnection()
        return closed


class PortTaken(CannotStart):
    """The port cannot be listened on; the text says why."""
