"""One connection to one node: requests and their answers, time-outs, notifications. It never comes back: the
client makes another. All waiting on behalf of a connection ends with it, by `Disconnected`."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping
from itertools import count
from typing import Any, Protocol

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from eftchat import __version__
from eftchat.client import frames
from eftchat.client.seams import Clock, Dial, Line, Timer
from eftchat.client.values import ChatClientError, Disconnected, Timing
from eftchat.wire import close_codes

_log = Logger("eftchat.client")


FINAL = range(4500, 5000)
"""Close codes that ask not to come back without a change."""


class Owner(Protocol):
    """Whoever made the session, the client."""

    def ready(self, session: Session) -> None:
        """`connect` was answered: ask away."""

    def notified(self, session: Session, frame: frames.Frame) -> None:
        """The node says something of its own accord. May raise BadFrame."""

    def ended(self, session: Session, reason: str, *, final: bool) -> None:
        """The session is over, and the owner did not close it. Called at most once.

        `final`: the node says not to come back.
        """

    def hung_up(self, session: Session) -> None:
        """Its line is gone for good, with every socket and timer. Called exactly once, last."""


@define(eq=False)
class _Asked:
    answer: Deferred[msgspec.Raw]
    at: float
    patience: float


@define(eq=False)
class Session:
    """See the module. `begin` it once; end it with `close`, or with `give_up` when the node is at fault."""

    clock: Clock
    owner: Owner
    timing: Timing
    url: str
    welcome: frames.Welcome | None = field(default=None, init=False)
    """What the node said to `connect`; None until then."""
    ready_at: float | None = field(default=None, init=False)
    over: bool = field(default=False, init=False)
    _line: Line | None = field(default=None, init=False)
    _hung_up: bool = field(default=False, init=False)
    _ids: Iterator[int] = field(factory=lambda: count(1), init=False)
    _asked: dict[int, _Asked] = field(factory=dict, init=False)
    _heard: float = field(default=0.0, init=False)
    _timer: Timer | None = field(default=None, init=False)
    _naps: dict[Deferred[None], Timer] = field(factory=dict, init=False)

    def begin(self, dial: Dial) -> None:
        """Dials. The handshake, up to the answer to `connect`, has its own time."""
        self._timer = self.clock.callLater(self.timing.handshake, self._too_slow)
        self._line = dial(self.url, self)

    # -- for the owner ---------------------------------------------------------------------------------

    def ask(
        self, method: str, params: Mapping[str, Any], patience: float | None = None
    ) -> Deferred[msgspec.Raw]:
        """Sends a request. The result, or ChatClientError when it is refused, Disconnected when it is not
        known.

        Requests go out in the order of these calls, at once.
        """
        answer: Deferred[msgspec.Raw] = Deferred()
        if self.over or self._line is None:
            answer.errback(Disconnected("not connected"))
            return answer
        identity = next(self._ids)
        self._asked[identity] = _Asked(answer, self.clock.seconds(), patience or self.timing.request)
        if self._timer is None:
            self._timer = self.clock.callLater(self.timing.request, self._check)
        self._line.send(frames.request(identity, method, params))
        return answer

    def sleep(self, seconds: float) -> Deferred[None]:
        """Done after so long; Disconnected when the session ends before that."""
        nap: Deferred[None] = Deferred()
        if self.over:
            nap.errback(Disconnected("not connected"))
        else:
            self._naps[nap] = self.clock.callLater(seconds, self._wake, nap)
        return nap

    def close(self) -> None:
        """Ends the session in good order; `ended` is not called."""
        if not self.over:
            self._end("closed")
            self._hang_up(politely=self.welcome is not None)

    def give_up(self, reason: str) -> None:
        """The node is dead or talks nonsense: ends the session and tells the owner, at once."""
        if not self.over:
            self._end(reason)
            self._hang_up(politely=False)
            self.owner.ended(self, reason, final=False)

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Runs the coroutine on its own, as long as the session lives. An error that escapes it ends the
        session."""
        Deferred.fromCoroutine(work).addErrback(self._failed, what)

    # -- from the line ---------------------------------------------------------------------------------

    def opened(self) -> None:
        """The line is there: says who we are."""
        if not self.over:
            self.spawn(self._connect(), "connecting")

    def received(self, payload: bytes) -> None:
        """An answer, or a notification."""
        if self.over:
            return
        try:
            frame = frames.parse(payload)
            if frame.method is None:
                self._answered(frame)
            elif self.welcome is not None:
                self.owner.notified(self, frame)
        except frames.BadFrame as error:
            self._nonsense(error)

    def lost(self, code: int | None, reason: str) -> None:
        """The line is gone."""
        self._hung_up = True
        ended = not self.over
        if ended:
            self._end(reason)
            self.owner.ended(self, reason, final=code in FINAL)
        self.owner.hung_up(self)

    # -- inside ----------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        about = {"name": "eftchat-python", "version": __version__}
        try:
            result = await self.ask("connect", {"client": about})
            self.welcome = frames.read(result, frames.Welcome)
        except Disconnected:
            return
        except ChatClientError as error:
            self._end(error.text)
            self._hang_up(politely=True)
            self.owner.ended(self, error.text, final=not error.retryable)
            return
        self._stop_timer()
        self.ready_at = self.clock.seconds()
        self.owner.ready(self)

    def _answered(self, frame: frames.Frame) -> None:
        asked = self._asked.pop(frame.id, None) if frame.id is not None else None
        if asked is None:
            raise frames.BadFrame(f"the node answered what was not asked (id {frame.id})")
        self._heard = self.clock.seconds()
        if frame.error is not None:
            asked.answer.errback(frame.error.error())
        else:
            asked.answer.callback(frame.result)

    def _failed(self, failure: Failure, what: str) -> None:
        if isinstance(failure.value, frames.BadFrame):
            self._nonsense(failure.value)
        elif not isinstance(failure.value, Disconnected):
            _log.failure("{what} failed", failure, what=what)
            self.give_up(f"{what} failed on our side")

    def _nonsense(self, error: frames.BadFrame) -> None:
        _log.warn("giving up on a node: {error}", error=error, url=self.url)
        self.give_up(str(error))

    def _too_slow(self) -> None:
        self._timer = None
        self.give_up(f"no connection within {self.timing.handshake:g} s")

    def _check(self) -> None:
        """Is a node that answers nothing dead? Looks again when the next request could have waited too
        long."""
        self._timer = None
        if not self._asked:
            return
        now = self.clock.seconds()
        due = min(max(asked.at, self._heard) + asked.patience for asked in self._asked.values())
        if due <= now:
            self.give_up("the node does not answer")
        else:
            self._timer = self.clock.callLater(min(due - now, self.timing.request), self._check)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, nap: Deferred[None]) -> None:
        del self._naps[nap]
        nap.callback(None)

    def _end(self, reason: str) -> None:
        """Nobody waits on this connection any more."""
        self.over = True
        self._stop_timer()
        asked, self._asked = self._asked, {}
        naps, self._naps = self._naps, {}
        for nap, timer in naps.items():
            timer.cancel()
            nap.errback(Disconnected(reason))
        for one in asked.values():
            one.answer.errback(Disconnected(reason))

    def _hang_up(self, *, politely: bool) -> None:
        if self._hung_up:
            return
        if self._line is None:  # never dialled
            self._hung_up = True
            self.owner.hung_up(self)
        elif politely:
            self._line.close(close_codes.BYE, "")
        else:
            self._line.abort()
