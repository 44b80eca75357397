"""`eftchat chat`: a room in a terminal, and at the end of a pipe."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from eftchat.client import show
from eftchat.client.chat import ChatClient
from eftchat.client.console import Console, StdConsole
from eftchat.client.outbox import Sending, new_uuid
from eftchat.client.room import Room
from eftchat.client.values import ChatClientError, Closed, Event, Message, State
from eftchat.domain.messages import Cursor

OK, REFUSED = 0, 1
INTERRUPTED = {"SIGINT": 130, "SIGTERM": 143}
FULL, ROOM_AGAIN = 1_000, 500
"""So many posts that are not acknowledged stop the reading of the input; at so many it goes on."""
LAST_SECONDS = 1.0
"""How long someone who presses Ctrl-C waits for what is not acknowledged or not written."""

_log = Logger("eftchat.chat")


class Options(msgspec.Struct, frozen=True):
    """What `eftchat chat` is told. `after` wins over `tail`; see `ChatClient.join`."""

    urls: tuple[str, ...]
    room: str
    name: str
    user: str | None = None
    after: Cursor | None = None
    tail: int = 100
    json: bool = False
    follow: bool = False


async def run(reactor: Any, options: Options, rng: Random, stop_requested: Deferred[str]) -> int:
    """Chats until the input has ended and all of it is acknowledged, or `stop_requested` fires with a
    signal's name.

    Returns the exit code: 0, 1 when something was refused, 128 + the signal's number.
    """
    console = StdConsole(reactor)
    terminal = Terminal(reactor, options, rng, console)
    stop_requested.addCallback(terminal.interrupt)
    code = await terminal.run()
    await console.close(LAST_SECONDS if code in INTERRUPTED.values() else None)
    return code


@define(eq=False)
class Terminal:
    """One run of `eftchat chat` on a console."""

    reactor: Any
    options: Options
    rng: Random
    console: Console
    client: ChatClient = field(init=False)
    _room: Room | None = field(default=None, init=False)
    _typed: set[str] = field(factory=set, init=False)
    """Messages that stand on the screen because they were typed there."""
    _end: Deferred[int] = field(factory=Deferred, init=False)
    _refused: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _was_connected: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        options = self.options
        self.client = ChatClient(
            self.reactor,
            options.urls,
            rng=self.rng,
            user=options.user or new_uuid(self.rng),
            on_state=self._connection,
        )

    async def run(self) -> int:
        """Chats to the end; the exit code."""
        self.console.gone().addCallback(lambda _: self._finish(OK))
        self.client.start()
        chatting = Deferred.fromCoroutine(self._chat())
        chatting.addCallbacks(self._finish, self._failed)
        code = await self._end
        chatting.cancel()
        left = await self.client.stop(drain=LAST_SECONDS)
        if left:
            self.console.note(f"-- {left} messages were not acknowledged; they may or may not be stored")
        return code or (REFUSED if left else OK)

    def interrupt(self, name: str) -> None:
        """A signal asks to stop."""
        self._finish(INTERRUPTED.get(name, REFUSED))

    async def _chat(self) -> int:
        """Joins, says everything that comes in, waits until it is stored and seen."""
        options = self.options
        room = self._room = await self.client.join(
            options.room,
            name=options.name,
            after=options.after,
            tail=options.tail,
            on_message=self._message,
            on_event=self._event,
        )
        ended = self.console.ended()
        self.console.read(self._line)
        await ended
        await room.flushed()
        if options.follow:
            await Deferred()
        await room.caught_up()
        return REFUSED if self._refused else OK

    def _finish(self, code: int) -> None:
        if not self._end.called:
            self._end.callback(code)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if isinstance(failure.value, ChatClientError):
            self._complain(failure.value)
        else:
            _log.failure("chatting failed", failure)
        self._finish(REFUSED)

    def _complain(self, error: ChatClientError) -> None:
        if not self._end.called:
            self.console.note(f"eftchat: {show.harmless(error.text)}")

    # -- out -------------------------------------------------------------------------------------------

    def _line(self, line: str) -> None:
        """Somebody typed a line, or a script wrote one."""
        if self._room is None or not line.strip():
            return
        sending = self._room.post(line)
        if self.console.interactive and self.console.screen:
            self._typed.add(sending.uuid)
        Deferred.fromCoroutine(self._watch(self._room, sending))
        if self._room.pending >= FULL and not self._paused:
            self._paused = True
            self.console.pause()

    async def _watch(self, room: Room, sending: Sending) -> None:
        """Tells what becomes of a post."""
        try:
            posted = await sending
        except ChatClientError as error:
            self._not_sent(room, sending, error)
        else:
            if self.options.json:
                self.console.say(show.json_posted(room.name, posted, ascii_only=self.console.screen))
        if self._paused and room.pending <= ROOM_AGAIN:
            self._paused = False
            self.console.read(self._line)

    def _not_sent(self, room: Room, sending: Sending, error: ChatClientError) -> None:
        if room.closed is not None:
            return  # that is told once, for all of them
        self._refused = True
        self._typed.discard(sending.uuid)
        start = show.harmless(sending.text[:40])
        self.console.note(f"-- not sent: {start!r}: {show.harmless(error.text)}")
        if self.options.json:
            members = {"event": "refused", "room": room.name, "uuid": sending.uuid, "reason": error.reason}
            self.console.say(show.json_line(members, ascii_only=self.console.screen))

    # -- in --------------------------------------------------------------------------------------------

    def _message(self, message: Message) -> None:
        if self.options.json:
            self.console.say(show.json_message(message, ascii_only=self.console.screen))
        elif message.uuid in self._typed:
            self._typed.discard(message.uuid)
        else:
            self.console.say(show.message_line(message))

    def _event(self, event: Event) -> None:
        if isinstance(event, Closed):
            self._complain(event.error)
            self._finish(REFUSED)
        elif self.options.json:
            told = show.json_event(event, ascii_only=self.console.screen)
            if told is not None:
                self.console.say(told)
        else:
            line = show.event_line(event)
            if line is not None:
                self.console.say(show.dim(line) if self.console.screen else line)

    def _connection(self, state: State) -> None:
        if state.name == "connected":
            self._was_connected = True
        elif state.name == "waiting":
            what = "connection lost" if self._was_connected else f"cannot connect to {state.url}"
            self._was_connected = False
            kept = f"; {self.client.pending} messages wait to be sent" if self.client.pending else ""
            why = show.harmless(state.reason)
            self.console.note(f"-- {what} ({why}), trying again in {state.retry_in:.1f} s{kept}")
