"""v2 clients of a simulated cluster, as good as the shipped libraries: an outbox, a cursor, a window.

Posts of a room go out in order, at most `WINDOW` unanswered. After a refusal that may be retried nothing more is
sent in that room until everything in flight is answered; then it goes on from the oldest one that is left. On a
new connection it resumes at its cursor and sends its outbox again, under the same uuids.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import msgspec
from attrs import define, field

from eftchat.domain.backoff import full_jitter
from eftchat.testing.sockets import Far, Frames, Wire
from eftchat.testing.stage import Stage
from eftchat.testing.truth import Truth

WINDOW = 8
PATIENCE = 12.0
"""Seconds without an answer after which a connection is given up."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


class Door(Protocol):
    """The load balancer: leads a client to some node that listens."""

    def dial(
        self, far: Far, subprotocol: str | None, opened: Callable[[Wire], None], failed: Callable[[], None]
    ) -> None:
        """Calls one of the two, soon."""


@define(eq=False)
class Place:
    """One room as its client keeps it."""

    room: str
    first: dict[str, Any]
    """What it says at its first join: `tail` or `after` or nothing."""
    cursor: int | None = None
    epoch: str | None = None
    outbox: dict[str, str] = field(factory=dict)
    flying: dict[str, float] = field(factory=dict)
    joined: bool = False
    """It may post here."""
    seated: bool = False
    """Messages of the room may come: from the answer to a join to the answer to a leave."""
    joining: float | None = None
    holding: bool = False
    tries: int = 0


@define(eq=False)
class Line:
    """One connection of a client."""

    client: V2Client
    wire: Wire
    asked: dict[int, tuple[str, Place, Any]] = field(factory=dict)
    frames: Frames = field(factory=Frames)

    def ask(self, method: str, place: Place, params: dict[str, Any], note: Any = None) -> None:
        """Sends a request; the note comes back with its answer."""
        number = self.client.next_id()
        self.asked[number] = (method, place, note)
        self.wire.send(_encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))


@define(eq=False)
class _End:
    """The client's end of one wire; the wire is there before its line."""

    client: V2Client
    line: Line | None = None

    def received(self, data: bytes) -> None:
        if self.line is not None:
            for payload in self.line.frames.feed(data):
                self.client.heard(self.line, _decode(payload))

    def closed(self, code: int) -> None:
        if self.line is not None:
            self.client.hung_up(self.line)


@define(eq=False)
class V2Client:
    """One person with one good client."""

    stage: Stage
    truth: Truth
    door: Door
    rng: Random
    user: str
    name: str
    places: dict[str, Place]
    line: Line | None = field(default=None, init=False)
    others: list[Line] = field(factory=list, init=False)
    """Older connections that still may bring answers."""
    over: bool = field(default=False, init=False)
    _ids: int = field(default=0, init=False)
    _said: int = field(default=0, init=False)
    _dials: int = field(default=0, init=False)

    def next_id(self) -> int:
        """A fresh request id."""
        self._ids += 1
        return self._ids

    # -- connections -----------------------------------------------------------------------------------

    @property
    def wire(self) -> Wire | None:
        """The connection that reads and sends."""
        return self.line.wire if self.line is not None else None

    def start(self) -> None:
        """Connects, and looks after its connections from now on."""
        self.dial()
        self.stage.clock.callLater(PATIENCE / 4, self._watch)

    def dial(self) -> None:
        """Opens a connection; it becomes the one that reads and sends."""
        if not self.over:
            end = _End(self)
            self.door.dial(end, "eftchat.v2", lambda wire: self._opened(end, wire), self._redial)

    def _opened(self, end: _End, wire: Wire) -> None:
        end.line = line = Line(self, wire)
        if self.over:
            wire.hang_up()
            return
        if self.line is not None:
            self.others.append(self.line)
        self.line = line
        self._dials = 0
        for place in self.places.values():
            place.joined = place.seated = place.holding = False
            place.joining = None
            place.flying.clear()
        line.ask("connect", next(iter(self.places.values())), {"client": {"name": "sim"}})
        for place in self.places.values():
            self.join(place)

    def hung_up(self, line: Line) -> None:
        """A connection is over."""
        if line is not self.line:
            self.others.remove(line)
            return
        self.line = None
        for place in self.places.values():
            place.joined, place.joining = False, None
        self._redial()

    def _redial(self) -> None:
        if not self.over and self.line is None:
            wait = full_jitter(self._dials, self.rng, base=0.5, cap=3.0, floor=0.02)
            self._dials += 1
            self.stage.clock.callLater(wait, self._dial_if_none)

    def _dial_if_none(self) -> None:
        if self.line is None:
            self.dial()

    def drop(self) -> None:
        """Gives its connection up and makes a new one."""
        if self.line is not None:
            line = self.line
            line.wire.hang_up()
            self.hung_up(line)

    def _move(self, line: Line | None) -> None:
        """The node is leaving: connects elsewhere, and lets go of it when it is there."""
        if line is self.line:
            self.dial()
            self.stage.clock.callLater(self.rng.uniform(0.05, 1.5), self.let_go)

    def let_go(self) -> None:
        """Closes the older connections."""
        for line in list(self.others):
            line.wire.hang_up()
        self.others.clear()

    def end(self) -> None:
        """Closes everything, for good."""
        self.over = True
        self.let_go()
        if self.line is not None:
            self.line.wire.hang_up()
            self.line = None

    def _watch(self) -> None:
        if self.over:
            return
        self.stage.clock.callLater(PATIENCE / 4, self._watch)
        late = self.stage.clock.rightNow - PATIENCE
        for place in self.places.values():
            waits = [place.joining] if place.joining is not None else list(place.flying.values())
            if waits and min(waits) < late:
                self.stage.tell(self.user, "loses patience")
                self.drop()
                return

    # -- what it wants ---------------------------------------------------------------------------------

    def join(self, place: Place) -> None:
        """Asks for the room, from where it is."""
        if self.line is None or place.joining is not None:
            return
        params: dict[str, Any] = {"room": place.room, "name": self.name, "user": self.user}
        after = self.resumes_at(place)
        if after is None:
            params |= place.first
        else:
            params["after"] = {"epoch": place.epoch, "seq": after}
        place.joining = self.stage.clock.rightNow
        self.line.ask("join", place, params, after)

    def resumes_at(self, place: Place) -> int | None:
        """The cursor that it sends; None when it begins anew."""
        return place.cursor

    def leave(self, place: Place) -> None:
        """Leaves the room; `join` brings it back."""
        if self.line is not None and place.joined and place.joining is None and not place.flying:
            place.joined = False
            self.line.ask("leave", place, {"room": place.room})

    def say(self, place: Place) -> None:
        """One more message into the outbox."""
        self._said += 1
        uuid = f"{self.user}.{self._said}"
        place.outbox[uuid] = f"{self.user} says {self._said}" + "!" * self.rng.choice((0, 0, 40))
        self.pump(place)

    def pump(self, place: Place) -> None:
        """Sends what the window allows, in order."""
        line = self.line
        if line is None or not place.joined or place.holding:
            return
        for uuid, text in place.outbox.items():
            if len(place.flying) >= WINDOW:
                return
            if uuid not in place.flying:
                self._post(line, place, uuid, text)

    def _post(self, line: Line, place: Place, uuid: str, text: str) -> None:
        place.flying[uuid] = self.stage.clock.rightNow
        self.truth.sent(place.room, self.user, uuid, text)
        params = {"room": place.room, "uuid": uuid, "kind": "text", "body": {"text": text}}
        line.ask("post", place, params, uuid)

    def repeat(self, place: Place) -> None:
        """Sends again what is in flight, in order."""
        if self.line is not None and place.joined and not place.holding:
            for uuid in list(place.flying):
                self._post(self.line, place, uuid, place.outbox[uuid])

    def read(self, place: Place) -> None:
        """Asks for a page of the log."""
        if self.line is not None and place.joined:
            method = self.rng.choice(("since", "before"))
            seq = self.rng.randint(0, self.truth.head(place.room) + 1)
            params = {"room": place.room, "seq": seq, "limit": self.rng.choice((1, 5, 200))}
            self.line.ask(method, place, params, seq)

    # -- what it hears ---------------------------------------------------------------------------------

    def heard(self, line: Line, frame: dict[str, Any]) -> None:
        """One frame came."""
        if self.stage.lines is not None:
            self.stage.tell(self.user, f"hears {_encode(frame).decode()}")
        if "method" in frame:
            if line is self.line:
                self._noticed(frame)
            return
        method, place, note = line.asked.pop(frame["id"])
        if method == "post":
            self._posted(line, place, note, frame)
        elif line is self.line and method == "join":
            self._joined(place, note, frame)
        elif line is self.line and "error" in frame:
            self._must_be_retryable(method, frame["error"])
        elif line is self.line:
            self._answered(method, place, note, frame["result"])

    def _answered(self, method: str, place: Place, note: Any, result: dict[str, Any]) -> None:
        if method == "leave":
            place.seated = False
        elif method in ("since", "before"):
            self._page(method, place, note, result)

    def _noticed(self, frame: dict[str, Any]) -> None:
        if frame["method"] == "messages":
            self._messages(frame["params"])
        elif frame["method"] == "reconnect":
            self.stage.clock.callLater(frame["params"]["after_ms"] / 1000, self._move, self.line)

    def _messages(self, params: dict[str, Any]) -> None:
        place = self.places[params["room"]]
        if not place.seated:
            self.stage.broken("only where joined", f"{self.user} got {params}")
        for message in params["messages"]:
            expected = (place.cursor or 0) + 1
            if message["seq"] != expected or params["epoch"] != place.epoch:
                self.stage.broken(
                    "a reader sees the log", f"{self.user} in {place.room} expected {expected}, got {message}"
                )
            place.cursor = message["seq"]
            self.truth.shown(self.user, place.room, message["seq"], message)

    def _joined(self, place: Place, asked: int | None, frame: dict[str, Any]) -> None:
        place.joining = None
        if "error" in frame:
            self._refused(place, frame["error"])
            return
        result = frame["result"]
        if asked is not None and (not result["resumed"] or result["seq"] != asked):
            self.stage.broken("resume", f"{self.user} asked to go on after {asked}, was told {result}")
        place.cursor, place.epoch = result["seq"], result["epoch"]
        place.joined, place.seated, place.tries = True, True, 0
        self.entered(place)

    def entered(self, place: Place) -> None:
        """It is in the room."""
        self.pump(place)

    def _refused(self, place: Place, error: dict[str, Any]) -> None:
        self._must_be_retryable("join", error)
        place.tries += 1
        wait = full_jitter(place.tries, self.rng, base=0.2, cap=2.0, floor=0.05)
        self.stage.clock.callLater(wait, self._rejoin, self.line, place)

    def _rejoin(self, line: Line | None, place: Place) -> None:
        if line is self.line and not place.joined:
            self.join(place)

    def _posted(self, line: Line, place: Place, uuid: str, frame: dict[str, Any]) -> None:
        if "error" in frame:
            if line is self.line:
                place.flying.pop(uuid, None)
                self._hold(line, place, frame["error"])
            return
        self.truth.acked(self.user, place.room, uuid, frame["result"]["seq"])
        place.outbox.pop(uuid, None)
        place.flying.pop(uuid, None)
        self._hold_over(line, place)
        self.pump(place)

    def _hold(self, line: Line, place: Place, error: dict[str, Any]) -> None:
        """Refused: waits until all answers are there, and a while, then goes on from the oldest."""
        self._must_be_retryable("post", error)
        place.holding = True
        self._hold_over(line, place)

    def _hold_over(self, line: Line, place: Place) -> None:
        if place.holding and not place.flying and line is self.line:
            self.stage.clock.callLater(self.rng.uniform(0.05, 0.5), self._go_on, line, place)

    def _go_on(self, line: Line, place: Place) -> None:
        if line is self.line and not place.flying:
            place.holding = False
            self.pump(place)

    def _must_be_retryable(self, method: str, error: dict[str, Any]) -> None:
        if not error["data"]["retryable"] or error["data"]["reason"] == "internal":
            self.stage.broken("no refusal without a reason", f"{self.user}: {method} got {error}")

    def _page(self, method: str, place: Place, seq: int, result: dict[str, Any]) -> None:
        seqs = [message["seq"] for message in result["messages"]]
        for message in result["messages"]:
            self.truth.shown(self.user, place.room, message["seq"], message)
        near = (seqs[0] == seq + 1 if method == "since" else seqs[-1] <= seq - 1) if seqs else True
        if not near or seqs != list(range(seqs[0], seqs[0] + len(seqs)) if seqs else ()):
            self.stage.broken("a page is dense", f"{self.user}: {method} {seq} gave {seqs}")

    # -- the verdict -----------------------------------------------------------------------------------

    def unsettled(self) -> str | None:
        """What it still waits for; None when it has and said everything."""
        for place in self.places.values():
            if self.line is None or not self.line.wire.whole or not place.joined:
                return f"{self.user} is not in {place.room}"
            if place.outbox:
                return f"{self.user} has {list(place.outbox)} in its outbox for {place.room}"
            if place.cursor != self.truth.head(place.room):
                return f"{self.user} is at {place.cursor} of {self.truth.head(place.room)} in {place.room}"
        return None
