"""v1 clients of a simulated cluster: the original library with the habits that a server has to stand.

Every send sends again everything that is not acknowledged; a closed connection comes back after exactly five
seconds, with `reconnect` and all that is pending at once; `lastMessageId` is the oldest message it holds.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from attrs import define, field

from eftchat.bridge.v1 import cursor_of
from eftchat.testing.sim_clients import Door
from eftchat.testing.sockets import Frames, Wire
from eftchat.testing.stage import Stage
from eftchat.testing.truth import Truth

COMES_BACK = 5.0

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


@define(eq=False)
class _End:
    """The client's end of one wire."""

    client: V1Client
    frames: Frames = field(factory=Frames)
    wire: Wire | None = None

    def received(self, data: bytes) -> None:
        for payload in self.frames.feed(data):
            if self.client.end_of is self:
                self.client.heard(_decode(payload))

    def closed(self, code: int) -> None:
        if self.client.end_of is self:
            self.client.hung_up()


@define(eq=False)
class V1Client:
    """One person at one page of the original system."""

    stage: Stage
    truth: Truth
    door: Door
    rng: Random
    user: str
    name: str
    room: str
    history: int
    """How many messages a newcomer is shown."""
    page: str
    """Its own, where one person has several."""
    alone: bool
    """The person has no other page: this one reads all the time."""
    end_of: _End | None = field(default=None, init=False)
    over: bool = field(default=False, init=False)
    joined: bool = field(default=False, init=False)
    """`joinRoom` was answered, once; from then on the library knows who it is."""
    back: bool = field(default=False, init=False)
    """It is in the room on this connection."""
    begins_by: int = field(default=0, init=False)
    """The first message that it holds must not be later than this one."""
    held: dict[int, str] = field(factory=dict, init=False)
    pending: dict[str, dict[str, Any]] = field(factory=dict, init=False)
    wanted: int = field(default=0, init=False)
    """Messages that the person will type when the room is there."""
    _counter: int = field(default=0, init=False)
    _heard: int = field(default=0, init=False)
    _moved: int = field(default=0, init=False)
    _said: int = field(default=0, init=False)
    _joins: dict[int, str] = field(factory=dict, init=False)

    # -- connections -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the page."""
        self._dial()

    def _dial(self) -> None:
        if not self.over:
            self.end_of = end = _End(self)
            self.door.dial(end, None, lambda wire: self._opened(end, wire), self.hung_up)

    def _opened(self, end: _End, wire: Wire) -> None:
        end.wire = wire
        if self.over:
            wire.hang_up()
        elif self.joined:
            self._ask_in("reconnect", self._who() | {"sessionId": "s", "lastMessageId": self._oldest()})
            self._send_pending()
        else:
            if self.rng.random() < 0.2:
                nobody = {"userId": "", "roomName": "", "userName": "", "lastMessageId": None}
                self._ask_in("reconnect", nobody)
            self._ask_in("joinRoom", self._who() | {"lastMessageId": None})

    def hung_up(self) -> None:
        """The connection is over, whoever ended it: it comes back after exactly five seconds."""
        self.end_of, self.back = None, False
        self._joins.clear()
        self.stage.clock.callLater(COMES_BACK, self._dial)

    def drop(self) -> None:
        """The person loads nothing anew, but the network is changed."""
        if self.end_of is not None and self.end_of.wire is not None:
            self.end_of.wire.hang_up()
            self.hung_up()

    def end(self) -> None:
        """The page is closed."""
        self.over = True
        if self.end_of is not None and self.end_of.wire is not None:
            self.end_of.wire.hang_up()

    @property
    def wire(self) -> Wire | None:
        """Its connection."""
        return self.end_of.wire if self.end_of is not None else None

    # -- what it says ----------------------------------------------------------------------------------

    def say(self) -> None:
        """The person types one more message; everything unacknowledged goes out with it."""
        if not self.joined:
            self.wanted += 1
            return
        self._said += 1
        uuid = f"{self.page}.{self._said}"
        text = f"{self.page} says {self._said}"
        params = self._who() | {"text": text, "ack": False, "uuid": uuid, "date": "2026-01-01T15:40:46.945Z"}
        self.pending[uuid] = {"method": "textMessage", "params": params, "id": self._count()}
        self._send_pending()

    def _send_pending(self) -> None:
        if self.wire is not None and self.wire.far_open:
            for uuid, frame in self.pending.items():
                self.truth.sent(self.room, self.page, uuid, frame["params"]["text"])
                self.wire.send(_encode({"jsonrpc": "2.0", **frame}))

    def _ask_in(self, method: str, params: dict[str, Any]) -> None:
        number = self._count()
        self._joins[number] = method if params["userId"] else "nobody"
        assert self.wire is not None
        self.wire.send(_encode({"jsonrpc": "2.0", "method": method, "params": params, "id": number}))

    def _who(self) -> dict[str, Any]:
        return {"userId": self.user, "roomName": self.room, "userName": self.name}

    def _count(self) -> int:
        self._counter += 1
        return self._counter

    def _oldest(self) -> str | None:
        return self.held[min(self.held)] if self.held else None

    # -- what it hears ---------------------------------------------------------------------------------

    def heard(self, frame: dict[str, Any]) -> None:
        """One frame came."""
        self._heard += frame.get("method") != "newUser"
        if self.stage.lines is not None:
            self.stage.tell(self.page, f"hears {_encode(frame).decode()}")
        if "error" in frame and "result" in frame:
            self.stage.broken("frames they stand", f"{self.page} got {frame}")
        if "result" in frame:
            self._answered(frame)
        elif "error" in frame:
            self._refused(frame)
        elif frame["method"] == "textMessage":
            self._message(frame)

    def _answered(self, frame: dict[str, Any]) -> None:
        method = self._joins.pop(frame["id"], None)
        if frame["result"] != "OK" or method is None or method == "nobody":
            self.stage.broken("frames they stand", f"{self.page} got {frame} for {method}")
        if not self.joined:
            self.joined = True
            self.begins_by = max(0, self.truth.head(self.room) - self.history) + 1
            wanted, self.wanted = self.wanted, 0
            for _ in range(wanted):
                self.say()
        self.back = True

    def _refused(self, frame: dict[str, Any]) -> None:
        method = self._joins.pop(frame["id"], None)
        code = frame["error"]["code"]
        if method == "joinRoom" and code == "-32000":
            self.stage.clock.callLater(2.0, self._try_again, self.end_of)
        elif method is None and code == "-32000":
            pass  # a message was refused: it goes out again with the next one
        elif method != "nobody" or code != "-32600":
            self.stage.broken("no refusal without a reason", f"{self.page}: {method} got {frame}")

    def _try_again(self, end: _End) -> None:
        if end is self.end_of and end.wire is not None and end.wire.far_open and not self.joined:
            self._ask_in("joinRoom", self._who() | {"lastMessageId": None})

    def _message(self, frame: dict[str, Any]) -> None:
        cursor, params = cursor_of(frame["_id"]), frame["params"]
        if cursor is None or "id" not in frame or params["ack"] is not True:
            self.stage.broken("frames they stand", f"{self.page} got {frame}")
            return
        seq, uuid = cursor.seq, params["uuid"]
        told = {
            "uuid": uuid,
            "user": params["userId"],
            "name": params["userName"],
            "room": params["roomName"],
        }
        self.truth.shown(self.user, self.room, seq, told)
        if self.pending.pop(uuid, None) is not None:
            self.truth.acked(self.user, self.room, uuid, seq)
        if seq not in self.held and self.alone:
            self._judge_place(seq)
        self.held[seq] = frame["_id"]

    def _judge_place(self, seq: int) -> None:
        """A page that reads all the time has no hole."""
        if self.held and seq - 1 not in self.held and seq > min(self.held):
            self.stage.broken("a reader sees the log", f"{self.page} has no {seq - 1}, got {seq}")
        if not self.held and seq > max(self.begins_by, 1):
            self.stage.broken(
                "a reader sees the log", f"{self.page} begins at {seq}, not by {self.begins_by}"
            )

    # -- the verdict -----------------------------------------------------------------------------------

    def nudge(self) -> None:
        """When nothing has moved since the last nudge: a new connection sends again what is pending."""
        before, self._moved = self._moved, self._heard
        if self.pending and self.back and before == self._moved:
            self.drop()

    def unsettled(self) -> str | None:
        """What it still waits for; None when it has and said everything."""
        head = self.truth.head(self.room)
        if not self.joined or not self.back or self.wanted or self.wire is None or not self.wire.whole:
            return f"{self.page} is not in {self.room}"
        if self.pending:
            return f"{self.page} has {list(self.pending)} pending"
        missing = [seq for seq in range(max(self.begins_by, 1), head + 1) if seq not in self.held]
        if missing and self.alone:
            return f"{self.page} lacks {missing}"
        return None
