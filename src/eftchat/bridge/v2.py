"""The v2 dialect: JSON-RPC 2.0 over websocket, one request one response, feeds as `messages` notifications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from attrs import define, field

from eftchat.bridge.connection import Conversation
from eftchat.domain import names
from eftchat.domain.errors import (
    BadJson,
    BadParams,
    BadRequest,
    ChatError,
    NotConnected,
    NotJoined,
    TooManyRooms,
    UnknownMethod,
)
from eftchat.domain.messages import Member, Message, Posted, Presence, Room
from eftchat.ports import Promise
from eftchat.rooms import Ask
from eftchat.wire import schema
from eftchat.wire.frames import text_frame

FRAME_MESSAGES = 500
FRAME_BYTES = 128 * 1024

S = TypeVar("S", bound=msgspec.Struct)
_encode = msgspec.json.Encoder().encode


class Request(msgspec.Struct, frozen=True):
    """The envelope of a v2 frame."""

    id: int | str
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


_decode = msgspec.json.Decoder(Request).decode


@define(eq=False)
class V2Dialect:
    """How v2 clients are told; see `ports.Dialect`."""

    def message(self, room: Room, message: Message) -> bytes:
        """The message object."""
        return _encode(schema.shown_message(room, message))

    def pack(self, room: Room, encoded: Sequence[bytes]) -> bytes:
        """As few `messages` frames as their bounds allow."""
        head = b'{"jsonrpc":"2.0","method":"messages","params":{"room":%b,"epoch":%b,"messages":[' % (
            _encode(room.name),
            _encode(room.epoch),
        )
        frames: list[bytes] = []
        start = size = 0
        for here, part in enumerate(encoded):
            if here > start and (here - start >= FRAME_MESSAGES or size + len(part) > FRAME_BYTES):
                frames.append(text_frame(head + b",".join(encoded[start:here]) + b"]}}"))
                start, size = here, 0
            size += len(part) + 1
        frames.append(text_frame(head + b",".join(encoded[start:]) + b"]}}"))
        return b"".join(frames)

    def presence(self, room: Room, presence: Presence) -> bytes:
        """An `entered`, `left` or `typing` notification."""
        method = type(presence).__name__.lower()
        return notification(method, schema.shown_presence(room, presence))

    def roster(self, room: Room, members: Sequence[Member]) -> bytes:
        """A `members` notification: it replaces what the client knows."""
        return notification("members", {"room": room.name, **schema.shown_members(members)})


def notification(method: str, params: dict[str, Any]) -> bytes:
    """A frame that the server sends of its own accord."""
    return text_frame(_encode({"jsonrpc": "2.0", "method": method, "params": params}))


@define(eq=False)
class V2Conversation(Conversation):
    """One v2 client."""

    connected: bool = field(default=False, init=False)

    def handle(self, payload: bytes | None) -> None:
        """Answers one frame: a result or an error, exactly one."""
        identity: int | str | None = None
        try:
            if payload is None:
                raise BadRequest("Binary frames are not used here; send text")
            request = parse(payload)
            identity = request.id
            method = METHODS.get(request.method)
            if method is None:
                raise UnknownMethod(f"There is no method {request.method[:64]!r}")
            if not self.connected and request.method != "connect":
                raise NotConnected
            method(self, request)
        except ChatError as error:
            self.refuse(error, identity)

    def refuse(self, error: ChatError, identity: int | str | None) -> None:
        """An error response."""
        self._send({"jsonrpc": "2.0", "id": identity, "error": schema.shown_error(error)})

    def _answer(self, identity: int | str, result: object) -> None:
        self._send({"jsonrpc": "2.0", "id": identity, "result": result})

    def _send(self, response: dict[str, Any]) -> None:
        self.write(text_frame(_encode(response)))

    # -- methods ---------------------------------------------------------------------------------------

    def _connect(self, request: Request) -> None:
        read(request, schema.Connect)
        self.connected = True
        limits = self.settings.limits
        shown = {"text": limits.text, "frame": limits.frame, "rate": limits.post_rate, "rooms": limits.rooms}
        result = {"node": self.settings.node, "user": self.id, "limits": shown}
        now = round(self.loop.seconds() * 1000)
        self._answer(request.id, {**result, "heartbeat_ms": self.settings.heartbeat_ms, "time": now})

    def _join(self, request: Request) -> None:
        params = read(request, schema.Join)
        room = names.name(params.room, "params.room")
        limits = self.settings.limits
        if room.folded not in self.sittings and len(self.sittings) >= limits.rooms:
            raise TooManyRooms(f"At most {limits.rooms} rooms a connection")
        start = params.start(limits.history)
        ask = Ask(room, names.name(params.name, "params.name"), params.user or self.id, self.holder(), start)
        self.throttle()
        self.hold(self.refusing(self._finish_join(ask, request.id), request.id))

    async def _finish_join(self, ask: Ask, identity: int | str) -> None:
        joined = await self.rooms.join(ask)
        if self.gone:
            self.rooms.leave(joined.seat)
            return
        self._answer(identity, schema.shown_joined(joined))
        self.sit(joined)

    def _leave(self, request: Request) -> None:
        room = names.name(read(request, schema.InRoom).room, "params.room")
        if room.folded not in self.sittings:
            raise NotJoined
        self.leave(room.folded)
        self._answer(request.id, {})

    def _post(self, request: Request) -> None:
        params = read(request, schema.Post)
        uuid = names.uuid(params.uuid, "params.uuid")
        body = schema.text_body(params.body, self.settings.limits.text)
        sitting = self.sittings.get(names.name(params.room, "params.room").folded)
        if sitting is None:
            raise NotJoined
        promise = self.post(sitting.seat, uuid, params.kind, body)
        self.throttle()
        self.in_flight(self.refusing(self._finish_post(promise, request.id), request.id))

    async def _finish_post(self, promise: Promise[Posted], identity: int | str) -> None:
        self._answer(identity, schema.shown_posted(await promise.wait()))

    def _since(self, request: Request) -> None:
        self._read(request, self.rooms.since, backwards=False)

    def _before(self, request: Request) -> None:
        self._read(request, self.rooms.before, backwards=True)

    def _read(self, request: Request, pages: Callable[..., Any], *, backwards: bool) -> None:
        """One page at a time, and no further before the client has taken it: pages are large."""
        params = read(request, schema.Range)
        room = names.name(params.room, "params.room")
        self.throttle()

        async def finish() -> None:
            page = await pages(room, params.seq, params.limit)
            fitting = schema.nearest(page, FRAME_MESSAGES, FRAME_BYTES, backwards=backwards)
            self._answer(request.id, schema.shown_page(fitting))

        self.hold(self.refusing(finish(), request.id))

    def _members(self, request: Request) -> None:
        room = names.name(read(request, schema.InRoom).room, "params.room")
        self.throttle()

        async def finish() -> None:
            self._answer(request.id, schema.shown_members(await self.rooms.present(room)))

        self.in_flight(self.refusing(finish(), request.id))

    def _typing(self, request: Request) -> None:
        params = read(request, schema.TypingIn)
        sitting = self.sittings.get(names.name(params.room, "params.room").folded)
        if sitting is None:
            raise NotJoined
        self.throttle()
        self.rooms.typing(sitting.seat, params.on, self)
        self._answer(request.id, {})


METHODS: dict[str, Callable[[V2Conversation, Request], None]] = {
    "connect": V2Conversation._connect,
    "join": V2Conversation._join,
    "leave": V2Conversation._leave,
    "post": V2Conversation._post,
    "since": V2Conversation._since,
    "before": V2Conversation._before,
    "members": V2Conversation._members,
    "typing": V2Conversation._typing,
}


def parse(payload: bytes) -> Request:
    """The envelope of a frame; raises BadJson or BadRequest."""
    try:
        return _decode(payload)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Not a request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadJson("This is not JSON") from None


def read(request: Request, shape: type[S]) -> S:
    """The request's params as the shape; raises BadParams that names the member."""
    try:
        return msgspec.json.decode(request.params, type=shape)
    except msgspec.ValidationError as error:
        raise BadParams(str(error).replace("`$", "`params")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadParams("params: not an object") from None
