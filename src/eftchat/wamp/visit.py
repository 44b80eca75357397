"""One connection to a router, and what is held through it: subscriptions and registrations end with it.

Invariant: per topic at most one request is on its way (`_settling`), and whoever holds that turn goes on
until what is held is what is wanted.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, field
from autobahn.wamp.exception import ApplicationError, TransportLost
from autobahn.wamp.types import RegisterOptions
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from eftchat.ports import Promise
from eftchat.wamp.line import Call, Effective, Endpoint, Heard
from eftchat.wamp.session import Dial, NodeSession

LEAVE_WITHIN = 3.0
"""Seconds that a router may take to let go."""
AT_ONCE = 100
"""Subscriptions asked for at a time: a node with many rooms shall not drown its pings."""


@define(eq=False)
class Topic:
    """Who hears a topic, and who is told when that begins to hold."""

    heard: Heard
    effective: Effective


@define(eq=False)
class Wishes:
    """What shall hold on every connection to the router."""

    topics: dict[str, Topic] = field(factory=dict)
    procedures: dict[str, Endpoint] = field(factory=dict)
    withdrawn: bool = False
    """The procedures shall not be served any more."""


@define(eq=False)
class Visit:
    """From the dialling to the end of the transport. `session` is set while the realm is joined."""

    url: str
    reactor: Any
    wishes: Wishes
    dial: Dial
    over: Promise[None]
    """Kept when the transport is gone, if it was ever `opened`."""
    opened: bool = False
    session: NodeSession | None = None
    joined_at: float | None = None
    reason: str = ""
    """Why it ended, or did not begin."""
    subscriptions: dict[str, Any] = field(factory=dict)
    _settling: set[str] = field(factory=set, init=False)
    _registrations: list[Any] = field(factory=list, init=False)
    _log: Logger = field(factory=lambda: Logger("eftchat.wamp.link"), init=False)

    # -- topics ----------------------------------------------------------------------------------------

    async def settle_all(self, topics: Sequence[str]) -> None:
        """Settles them, some at a time."""
        for start in range(0, len(topics), AT_ONCE):
            await together(self.settle(topic) for topic in topics[start : start + AT_ONCE])

    async def settle(self, topic: str) -> None:
        """Subscribes or unsubscribes until what is held is what is wanted; logs what the router refuses."""
        if topic in self._settling:
            return
        self._settling.add(topic)
        try:
            while self.session is not None and (topic in self.wishes.topics) != (topic in self.subscriptions):
                await self._step(self.session, topic)
        except (ApplicationError, TransportLost) as error:
            self._complain(f"subscribe {topic}", error)
        finally:
            self._settling.discard(topic)

    async def _step(self, session: NodeSession, topic: str) -> None:
        if topic not in self.wishes.topics:
            await self.subscriptions.pop(topic).unsubscribe()
            return
        subscription: Any = await session.subscribe(partial(self._heard, topic), topic)
        self.subscriptions[topic] = subscription
        wanted = self.wishes.topics.get(topic)
        if wanted is not None:
            wanted.effective(subscription.id)

    def _heard(self, topic: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        wanted = self.wishes.topics.get(topic)
        if wanted is not None:
            wanted.heard(args, kwargs)

    # -- procedures ------------------------------------------------------------------------------------

    async def register_all(self) -> None:
        """Serves what shall be served."""
        if not self.wishes.withdrawn:
            await together(self._register(*served) for served in self.wishes.procedures.items())
        if self.wishes.withdrawn:  # perhaps only since then
            await self.withdraw()

    async def withdraw(self) -> None:
        """Serves nothing any more; calls that came are still answered."""
        held, self._registrations = self._registrations, []
        if self.session is not None:
            await together(self._let_go(registration) for registration in held)

    async def _register(self, procedure: str, endpoint: Endpoint) -> None:
        if self.session is None:
            return
        options = RegisterOptions(invoke="roundrobin", details=True)
        try:
            answer = partial(self._answer, endpoint)
            self._registrations.append(await self.session.register(answer, procedure, options))
        except (ApplicationError, TransportLost) as error:
            self._complain(f"register {procedure}", error)

    async def _let_go(self, registration: Any) -> None:
        try:
            await registration.unregister().addTimeout(LEAVE_WITHIN, self.reactor)
        except (ApplicationError, TransportLost, TimeoutError) as error:
            self._complain(f"unregister {registration.procedure}", error)

    def _answer(
        self, endpoint: Endpoint, args: Sequence[Any], kwargs: Mapping[str, Any], details: Any
    ) -> Deferred[object]:
        """The answer of an endpoint; a caller that gives up gets its own, the endpoint is not interrupted."""
        answer: Deferred[object] = Deferred()

        def failed(failure: Failure) -> None:
            if self.session is None:
                answer.callback(None)  # nobody is there to hear an error; Autobahn would stumble over that
            else:
                answer.errback(failure)

        work = Deferred.fromCoroutine(endpoint(Call(details.caller, details.caller_authid, args, kwargs)))
        work.addCallbacks(answer.callback, failed)
        return answer.addErrback(_canceled)

    def _complain(self, what: str, error: Exception) -> None:
        """A refusal by the router is worth a line; that the session ended is told elsewhere."""
        if self.session is not None:
            text = "the router at {url} refuses to {what}: {why}"
            self._log.error(text, url=self.url, what=what, why=str(error))


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of it, at once."""
    await gatherResults([Deferred.fromCoroutine(part) for part in work], consumeErrors=True)


def _canceled(failure: Failure) -> object:
    failure.trap(CancelledError)
    raise ApplicationError(ApplicationError.CANCELED)
