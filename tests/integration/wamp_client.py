"""A WAMP client as our examples teach it: subscribe first, then `since`; seq decides; retry under the same uuid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from attrs import define, field
from autobahn.twisted.component import Component
from autobahn.wamp.exception import ApplicationError, Error
from twisted.internet.defer import Deferred, TimeoutError

from eftchat.domain.timeline import judge


@define(eq=False)
class WampClient:
    """Joins one room and keeps up with it, through any number of restarts of router and node."""

    reactor: Any
    url: str | Sequence[str]
    """Of a router, or of several, tried in turn."""
    room: str
    user: str
    name: str
    received: list[tuple[int, str]] = field(factory=list, init=False)
    """(seq, uuid), each once, in order."""
    joined: Deferred[None] = field(factory=Deferred, init=False)
    _component: Any = field(default=None, init=False)
    _session: Any = field(default=None, init=False)
    _filling: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        urls = [self.url] if isinstance(self.url, str) else self.url
        common = {"type": "websocket", "serializers": ["cbor"], "max_retries": -1}
        delays = {"initial_retry_delay": 0.3, "max_retry_delay": 2.0}
        self._component = Component(
            transports=[{**common, **delays, "url": url} for url in urls], realm="eftchat"
        )
        self._component.on("join", self._on_join)
        self._component.on("leave", self._on_leave)
        self._component.start(self.reactor).addErrback(lambda _: None)

    def stop(self) -> None:
        self._stopped = True
        if self._component is not None:
            self._component.stop().addErrback(lambda _: None)

    def _on_join(self, session: Any, details: Any) -> Any:
        return Deferred.fromCoroutine(self._enter(session))

    def _on_leave(self, session: Any, details: Any) -> None:
        if self._session is session:
            self._session = None

    async def _enter(self, session: Any) -> None:
        """Subscribes, joins (the node may not be there yet), and reads what it lacks."""
        while session.is_attached() and not self._stopped:
            try:
                joined = await self._call(session, "join", name=self.name, user=self.user)
                await session.subscribe(self._on_messages, joined["topics"]["messages"])
                self._session = session
                await self._fill()
            except (Error, TimeoutError):
                await self._pause()
                continue
            if not self.joined.called:
                self.joined.callback(None)
            return

    def _on_messages(self, room: str, epoch: str, messages: list[dict[str, Any]]) -> Any:
        verdict, repeats = judge(len(self.received), messages[0]["seq"], messages[-1]["seq"])
        if verdict == "refill":
            return Deferred.fromCoroutine(self._fill())
        if verdict == "deliver":
            self._take(messages[repeats:])
        return None

    def _take(self, messages: list[dict[str, Any]]) -> None:
        self.received += [(message["seq"], message["uuid"]) for message in messages]

    async def _fill(self) -> None:
        """Reads the log from where this client is to its head."""
        if self._filling:
            return
        self._filling = True
        try:
            while self._session is not None:
                head = len(self.received)
                page = await self._call(self._session, "since", seq=head, limit=200)
                fresh = [message for message in page["messages"] if message["seq"] > len(self.received)]
                self._take(fresh)
                if len(self.received) >= page["head"]:
                    return
        finally:
            self._filling = False

    async def catch_up(self) -> None:
        """A look at the head, in case the last event was lost."""
        try:
            await self._fill()
        except (Error, TimeoutError):
            pass

    async def send(self, text: str) -> str:
        """Sends until it is acknowledged; the uuid."""
        uuid = str(uuid4())
        while not self._stopped:
            session = self._session
            try:
                if session is not None:
                    await self._call(session, "post", uuid=uuid, kind="text", body={"text": text})
                    return uuid
            except ApplicationError as error:
                if error.error == "eftchat.error.not_joined" and session is self._session:
                    self._session = None
                    Deferred.fromCoroutine(self._enter(session))
            except (Error, TimeoutError):
                pass
            await self._pause()
        return uuid

    def _call(self, session: Any, method: str, **given: Any) -> Deferred[Any]:
        """The answer, or TimeoutError: Autobahn forgets calls that are made while the transport goes away."""
        answered: Deferred[Any] = Deferred()
        call = session.call(f"eftchat.api.{method}", room=self.room, **given)
        call.addBoth(lambda result: None if answered.called else answered.callback(result))
        return answered.addTimeout(5, self.reactor)

    def _pause(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.reactor.callLater(0.3, done.callback, None)
        return done
