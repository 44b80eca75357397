"""One node's session on one router, for ever: lost and made again, with all that lives on it.

*Theory of operation.* A `Component` is started for each connection and not used again: so the delays between
tries have full jitter and come from the node's own randomness, and one that was stopped need not be started
again, which Component cannot. What the bus and the procedures want (see `line.Line`) is kept as wishes; each
connection is a `Visit`, which holds what was got of them and is forgotten when it ends. After a join all that
is wanted is made true: first the router's meta events and what nodes tell each other are subscribed, so that
no caller can leave unseen; then the procedures are registered; then rooms are subscribed, each of which tells
its listener to look for what it may have missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any

import attrs
import txaio
from attrs import define, field
from autobahn.wamp.exception import ApplicationError, TransportLost
from autobahn.wamp.types import ComponentConfig, PublishOptions
from twisted.logger import Logger

from eftchat.domain.backoff import full_jitter
from eftchat.ports import Loop, Promise, Timer
from eftchat.wamp.line import Effective, Endpoint, Heard, LineDown, State, nothing
from eftchat.wamp.session import Dial, NodeSession, QuietComponent
from eftchat.wamp.visit import LEAVE_WITHIN, Topic, Visit, Wishes
from eftchat.wire import uris

PING = 2.0
"""Seconds between pings, and for how long the answer may take."""
JOIN_WITHIN = 15.0
STEADY_AFTER = 5.0
"""Seconds after which a session counts as one that works: the next try after its end comes soon."""

_OPTIONS = {
    "autoPingInterval": PING,
    "autoPingTimeout": PING,
    "openHandshakeTimeout": 5.0,
    "closeHandshakeTimeout": 2.0,
    "serverConnectionDropTimeout": 1.0,
    "tcpNoDelay": True,
}
_DENIALS = frozenset(
    {
        "wamp.error.authentication_failed",
        "wamp.error.authorization_failed",
        "wamp.error.no_auth_method",
        "wamp.error.no_such_principal",
        "wamp.error.not_authorized",
    }
)


class RouterDenied(Exception):
    """The router does not accept this node's ticket; to try again would not help. The text says which."""


@attrs.frozen
class RouterAddress:
    """Where a router is, and who this node is to it."""

    url: str
    ticket: str = field(repr=False)
    authid: str = "node"
    realm: str = uris.REALM


def _ignore(denied: RouterDenied) -> None:
    """The link stops, nothing else."""


@define(eq=False)
class Link:
    """The session of a node on one router; implements `line.Line`. Start it once, stop it once.

    `on_denied` is told when the router refuses the ticket before it ever accepted it; the link stops then.
    Later refusals count as any other failure: the router may be half configured at the moment.
    """

    reactor: Any
    loop: Loop
    rng: Random = field(repr=False)
    address: RouterAddress
    on_denied: Callable[[RouterDenied], None] = _ignore
    forged: int = field(default=0, init=False)
    """Calls and events that carried a forged identity."""

    _log: Logger = field(factory=lambda: Logger("eftchat.wamp.link"), init=False, repr=False)
    _wishes: Wishes = field(factory=Wishes, init=False, repr=False)
    _observers: list[Callable[[State], None]] = field(factory=list, init=False, repr=False)
    _visit: Visit | None = field(default=None, init=False, repr=False)
    _state: State = field(default="stopped", init=False)
    _accepted: bool = field(default=False, init=False)
    _leaving: bool = field(default=False, init=False)
    """The router said that it leaves."""
    _troubled: bool = field(default=False, init=False)
    """The log says already that the router is away."""
    _stopping: bool = field(default=False, init=False)
    _running: bool = field(default=False, init=False)
    _waiters: list[Promise[None]] = field(factory=list, init=False, repr=False)
    _pause: tuple[Timer, Promise[None]] | None = field(default=None, init=False, repr=False)

    # -- life ------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """How it does; "stopped" also before the start."""
        return self._state

    def start(self) -> None:
        """Connects, now and whenever the session is lost, until `stop`. Raises ValueError for no such URL."""
        if self._running or self._stopping:
            raise RuntimeError("a Link is started once")
        Dial.to(self.reactor, self.address.url)
        self._running, self._state = True, "down"
        self.loop.spawn(self._run(), "the link to a router")

    async def withdraw(self) -> None:
        """Serves no more calls: routers send them to other nodes. What was called is still answered."""
        self._wishes.withdrawn = True
        if self._visit is not None:
            await self._visit.withdraw()

    async def stop(self) -> None:
        """Withdraws, leaves the realm and closes; done when nothing is left of the session."""
        first, self._stopping = not self._stopping, True
        if not self._running:
            return
        waiter: Promise[None] = self.loop.promise()
        self._waiters.append(waiter)
        if first:
            self.loop.spawn(self._leave(), "leaving a router")
        await waiter.wait()

    async def _leave(self) -> None:
        await self.withdraw()
        if self._pause is not None:
            timer, over = self._pause
            timer.cancel()
            over.resolve(None)
        visit = self._visit
        if visit is None:
            return
        if visit.session is None:
            visit.dial.hang_up()
            return
        try:
            visit.session.leave()
        except TransportLost:  # it is closing at this very moment
            visit.dial.hang_up()
        overdue = self.loop.call_later(LEAVE_WITHIN, visit.dial.hang_up)
        await visit.over.wait()
        overdue.cancel()

    async def _run(self) -> None:
        tries = 0
        while not self._stopping:
            url = self.address.url
            dial, over = Dial.to(self.reactor, url), self.loop.promise()
            visit = self._visit = Visit(url, self.reactor, self._wishes, dial, over)
            await self._attend(visit)
            self._visit = None
            if self._stopping or self._denied(visit):
                break
            self._tell("down", visit.reason)
            steady = visit.joined_at is not None and self.loop.seconds() - visit.joined_at >= STEADY_AFTER
            tries = 0 if steady else tries + 1
            await self._wait(full_jitter(tries, self.rng, base=0.1, cap=5.0))
        self._running = False
        self._tell("stopped", "")
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.resolve(None)

    async def _wait(self, delay: float) -> None:
        over: Promise[None] = self.loop.promise()
        self._pause = self.loop.call_later(delay, lambda: over.resolve(None)), over
        await over.wait()
        self._pause = None

    def _denied(self, visit: Visit) -> bool:
        if self._accepted or visit.reason not in _DENIALS:
            return False
        self._stopping = True
        text = f"The router at {self.address.url} refuses this node's ticket ({visit.reason})"
        self.on_denied(RouterDenied(text))
        return True

    def _tell(self, state: State, why: str) -> None:
        url = self.address.url
        if state == "up":
            self._log.info("the router at {url} is there", url=url)
        elif state == "down" and self._leaving:
            self._log.info("the router at {url} has left; trying until it is back", url=url)
        elif state == "down" and not self._troubled:
            self._log.warn("the router at {url} is away ({why}); trying until it is back", url=url, why=why)
        self._troubled, self._leaving = state == "down", False
        if state != self._state:
            self._state = state
            for told in self._observers:
                told(state)

    # -- one connection --------------------------------------------------------------------------------

    async def _attend(self, visit: Visit) -> None:
        """From the dialling until the transport is gone; never raises."""
        component = self._component(visit)
        txaio.config.loop = self.reactor  # type: ignore[attr-defined]  # where Autobahn's own timers run
        overdue = self.loop.call_later(JOIN_WITHIN, lambda: self._overdue(visit))
        try:
            await component.start(self.reactor)
        except Exception as error:
            visit.reason = visit.reason or str(error)
        overdue.cancel()
        visit.session = None
        if visit.opened:
            overdue = self.loop.call_later(LEAVE_WITHIN, visit.dial.hang_up)
            await visit.over.wait()
            overdue.cancel()

    def _component(self, visit: Visit) -> Any:
        address = self.address

        def made(config: ComponentConfig) -> NodeSession:
            visit.opened = True
            return NodeSession(config, self._forged)

        make: Any = QuietComponent  # not typed
        component = make(
            transports={
                "type": "websocket",
                "url": address.url,
                "endpoint": visit.dial,
                "serializers": ["cbor"],
                "options": _OPTIONS,
                "max_retries": 0,
            },
            realm=address.realm,
            authentication={"ticket": {"authid": address.authid, "ticket": address.ticket}},
            session_factory=made,
        )
        component.on("connectfailure", partial(self._failed, visit))
        component.on("join", partial(self._joined, visit))
        component.on("leave", partial(self._left, visit))
        component.on("disconnect", partial(self._gone, visit))
        return component

    def _overdue(self, visit: Visit) -> None:
        if visit.joined_at is None:
            visit.reason = "it does not answer"
            visit.dial.hang_up()

    def _failed(self, visit: Visit, component: object, error: Exception) -> None:
        uri = error.error if isinstance(error, ApplicationError) else str(error)
        visit.reason = visit.reason or uri

    def _joined(self, visit: Visit, session: NodeSession, details: object) -> None:
        visit.session, visit.joined_at = session, self.loop.seconds()
        self._accepted = True
        self.loop.spawn(self._restored(visit), "restoring a session")

    def _left(self, visit: Visit, session: NodeSession, details: Any) -> None:
        visit.session, visit.reason = None, visit.reason or details.reason

    def _gone(self, visit: Visit, session: NodeSession, was_clean: bool) -> None:
        visit.session = None
        visit.over.resolve(None)

    async def _restored(self, visit: Visit) -> None:
        """Restores; a session on which that fails is given up for a new one."""
        try:
            await self._restore(visit)
        except Exception:
            visit.dial.hang_up()
            raise

    async def _restore(self, visit: Visit) -> None:
        """Makes true what is wanted, in the order that the module's docstring tells."""
        rooms = uris.TOPICS_OF_ROOMS
        await visit.settle_all([topic for topic in self._wishes.topics if not topic.startswith(rooms)])
        await visit.register_all()
        if visit.session is None:
            return
        self._tell("up", "")
        await visit.settle_all(list(self._wishes.topics))

    def _forged(self, session: object) -> None:
        self.forged += 1
        if self.forged & (self.forged - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a flood shall not fill the log
            text = "refused what came with a forged identity from session {session}, {count} so far"
            self._log.warn(text, session=session, count=self.forged)

    # -- wishes ----------------------------------------------------------------------------------------

    def on_state(self, told: Callable[[State], None]) -> None:
        """See `line.Line`; `told` must not raise."""
        self._observers.append(told)

    def listen(self, topic: str, heard: Heard, effective: Effective = nothing) -> None:
        """See `line.Line`."""
        self._wishes.topics[topic] = Topic(heard, effective)
        self._settle_soon(topic)

    def unlisten(self, topic: str) -> None:
        """See `line.Line`."""
        self._wishes.topics.pop(topic, None)
        self._settle_soon(topic)

    def serve(self, procedure: str, endpoint: Endpoint) -> None:
        """See `line.Line`."""
        self._wishes.procedures[procedure] = endpoint

    def publish(self, topic: str, payload: Mapping[str, Any], but: int | None = None) -> bool:
        """See `line.Line`."""
        session = None if self._visit is None else self._visit.session
        if session is None:
            return False
        try:
            session.publish(topic, options=PublishOptions(exclude=but), **payload)
        except TransportLost:
            return False
        except Exception:  # a store's writer stands behind this: it must go on
            self._log.failure("an event could not be published")
            return False
        return True

    def forewarned(self) -> None:
        """The router says that it leaves. All stands until it does; its end is then no trouble to tell of."""
        if not self._leaving:
            self._leaving = True
            self._log.info("the router at {url} is leaving", url=self.address.url)

    async def call(self, procedure: str, *args: Any) -> Any:
        """See `line.Line`."""
        visit = self._visit
        session = None if visit is None else visit.session
        if visit is None or session is None:
            raise LineDown
        try:
            return await session.call(procedure, *args)
        except (ApplicationError, TransportLost) as error:
            if visit.session is None:
                raise LineDown from error
            raise

    def _settle_soon(self, topic: str) -> None:
        visit = self._visit
        if visit is not None and self._state == "up":
            self.loop.spawn(visit.settle(topic), "subscribing")
