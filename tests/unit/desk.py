"""A node's core on a clock that tests drive, with in-memory twins behind it and sockets that remember."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.task import Clock

from eftchat.bridge.connection import Conversation, Settings
from eftchat.bridge.v1 import V1Conversation, V1Dialect, V1Readers
from eftchat.bridge.v2 import V2Conversation, V2Dialect
from eftchat.domain.limits import Limits
from eftchat.domain.messages import Draft, Message, Presence, Room
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.testing.memory import MemoryMembers, MemoryMessages


def draft(uuid: str, room: str = "r", text: str = "hi") -> Draft:
    """A text from Ann."""
    return Draft(room, uuid, "text", "uA", "Ann", 0, {"text": text})


@define(eq=False)
class RecordingBus:
    """A bus that reaches nobody and remembers what it was given."""

    published: list[tuple[str, list[int]]] = field(factory=list)
    announced: list[Presence] = field(factory=list)
    watched: set[str] = field(factory=set)

    def watch(self, room: Room) -> None:
        self.watched.add(room.id)

    def unwatch(self, room: Room) -> None:
        self.watched.discard(room.id)

    def publish(self, room: Room, messages: Sequence[Message]) -> None:
        self.published.append((room.id, [message.seq for message in messages]))

    def announce(self, room: Room, presence: Presence, but: int | None = None) -> None:
        self.announced.append(presence)


def frames_in(data: bytes) -> list[dict[str, Any]]:
    """The JSON payloads of unmasked text frames."""
    found = []
    while data:
        assert data[0] == 0x81
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        found.append(json.loads(data[start : start + size]))
        data = data[start + size :]
    return found


@define(eq=False)
class FakeSocket:
    """The transport below a conversation."""

    frames: list[dict[str, Any]] = field(factory=list)
    open_for_writing: bool = True
    reading: bool = True
    closed: tuple[int, str] | None = None

    def write(self, data: bytes) -> None:
        self.frames += frames_in(data)

    def writable(self) -> bool:
        return self.open_for_writing

    def stop_reading(self) -> None:
        self.reading = False

    def read_on(self) -> None:
        self.reading = True

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def take(self) -> list[dict[str, Any]]:
        """What was written since the last look."""
        taken, self.frames = self.frames, []
        return taken


@define(eq=False)
class Talk:
    """A conversation and the socket below it."""

    conversation: Conversation
    socket: FakeSocket

    def say(self, frame: object) -> list[dict[str, Any]]:
        """Sends a frame (text as it is, everything else as JSON); what came back at once."""
        text = frame if isinstance(frame, str) else json.dumps(frame)
        self.conversation.received(text.encode())
        return self.socket.take()

    def call(self, method: str, /, **params: Any) -> list[dict[str, Any]]:
        """Sends a request with id 7."""
        return self.say({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})


@define(eq=False)
class Desk:
    """One node's core."""

    limits: Limits = Limits()
    clock: Clock = field(factory=Clock)
    messages: MemoryMessages = field(factory=MemoryMessages)
    bus: RecordingBus = field(factory=RecordingBus)
    rooms: Rooms = field(init=False)
    _talks: int = field(default=0, init=False)
    _readers: V1Readers = field(factory=V1Readers, init=False)
    _v1: V1Dialect = field(factory=V1Dialect, init=False)
    _v2: V2Dialect = field(factory=V2Dialect, init=False)

    def __attrs_post_init__(self) -> None:
        loop = TwistedLoop(self.clock)
        members = MemoryMembers(self.clock.seconds)
        self.rooms = Rooms("n1", b"secret", self.messages, members, self.bus, loop, Random(1))
        loop.spawn(members.renew("n1", 10_000_000), "lease")

    def pass_time(self, seconds: float = 0.0) -> None:
        """Lets time go by in small steps."""
        steps = max(10, round(seconds * 4))
        for _ in range(steps):
            self.clock.advance(seconds / steps)

    def _socket(self) -> tuple[Any, ...]:
        self._talks += 1
        settings = Settings("n1", self.limits)
        return self.rooms, TwistedLoop(self.clock), FakeSocket(), settings, f"c{self._talks}"

    def v2(self, *, room: str | None = None, name: str = "Ann", user: str | None = None) -> Talk:
        """A v2 client, connected; joined when a room is given, everything so far read."""
        given = self._socket()
        talk = Talk(V2Conversation(*given, self._v2), given[2])
        talk.call("connect")
        if room is not None:
            talk.call("join", room=room, name=name, **({"user": user} if user else {}))
        return talk

    def v1(self, *, room: str | None = None, name: str = "Bob", user: str = "uB") -> Talk:
        """A v1 client; joined when a room is given, everything so far read."""
        given = self._socket()
        talk = Talk(V1Conversation(*given, self._v1, readers=self._readers), given[2])
        if room is not None:
            talk.call("joinRoom", userId=user, roomName=room, userName=name, lastMessageId=None)
        return talk
