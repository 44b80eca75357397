"""The client: keeps a connection to a chat, whatever happens to the nodes, and puts its rooms onto it.

Theory of operation. A session is one connection. The newest that is being made or stands is the `main` one;
when it ends, another is dialled after a delay with full jitter, at the next URL. Rooms are attached to each
session as it becomes ready; each stands on one and moves on its own. When a node announces that it leaves,
the next session is dialled while the old one still serves, and the old one is closed when every room stands
on the new one: make before break. A node that closes with 4500-4999 ends it all.

Invariants: at most one session is being made; a timer to dial runs only while there is no main session; after
`stop` there is no session, no socket and no timer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger

from eftchat.client import frames
from eftchat.client.outbox import new_uuid
from eftchat.client.room import PRESENCE, Room
from eftchat.client.seams import Clock, Dial, Timer
from eftchat.client.session import Session
from eftchat.client.transport import websockets
from eftchat.client.urls import complete
from eftchat.client.values import ChatClientError, Event, Message, State, Timing
from eftchat.client.waiters import Waiters
from eftchat.domain import names
from eftchat.domain.errors import ChatError
from eftchat.domain.messages import Cursor, Member, Tail

_log = Logger("eftchat.client")


def _urls(given: str | Sequence[str]) -> tuple[str, ...]:
    found = tuple(complete(url) for url in ([given] if isinstance(given, str) else given))
    if not found:
        raise ValueError("a client needs a URL")
    return found


@define(eq=False)
class ChatClient:
    """A client of one chat. Give it a reactor, where the chat is (one URL or several, tried in turn), and
    chance.

    `user` is who we are to the nodes: the same user takes its own name in a room over at once, another one is
    refused. Without it the client makes one up, for itself alone. Raises ValueError for URLs that are none.
    """

    reactor: Clock
    urls: Sequence[str] = field(converter=_urls)
    rng: Random = field(kw_only=True)
    user: str = field(kw_only=True, default=Factory(lambda self: new_uuid(self.rng), takes_self=True))
    on_state: Callable[[State], object] | None = field(default=None, kw_only=True)
    """Told of each change of the connection."""
    timing: Timing = field(default=Timing(), kw_only=True)
    dial: Dial = field(kw_only=True, default=Factory(lambda self: websockets(self.reactor), takes_self=True))
    """How to reach a URL: by Autobahn's websockets, unless a test knows better."""
    state: State = field(default=State("idle"), init=False)
    _rooms: dict[str, Room] = field(factory=dict, init=False)
    """By folded name."""
    _main: Session | None = field(default=None, init=False)
    _ready: list[Session] = field(factory=list, init=False)
    """Those that are connected, oldest first: the last is where rooms are to stand."""
    _lines: dict[Session, None] = field(factory=dict, init=False)
    """Those that still have a socket."""
    _timer: Timer | None = field(default=None, init=False)
    _attempt: int = field(default=0, init=False)
    _dialled: int = field(default=0, init=False)
    _over: ChatClientError | None = field(default=None, init=False)
    _moments: Waiters = field(factory=Waiters, init=False)
    """Released whenever something changed that somebody may wait for."""

    # -- for the user ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to connect, and from then on keeps a connection until `stop`. Once."""
        if self.state.name != "idle":
            raise RuntimeError("a client is started once")
        self._dial()

    async def when_connected(self) -> None:
        """Done when there is a connection; raises ChatClientError when there will be none."""
        while not self._ready and self._over is None:
            await self._moments.wait()
        if self._over is not None:
            raise self._over

    async def join(
        self,
        room: str,
        *,
        name: str,
        after: Cursor | None = None,
        tail: int = 100,
        on_message: Callable[[Message], object] | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Room:
        """Enters a room under a name, and stays in it over reconnects. Waits for a connection as long as it
        takes.

        `on_message` gets every message exactly once and in the order of the log, from `after` on, or else the
        newest `tail` (at most 1,000) and what follows. `Cursor(None, 0)` is the very beginning, `Cursor(None,
        n)` the n-th. `on_event` gets the rest, see `Event`. An exception out of either is logged.

        Raises ChatClientError: the room is refused (`name_taken`, `bad_params`), already joined by this
        client, or the client is over.
        """
        try:
            folded = names.name(room, "room").folded
            shown = names.name(name, "name").shown
        except ChatError as error:
            raise ChatClientError.of(error) from None
        if self._over is not None:
            raise self._over
        if folded in self._rooms:
            raise ChatClientError("already_joined", "This client is in the room already")
        start = Tail(tail) if after is None else after
        made = Room(self, room, Member(self.user, shown), start, on_message, on_event)
        self._rooms[folded] = made
        if self._ready:
            made.attach(self._ready[-1])
        try:
            await made.joined()
        except CancelledError:
            Deferred.fromCoroutine(made.leave())  # it raises nothing
            raise
        return made

    @property
    def pending(self) -> int:
        """How many posts, in all rooms, are not known to be durable."""
        return sum(room.pending for room in self._rooms.values())

    async def stop(self, *, drain: float = 0.0) -> int:
        """Ends it: waits up to `drain` seconds for what is not acknowledged, then says good-bye and is
        `closed`.

        Returns how many posts were not acknowledged; they have failed with `stopped`. Afterwards no socket
        and no timer is left. May be called again.
        """
        if drain > 0.0 and self.pending and self.state.name != "idle":
            await self._drain(drain)
        left = self.pending
        self._finish(ChatClientError("stopped", "The client was stopped"), State("closed"))
        while self._lines:
            await self._moments.wait()
        return left

    # -- for rooms -------------------------------------------------------------------------------------

    def settled(self, room: Room) -> None:
        """A room stands where it was to stand, or is over: is an older session of no more use?"""
        if room.closed is not None:
            self._rooms = {folded: other for folded, other in self._rooms.items() if other is not room}
        if self._ready and all(room.session is self._ready[-1] for room in self._rooms.values()):
            self._retire()

    # -- from sessions ---------------------------------------------------------------------------------

    def ready(self, session: Session) -> None:
        """A session is connected: every room goes there."""
        self._ready.append(session)
        node = session.welcome.node if session.welcome is not None else ""
        self._become(State("connected", url=session.url, node=node))
        for room in list(self._rooms.values()):
            room.attach(session)
        if not self._rooms:
            self._retire()
        self._moments.release()

    def notified(self, session: Session, frame: frames.Frame) -> None:
        """A node says something of its own accord. What is not known here is for newer clients."""
        if frame.method == "messages":
            batch = frames.read(frame.params, frames.Batch)
            room = self._rooms.get(names.fold(batch.room))
            if room is not None:
                room.received(batch)
        elif frame.method is not None and frame.method in PRESENCE:
            change = frames.read(frame.params, PRESENCE[frame.method])
            room = self._rooms.get(names.fold(change.room))
            if room is not None and room.session is session:
                room.changed(frame.method, change)
        elif frame.method == "reconnect":
            notice = frames.read(frame.params, frames.ReconnectNotice)
            if session is self._main:
                self._main = None
                self._attempt = 0
                self._dial_after(max(0, notice.after_ms) / 1000)

    def ended(self, session: Session, reason: str, *, final: bool) -> None:
        """A session is over."""
        if session in self._ready:
            self._ready.remove(session)
        if final:
            self._finish(ChatClientError("refused_for_good", reason), State("failed", reason=reason))
            return
        for room in list(self._rooms.values()):
            room.detach(session)
        if session.ready_at is not None and self.reactor.seconds() - session.ready_at >= self.timing.stable:
            self._attempt = 0
        if session is self._main:
            self._main = None
        self._go_on(session.url, reason)

    def hung_up(self, session: Session) -> None:
        """A session's socket is gone."""
        self._lines.pop(session, None)
        self._moments.release()

    # -- inside ----------------------------------------------------------------------------------------

    def _dial(self) -> None:
        self._timer = None
        url = self.urls[self._dialled % len(self.urls)]
        self._dialled += 1
        session = self._main = Session(self.reactor, self, self.timing, url)
        self._lines[session] = None
        if not self._ready:
            self._become(State("connecting", url=url))
        if not session.over:  # whoever was told may have stopped us
            session.begin(self.dial)

    def _go_on(self, url: str, reason: str) -> None:
        """A session to `url` has ended: sees to it that another follows."""
        if self._main is not None:
            if not self._ready:
                self._become(State("connecting", url=self._main.url))
            return
        if self._timer is not None and self._ready:
            return  # a move is planned, and there is time for it
        delay = self.timing.delay(self._attempt, self.rng)
        self._attempt += 1
        self._dial_after(delay)
        if not self._ready:
            self._become(State("waiting", url=url, retry_in=delay, reason=reason))

    def _dial_after(self, delay: float) -> None:
        self._stop_timer()
        self._timer = self.reactor.callLater(delay, self._dial)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _retire(self) -> None:
        """Closes all sessions but the newest."""
        old, self._ready = self._ready[:-1], self._ready[-1:]
        for session in old:
            session.close()

    async def _drain(self, seconds: float) -> None:
        reactor: Any = self.reactor
        flushing = Deferred.fromCoroutine(self._flushed())
        flushing.addTimeout(seconds, reactor)
        try:
            await flushing
        except (TimeoutError, ChatClientError):
            pass  # what is left is counted and told

    async def _flushed(self) -> None:
        while self.pending:
            for room in list(self._rooms.values()):
                await room.flushed()

    def _finish(self, error: ChatClientError, state: State) -> None:
        if self._over is not None:
            return
        self._over = error
        self._stop_timer()
        self._main, self._ready = None, []
        for session in list(self._lines):
            session.close()
        for room in list(self._rooms.values()):
            room.close(error)
        self._become(state)
        self._moments.release()

    def _become(self, state: State) -> None:
        self.state = state
        if self.on_state is not None:
            try:
                self.on_state(state)
            except Exception:
                _log.failure("on_state failed")
