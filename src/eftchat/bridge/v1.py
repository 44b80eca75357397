"""The v1 dialect: clients of the original system, unmodified, with every habit they have.

A few of those habits decide what stands here. The echo of a message is its acknowledgement; a `result` for it would
leave their listeners deaf. They send everything again that is not acknowledged yet, with every send, so repeats are
met before any I/O. A socket that a newer one of the same user replaces is kept open and silent: closed, it would come
back at once and replace the other, for ever. Error codes are strings for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from attrs import define, field

from eftchat.bridge.connection import Conversation, Sitting
from eftchat.domain import names
from eftchat.domain.errors import (
    BadJson,
    BadParams,
    BadRequest,
    ChatError,
    Draining,
    NameTaken,
    NotJoined,
    TooManyRooms,
    Unavailable,
    UnknownMethod,
)
from eftchat.domain.messages import Cursor, Entered, Member, Message, Posted, Presence, Room, Tail
from eftchat.ports import Promise
from eftchat.rooms import Ask, Joined
from eftchat.wire import close_codes, schema
from eftchat.wire.frames import text_frame

_encode = msgspec.json.Encoder().encode
_EPOCH_DIGITS = 10
_ID = re.compile(r"[0-9a-f]{24}")
_DATE_MAX = 64
_USER_MAX = 128

_CODES: dict[type[ChatError], str] = {
    BadJson: "-32700",
    BadRequest: "-32600",
    BadParams: "-32600",
    NotJoined: "-32600",
    UnknownMethod: "-32601",
    NameTaken: "-32001",
}


def message_id(epoch: str, seq: int) -> str:
    """The `_id` of a message: 24 hex digits that rise with the room's order."""
    return f"{epoch}{seq:014x}"


def cursor_of(identity: object) -> Cursor | None:
    """The cursor that an `_id` stands for; None for anything that is none of ours."""
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        return None
    return Cursor(identity[:_EPOCH_DIGITS], int(identity[_EPOCH_DIGITS:], 16))


@define(eq=False)
class V1Dialect:
    """How v1 clients are told; see `ports.Dialect`."""

    def message(self, room: Room, message: Message) -> bytes:
        """The frame of a message, which acknowledges it to its sender; nothing for kinds they do not know."""
        if message.kind != "text":
            return b""
        date = message.body.get("date")
        params = {
            "userId": message.user,
            "roomName": room.name,
            "userName": message.name,
            "text": message.body["text"],
            "ack": True,
            "uuid": message.uuid,
            "date": date if isinstance(date, str) else _iso(message.at),
        }
        identity = message_id(room.epoch, message.seq)
        frame = {"_id": identity, "seq": message.seq, "jsonrpc": "2.0", "method": "textMessage"}
        return text_frame(_encode({**frame, "params": params, "id": None}))

    def pack(self, room: Room, encoded: Sequence[bytes]) -> bytes:
        """The frames one behind the other."""
        return b"".join(encoded)

    def presence(self, room: Room, presence: Presence) -> bytes | None:
        """`newUser` for somebody new; they know no word for leaving, and none for typing."""
        if isinstance(presence, Entered) and not presence.returning:
            return new_user(room, presence.member.name)
        return None

    def roster(self, room: Room, members: Sequence[Member]) -> None:
        """They keep no list."""


def new_user(room: Room, name: str) -> bytes:
    """The frame that tells of a newcomer. It has no `id` member."""
    params = {"type": "system", "text": f"{name} has joined the room!", "roomName": room.name}
    return text_frame(_encode({"jsonrpc": "2.0", "method": "newUser", "params": params}))


def _iso(at: int) -> str:
    text = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class Frame(msgspec.Struct, frozen=True):
    """A v1 frame, checked: the method in lower case, the params an object."""

    method: str
    params: dict[str, Any]
    id: int | float | str | None

    def text(self, member: str, limit: int) -> str:
        """A string among the params, not empty and not over the limit (characters); else BadParams."""
        value = self.params.get(member)
        if not isinstance(value, str) or not value or len(value) > limit:
            raise BadParams(f"params.{member}: a string of 1 to {limit} characters")
        return value


def parse(payload: bytes | None) -> dict[str, Any]:
    """The object in a frame; raises BadJson or BadRequest."""
    if payload is None:
        raise BadRequest("Binary frames are not used here; send text")
    try:
        given = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadJson("This is not JSON") from None
    if not isinstance(given, dict):
        raise BadRequest("A frame is one JSON object")
    return given


def frame_of(given: dict[str, Any], identity: int | float | str | None) -> Frame:
    """The frame that the object is; raises BadRequest."""
    method, params = given.get("method"), given.get("params")
    if not isinstance(method, str):
        raise BadRequest("method: a string")
    if not isinstance(params, dict):
        raise BadRequest("params: an object")
    return Frame(method.lower(), params, identity)


def identity_of(given: dict[str, Any]) -> int | float | str | None:
    """The request's id, when it is one."""
    identity = given.get("id")
    return identity if isinstance(identity, (int, float, str)) and not isinstance(identity, bool) else None


@define(eq=False)
class V1Readers:
    """Which conversation reads a room for a user, on this node: the newest one."""

    _newest: dict[tuple[str, str], V1Conversation] = field(factory=dict, init=False)

    def takes_over(self, conversation: V1Conversation, room: str, user: str) -> None:
        """From now on this conversation reads; the one before keeps its socket and falls silent."""
        before = self._newest.get((room, user))
        self._newest[room, user] = conversation
        if before is not None and before is not conversation:
            before.fall_silent(room)

    def gone(self, conversation: V1Conversation, room: str, user: str) -> None:
        """The conversation is over."""
        if self._newest.get((room, user)) is conversation:
            del self._newest[room, user]


@define(eq=False)
class V1Conversation(Conversation):
    """One v1 client."""

    readers: V1Readers = field(kw_only=True)

    def handle(self, payload: bytes | None) -> None:
        """Answers one frame, as these clients need it."""
        identity = None
        try:
            given = parse(payload)
            identity = identity_of(given)
            frame = frame_of(given, identity)
            method = METHODS.get(frame.method)
            if method is None:
                raise UnknownMethod(f"There is no method {frame.method[:64]!r}")
            method(self, frame)
        except ChatError as error:
            self.refuse(error, identity)

    def refuse(self, error: ChatError, identity: int | float | str | None) -> None:
        """An error with a string for its code."""
        code = _CODES.get(type(error), "-32000")
        self._send({"jsonrpc": "2.0", "error": {"code": code, "message": error.text}, "id": identity})

    def leave(self, room: str) -> None:
        """Gives the place up, also as the user's newest reader."""
        self.readers.gone(self, room, self.sittings[room].seat.member.user)
        super().leave(room)

    def fall_silent(self, room: str) -> None:
        """A newer connection of the user reads the room; this one may still send."""
        sitting = self.sittings.get(room)
        if sitting is not None and sitting.reader is not None:
            sitting.reader.close()
            sitting.reader = None

    def _send(self, frame: dict[str, Any]) -> None:
        self.write(text_frame(_encode(frame)))

    # -- methods ---------------------------------------------------------------------------------------

    def _join(self, frame: Frame) -> None:
        ask = self._ask(frame, Tail(self.settings.limits.history), returning=False)
        self.hold(self.refusing(self._finish_join(ask, frame), frame.id))

    def _reconnect(self, frame: Frame) -> None:
        ask = self._ask(frame, cursor_of(frame.params.get("lastMessageId")), returning=True)
        self.hold(self.refusing(self._finish_reconnect(ask, frame), frame.id))

    def _ask(self, frame: Frame, start: Cursor | Tail | None, *, returning: bool) -> Ask:
        room = names.name(frame.text("roomName", 8 * names.NAME_MAX), "params.roomName")
        member = names.name(frame.text("userName", 8 * names.NAME_MAX), "params.userName")
        user = frame.text("userId", _USER_MAX)
        if not user.isprintable():
            raise BadParams("params.userId: control characters are not allowed")
        limits = self.settings.limits
        if room.folded not in self.sittings and len(self.sittings) >= limits.rooms:
            raise TooManyRooms(f"At most {limits.rooms} rooms a connection")
        history = limits.history
        self.throttle()
        return Ask(room, member, user, self.holder(), start, history, remember=True, returning=returning)

    async def _finish_reconnect(self, ask: Ask, frame: Frame) -> None:
        try:
            await self._finish_join(ask, frame)
        except (Unavailable, Draining):
            # An error would end their attempts; a closed socket brings them back in five seconds.
            self.socket.close(close_codes.NODE_LEAVING, "try again")

    async def _finish_join(self, ask: Ask, frame: Frame) -> None:
        joined = await self.rooms.join(ask)
        if self.gone:
            self.rooms.leave(joined.seat)
            return
        self._send({"jsonrpc": "2.0", "result": "OK", "id": frame.id})
        if joined.entered and not ask.returning:
            self.write(new_user(joined.seat.room, joined.seat.member.name))
        self._take_place(joined)

    def _take_place(self, joined: Joined) -> None:
        earlier = self.sittings.get(joined.seat.room.id)
        if earlier is not None:
            self.readers.gone(self, joined.seat.room.id, earlier.seat.member.user)
        self.sit(joined)
        self.readers.takes_over(self, joined.seat.room.id, joined.seat.member.user)

    def _text(self, frame: Frame) -> None:
        sitting = self._sitting(frame)
        room = sitting.seat.room
        uuid = names.uuid(frame.text("uuid", 64), "params.uuid")
        body = schema.text_body({"text": frame.params.get("text")}, self.settings.limits.text)
        date = frame.params.get("date")
        if isinstance(date, str) and len(date) <= _DATE_MAX:
            body["date"] = date
        log = self.rooms.log
        known = log.recent(room.id, uuid)
        if known is not None:
            self._echo(sitting, known)
        elif not log.queued(room.id, uuid):
            promise = self.post(sitting.seat, uuid, "text", body)
            self.throttle()
            self.in_flight(self.refusing(self._finish_text(promise, sitting), frame.id))

    async def _finish_text(self, promise: Promise[Posted], sitting: Sitting) -> None:
        posted = await promise.wait()
        if posted.repeated or sitting.reader is None:
            self._echo(sitting, posted.message)

    def _echo(self, sitting: Sitting, message: Message) -> None:
        """Acknowledges a repeat, to its sender only; what its feed will still bring is not sent twice."""
        if sitting.reader is None or message.seq <= sitting.reader.cursor:
            self.write(self.dialect.message(sitting.seat.room, message))

    def _sitting(self, frame: Frame) -> Sitting:
        """The joined room that a frame means; a frame that names none of them is refused."""
        given = frame.params.get("roomName")
        if isinstance(given, str) and len(given) <= 8 * names.NAME_MAX:
            sitting = self.sittings.get(names.fold(given.strip()))
            if sitting is not None:
                return sitting
        raise NotJoined


METHODS: dict[str, Callable[[V1Conversation, Frame], None]] = {
    "joinroom": V1Conversation._join,
    "reconnect": V1Conversation._reconnect,
    "textmessage": V1Conversation._text,
}
