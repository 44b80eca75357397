"""One room as its member sees it.

A room outlives connections. The client hands it each new one by `attach`; there the room joins with its
cursor, posts what is not acknowledged (`sender`) and reads on (`reader`). It may stand on one connection
while it joins on the next; both may deliver, each message is taken once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from eftchat.client import frames
from eftchat.client.outbox import Sending
from eftchat.client.reader import Reader
from eftchat.client.sender import ELSEWHERE, Sender
from eftchat.client.session import Session
from eftchat.client.values import (
    ChatClientError,
    Closed,
    Disconnected,
    Entered,
    Event,
    Joined,
    Left,
    Message,
    Page,
    Posted,
    Reset,
    Suspended,
    Timing,
    Typing,
)
from eftchat.client.waiters import Waiters
from eftchat.domain.messages import Cursor, Member, Tail

PAGE = 200
Presence = frames.PresenceChange | frames.Roster | frames.TypingChange
PRESENCE: Mapping[str, type[Presence]] = {
    "entered": frames.PresenceChange,
    "left": frames.PresenceChange,
    "typing": frames.TypingChange,
    "members": frames.Roster,
}
"""Which notifications tell who is in a room, and their params."""

_log = Logger("eftchat.client")


class Home(Protocol):
    """What a room needs of its client."""

    @property
    def rng(self) -> Random: ...

    @property
    def timing(self) -> Timing: ...

    def settled(self, room: Room) -> None:
        """The room stands where it was to stand, or is over."""


@define(eq=False)
class Room:
    """A room that we are in, or on the way back into. Made by `ChatClient.join`."""

    home: Home
    name: str
    """As the room is spelled."""
    member: Member
    """Who we are here."""
    start: Cursor | Tail
    on_message: Callable[[Message], object] | None = None
    on_event: Callable[[Event], object] | None = None
    key: str = field(default="", init=False)
    """The room's unguessable name in topics."""
    members: Sequence[Member] = field(default=(), init=False)
    """Who is here, as of the last that we heard."""
    closed: ChatClientError | None = field(default=None, init=False)
    """Why the room is over; None while it is not."""
    session: Session | None = field(default=None, init=False)
    """Where the room stands."""
    heading: Session | None = field(default=None, init=False)
    """Where it is to stand."""
    _sender: Sender = field(init=False)
    _reader: Reader = field(init=False)
    _moments: Waiters = field(factory=Waiters, init=False)
    """Released whenever something changed that somebody may wait for."""
    _been_in: bool = field(default=False, init=False)
    _taken_since: float | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        rng, timing = self.home.rng, self.home.timing
        self._sender = Sender(rng, timing, self._answered, self._unseated)
        self._reader = Reader(
            rng, timing, self._page_behind, self.on_message, self._moments.release, self._missed
        )

    # -- for the user ----------------------------------------------------------------------------------

    @property
    def position(self) -> Cursor:
        """How far messages were delivered: join with it as `after` to go on from there."""
        return Cursor(self._reader.intake.epoch, self._reader.intake.head)

    @property
    def pending(self) -> int:
        """How many posts are not known to be durable."""
        return len(self._sender.outbox)

    def post(self, text: str, uuid: str | None = None) -> Sending:
        """Puts a text message on its way, at once. Await what is returned to know that it is durable.

        It survives any number of reconnects, and keeps its place among the posts of this room. The same
        `uuid` is stored once, however often it is posted, from wherever: give your own to be able to post it
        again after a crash. What cannot be posted (empty, too long, the room over, too many waiting) fails.
        """
        if self.closed is None:
            return self._sender.post(text, uuid)
        sending = Sending(uuid or "", text)
        sending.fail(self.closed)
        return sending

    async def typing(self, on: bool) -> None:
        """Tells the others that we type, or stopped. Say it again every few seconds while it lasts. What cannot be
        told now is not told at all."""
        if self.session is not None:
            try:
                await self.session.ask("typing", {"room": self.name, "on": on})
            except ChatClientError:
                pass

    async def flushed(self) -> None:
        """Done when everything that was posted is durable, or refused. Raises when the room is over."""
        while self.pending and self.closed is None:
            await self._moments.wait()
        self._raise_if_closed()

    async def caught_up(self) -> None:
        """Done when everything was delivered that was in the log at the last join, and what we posted since.

        Raises when the room is over.
        """
        while self.closed is None and not self._reader.caught_up:
            await self._moments.wait()
        self._raise_if_closed()

    async def since(self, seq: int, limit: int = PAGE) -> Page:
        """Up to `limit` (at most 200) messages that follow `seq`. A look-up: delivers nothing to
        `on_message`."""
        return await self._page("since", seq, limit)

    async def before(self, seq: int, limit: int = PAGE) -> Page:
        """Up to `limit` (at most 200) messages that precede `seq`, the nearest ones. A look-up, too."""
        return await self._page("before", seq, limit)

    async def leave(self) -> None:
        """Leaves the room. What is not acknowledged fails with `left`: await `flushed` before to avoid
        that."""
        # On its way to another node it may have a seat on both. What is said goes out before anybody hears of it,
        # so that who joins again at once does so behind it.
        sessions = dict.fromkeys(each for each in (self.session, self.heading) if each is not None)
        leaving = [Deferred.fromCoroutine(self._leave_at(session)) for session in sessions]
        self.close(ChatClientError("left", "You left the room"))
        for left in leaving:
            await left

    async def _leave_at(self, session: Session) -> None:
        try:
            await session.ask("leave", {"room": self.name})
        except ChatClientError:
            pass  # then it is the connection's end that leaves

    # -- for the client --------------------------------------------------------------------------------

    async def joined(self) -> None:
        """Done when the room was joined for the first time. Raises what it is refused for."""
        while not self._been_in and self.closed is None:
            await self._moments.wait()
        self._raise_if_closed()

    def attach(self, session: Session) -> None:
        """Stand there from now on."""
        self.heading = session
        session.spawn(self._join_at(session, 0), "joining a room")

    def detach(self, session: Session) -> None:
        """That connection is gone."""
        if self.heading is session:
            self.heading = None
        if self.session is session:
            self._stand_up()
            self._tell(Suspended(self.name))

    def close(self, error: ChatClientError) -> None:
        """The room is over: whatever waits for it fails with the error."""
        if self.closed is not None:
            return
        self.closed = error
        self.heading = None
        self._stand_up()
        self._reader.stop()
        self._sender.outbox.clear(error)
        self.home.settled(self)
        self._moments.release()
        if self._been_in:
            self._tell(Closed(self.name, error))

    def received(self, batch: frames.Batch) -> None:
        """A node delivers."""
        if batch.epoch == self._reader.intake.epoch:
            self._reader.received(batch.messages)
        elif self.session is not None:
            self._unseated(self.session)  # another log than we joined: joining again tells

    def changed(self, method: str, change: Presence) -> None:
        """Somebody `entered` or `left` or types; or this is who is here, after we may have missed some of that."""
        if isinstance(change, frames.Roster):
            self._replace(change.members)
        elif isinstance(change, frames.TypingChange):
            self._tell(Typing(self.name, change.member, change.on))
        elif method == "entered":
            self._replace([*(member for member in self.members if member != change.member), change.member])
        else:
            self._replace([member for member in self.members if member != change.member])

    def _replace(self, members: Sequence[Member]) -> None:
        """These are here, and nobody else; what is different is told."""
        before, self.members = self.members, members
        here, there = frozenset(members), frozenset(before)
        for member in before:
            if member not in here:
                self._tell(Left(self.name, member))
        for member in members:
            if member not in there:
                self._tell(Entered(self.name, member))

    # -- joining ---------------------------------------------------------------------------------------

    async def _join_at(self, session: Session, attempt: int) -> None:
        """Asks until the room is joined there, or refused for good, or is to stand elsewhere."""
        while self.heading is session:
            try:
                answer = await session.ask("join", self._question())
            except Disconnected:
                return
            except ChatClientError as error:
                await self._wait_for_door(session, error, attempt)
                attempt += 1
            else:
                self._sit_down(session, frames.read(answer, frames.RoomJoined))
                return

    def _question(self) -> dict[str, Any]:
        start = self.position if self._been_in else self.start
        params: dict[str, Any] = {"room": self.name, "name": self.member.name, "user": self.member.user}
        if isinstance(start, Tail):
            return {**params, "tail": start.count}
        if _in_any_log(start):
            return {**params, "tail": 0}  # `_begin` reads up from there
        return {**params, "after": {"epoch": start.epoch, "seq": start.seq}}

    async def _wait_for_door(self, session: Session, error: ChatClientError, attempt: int) -> None:
        if self.heading is not session:
            return
        if error.reason == ELSEWHERE:
            session.give_up(error.text)
        elif self._final(error, session.clock.seconds()):
            self.close(error)
        else:
            await session.sleep(self.home.timing.delay(attempt, self.home.rng, error.retry_after))

    def _final(self, error: ChatClientError, now: float) -> bool:
        """Whether the refusal ends the room. A name that was ours may be held by a dead node's lease for a
        while."""
        if not self._been_in or error.reason != "name_taken":
            return not error.retryable
        if self._taken_since is None:
            self._taken_since = now
        return now - self._taken_since >= self.home.timing.name_taken

    def _sit_down(self, session: Session, result: frames.RoomJoined) -> None:
        if self.heading is not session:
            return
        again, self._been_in = self._been_in, True
        self.name, self.key, self.members = result.room, result.key, result.members
        self.session, self._taken_since = session, None
        if self._begin(result, again=again):
            self._tell(Reset(self.name, self.position))
        self._tell(Joined(self.name, self.position, result.head, tuple(result.members), again))
        if self.session is not session:
            return  # whoever was told has left
        self.home.settled(self)
        self._reader.go(session)
        self._sender.go(session, self.name)
        self._moments.release()

    def _begin(self, result: frames.RoomJoined, *, again: bool) -> bool:
        """Sets the intake to where the node begins. True when that is not where we asked for."""
        reader, start = self._reader, self.start
        if again and result.resumed and result.epoch == reader.intake.epoch:
            reader.reach = max(reader.reach, result.head)
            reader.intake.resume(result.seq)
            return False
        reader.reach = result.head
        if not again and isinstance(start, Cursor) and _in_any_log(start):
            reader.intake.begin(result.epoch, min(start.seq, result.seq))
            reader.intake.resume(result.seq)
            return start.seq > result.seq
        reader.intake.begin(result.epoch, result.seq)
        return not result.resumed

    def _unseated(self, session: Session) -> None:
        """The node does not know us here: joins again on the same connection."""
        if self.session is session and self.heading is session:
            self._stand_up()
            session.spawn(self._join_at(session, 0), "joining a room again")

    def _stand_up(self) -> None:
        self.session = None
        self._reader.halt()
        self._sender.halt()

    # -- from sender and reader ------------------------------------------------------------------------

    def _answered(self, posted: Posted | None) -> None:
        if posted is not None:
            self._reader.reach = max(self._reader.reach, posted.seq)
        self._moments.release()

    def _missed(self, count: int) -> None:
        self._tell(Reset(self.name, self.position, count))

    async def _page_behind(self, session: Session, seq: int) -> Page:
        return await self._read_log(session, "since", seq, PAGE)

    async def _page(self, method: str, seq: int, limit: int) -> Page:
        self._raise_if_closed()
        session = self.session
        if session is None:
            raise Disconnected("not connected")
        try:
            return await self._read_log(session, method, seq, limit)
        except frames.BadFrame as error:
            session.give_up(str(error))
            raise Disconnected(str(error)) from None

    async def _read_log(self, session: Session, method: str, seq: int, limit: int) -> Page:
        answer = await session.ask(method, {"room": self.name, "seq": seq, "limit": limit})
        page = frames.read(answer, frames.LogPage)
        return Page(page.epoch, page.messages, page.head)

    # -- telling ---------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        if self.on_event is not None:
            try:
                self.on_event(event)
            except Exception:
                _log.failure("on_event failed")

    def _raise_if_closed(self) -> None:
        if self.closed is not None:
            raise self.closed


def _in_any_log(cursor: Cursor) -> bool:
    """A place in whichever log the room has: no epoch, and not the very beginning."""
    return cursor.epoch is None and cursor.seq > 0
