"""The way into a room: hands every message to the user once, in order, and reads what a node left out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random

from attrs import define, field
from twisted.logger import Logger

from eftchat.client.intake import Intake
from eftchat.client.session import Session
from eftchat.client.values import ChatClientError, Disconnected, Message, Page, Timing

EMPTY_PAGES = 6
"""After so many pages that bring nothing of what the node itself announced, another node may know better."""

_log = Logger("eftchat.client")


@define(eq=False)
class Reader:
    """One room's reading. `go` on each connection, `halt` when it is gone, `stop` for ever."""

    rng: Random
    timing: Timing
    page: Callable[[Session, int], Awaitable[Page]]
    """Reads the room's log behind a seq."""
    on_message: Callable[[Message], object] | None
    progressed: Callable[[], None]
    """Called when a batch was delivered."""
    missed: Callable[[int], None]
    """Called when so many messages are no longer in the log; the intake stands behind them."""
    intake: Intake = field(factory=Intake, init=False)
    reach: int = field(default=0, init=False)
    """The log is known to reach so far: the room's head at the last join, or a post of ours."""
    _session: Session | None = field(default=None, init=False)
    _filling: Session | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def caught_up(self) -> bool:
        """Whether everything up to `reach` was delivered."""
        return self.intake.head >= self.reach

    def go(self, session: Session) -> None:
        """The room stands here now."""
        self._session = session
        self._fill()

    def halt(self) -> None:
        """The room stands nowhere."""
        self._session = None

    def stop(self) -> None:
        """Nothing more is delivered, not even the rest of a batch."""
        self._session = None
        self._stopped = True

    def received(self, messages: Sequence[Message]) -> None:
        """A node delivers a dense batch of the intake's log."""
        self._deliver(messages)
        self._fill()

    def _deliver(self, messages: Sequence[Message]) -> None:
        for message in self.intake.offer(messages):
            if self._stopped:
                return
            self.intake.took(message)
            if self.on_message is not None:
                try:
                    self.on_message(message)
                except Exception:
                    _log.failure("on_message failed")
        self.progressed()

    def _fill(self) -> None:
        session = self._session
        if session is not None and self.intake.hole and self._filling is not session:
            self._filling = session
            session.spawn(self._read_hole(session), "reading a hole")

    async def _read_hole(self, session: Session) -> None:
        """Reads the log from where we stand, until nothing known is missing."""
        attempt = 0
        try:
            while self.intake.hole and self._session is session:
                before = self.intake.head
                wait = await self._read_page(session)
                attempt = 0 if self.intake.head > before else attempt + 1
                if attempt >= EMPTY_PAGES:
                    session.give_up("the node cannot find what it announced")
                elif attempt:
                    await session.sleep(self.timing.delay(attempt, self.rng, wait))
        finally:
            if self._filling is session:
                self._filling = None

    async def _read_page(self, session: Session) -> float:
        """Delivers the next page; returns how long (seconds) the node asks us to wait when it refuses."""
        try:
            page = await self.page(session, self.intake.head)
        except Disconnected:
            raise
        except ChatClientError as error:
            return error.retry_after
        if self._session is session and page.epoch == self.intake.epoch:
            self._skip(page)
            self._deliver(page.messages)
        return 0.0

    def _skip(self, page: Page) -> None:
        """Where the log itself begins behind where we stand, what is before it is gone, and we say so."""
        intake = self.intake
        gone = page.messages[0].seq - 1 - intake.head if page.messages else 0
        if gone > 0:
            target = intake.target
            intake.begin(page.epoch, page.messages[0].seq - 1)
            intake.resume(target)
            self.missed(gone)
