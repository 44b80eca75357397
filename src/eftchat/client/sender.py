"""The way out of a room: posts what is in the outbox on whatever connection the room stands."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from attrs import define, field

from eftchat.client import frames
from eftchat.client.outbox import Outbox, Sending, new_uuid
from eftchat.client.session import Session
from eftchat.client.values import ChatClientError, Disconnected, Posted, Timing
from eftchat.domain import names
from eftchat.domain.errors import ChatError

OUTBOX_MAX = 10_000
"""Messages that may wait in a room's outbox."""
ELSEWHERE = "draining"
"""The refusal of a node that is leaving."""
UNSEATED = frozenset({"not_joined", "not_connected"})
"""The refusals of a node that does not know us in the room."""


@define(eq=False)
class Sender:
    """One room's posts. `go` on each connection, `halt` when it is gone; what is not acknowledged goes out
    again."""

    rng: Random
    timing: Timing
    progressed: Callable[[Posted | None], None]
    """Called when the fate of a post is known: Posted, or None when it was refused."""
    unseated: Callable[[Session], None]
    """Called when the node says that we are not in the room."""
    outbox: Outbox = field(factory=Outbox, init=False)
    _session: Session | None = field(default=None, init=False)
    _room: str = field(default="", init=False)
    _refusals: int = field(default=0, init=False)
    _pausing: Session | None = field(default=None, init=False)

    def post(self, text: str, uuid: str | None) -> Sending:
        """See `Room.post`."""
        given = new_uuid(self.rng) if uuid is None else uuid
        known = self.outbox.get(given)
        if known is not None:
            return known
        sending = Sending(given, text)
        try:
            names.uuid(given, "uuid")
        except ChatError as error:
            sending.fail(ChatClientError.of(error))
            return sending
        if len(self.outbox) >= OUTBOX_MAX:
            sending.fail(ChatClientError("outbox_full", "Too many messages wait to be sent", retryable=True))
            return sending
        self.outbox.add(sending)
        self._pump()
        return sending

    def go(self, session: Session, room: str) -> None:
        """The room stands here now: everything that is not acknowledged goes out, in order."""
        self._session, self._room = session, room
        self.outbox.rewind()
        self._pump()

    def halt(self) -> None:
        """The room stands nowhere."""
        self._session = None

    def _pump(self) -> None:
        """Sends what may be sent. What no node can take fails here: on the wire it would cost the
        connection."""
        session = self._session
        while session is not None and session is self._session:
            due = self.outbox.take()
            if not due:
                return
            for sending in due:
                error = _unfit(sending.text, session)
                if error is None:
                    session.spawn(self._send(session, sending), "posting")
                else:
                    self._fail(sending, error)

    async def _send(self, session: Session, sending: Sending) -> None:
        body = {"room": self._room, "uuid": sending.uuid, "kind": "text", "body": {"text": sending.text}}
        try:
            answer = await session.ask("post", body, self.timing.post)
        except Disconnected:
            return  # the next connection sends it again
        except ChatClientError as error:
            if session is not self._session:
                return  # it went out again elsewhere, and is answered there
            self._refused(session, sending, error)
        else:
            stored = frames.read(answer, frames.PostStored)
            self._refusals = 0
            self._acknowledge(Posted(sending.uuid, stored.seq, stored.at, stored.repeated))
        if session is self._session:
            self._pump()
            self._pause_when_quiet(session)

    def _refused(self, session: Session, sending: Sending, error: ChatClientError) -> None:
        if error.reason == ELSEWHERE:
            session.give_up(error.text)
        elif error.retryable or error.reason in UNSEATED:
            self.outbox.refuse(sending.uuid, error)
        else:
            self._fail(sending, error)

    def _pause_when_quiet(self, session: Session) -> None:
        if self.outbox.quiet and self._pausing is not session:
            self._pausing = session
            session.spawn(self._pause(session), "posting again")

    async def _pause(self, session: Session) -> None:
        """Waits, and lets everything that was refused go out again, in order."""
        errors = self.outbox.refusals()
        try:
            asked = max(error.retry_after for error in errors)
            await session.sleep(self.timing.delay(self._refusals, self.rng, asked))
            self._refusals += 1
        finally:
            if self._pausing is session:
                self._pausing = None
        if session is not self._session:
            return
        if any(error.reason in UNSEATED for error in errors):
            self.unseated(session)
        else:
            self.go(session, self._room)

    def _acknowledge(self, posted: Posted) -> None:
        sending = self.outbox.acknowledge(posted.uuid)
        if sending is not None:
            self.progressed(posted)
            sending.succeed(posted)

    def _fail(self, sending: Sending, error: ChatClientError) -> None:
        self.outbox.remove(sending.uuid)
        self.progressed(None)
        sending.fail(error)


def _unfit(text: str, session: Session) -> ChatClientError | None:
    """Why no node would take the text; None when one may."""
    limit = session.welcome.limits.text if session.welcome is not None else 0
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return ChatClientError("bad_params", "This is no text: it has lone surrogates")
    if 0 < size <= limit:
        return None
    return ChatClientError("bad_params", f"A message has 1 to {limit} bytes, this one {size}")
