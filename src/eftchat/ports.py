"""The seams of the core: what it needs of the world, as protocols with their contracts.

Adapters live in `mongo/`, `sqlite/`, `wamp/` and `ops/`; the in-memory twins in `testing/`. One contract
suite (`tests/contract/`) judges every adapter of a port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from eftchat.domain.messages import Claim, Member, Message, Presence, Room

T = TypeVar("T")


class OutcomeUnknown(Exception):
    """A write may or may not have been applied, or may still be: read back before saying anything about it."""


class Appended(msgspec.Struct, frozen=True):
    """How far an ordered batch went: its first `stored` messages are durable.

    `taken` tells what the next one collided with (None when all were stored): its place (`seq`) or its
    identity (`uuid`). Nothing behind it was stored.
    """

    stored: int
    taken: Literal["seq", "uuid"] | None = None


class Messages(Protocol):
    """The logs of all rooms. Every write is durable on a majority before it is answered.

    Every read sees only what is durable on a majority. Any call may raise `Unavailable`: nothing was
    applied and the same call may succeed later.
    """

    async def open(self, room: str, name: str, epoch: str) -> Room:
        """The room whose id is `room`; made with this `name` and `epoch` when it does not exist yet."""

    async def append(self, batch: Sequence[Message]) -> Appended:
        """Stores the batch in its order and stops at the first message that collides.

        Unique are (room, seq) and (room, uuid). When both are taken, either may be named. Raises
        OutcomeUnknown when it cannot tell how far it went.
        """

    async def find(self, room: str, uuids: Sequence[str]) -> Mapping[str, Message]:
        """Those of the uuids that are stored in the room."""

    async def heads(self, rooms: Sequence[str]) -> Mapping[str, int]:
        """The last seq of each room (0 for an empty one), in one query."""

    async def after(self, room: str, seq: int, limit: int) -> list[Message]:
        """Up to `limit` messages that follow `seq`, rising and dense."""

    async def before(self, room: str, seq: int, limit: int) -> list[Message]:
        """Up to `limit` messages that precede `seq`, the nearest ones, rising and dense."""


class Members(Protocol):
    """Who holds which name in which room, by leases. Names compare by their folded form.

    A claim counts as long as the lease of its node runs; the store's own clock decides, not the caller's. A node
    is one run of a process: what is started again is another node, which may ask for the same id. The claim of a
    WAMP session hangs on the lease of its router instead, which all nodes on that router renew.
    """

    async def enlist(self, id: str, node: str, ttl_ms: int) -> bool:
        """The id by which operators know a node is this node's for `ttl_ms` from now. Returns False, and changes
        nothing, while it is another's."""

    async def renew(self, node: str, ttl_ms: int) -> None:
        """The lease of `node` runs for `ttl_ms` from now. Creates it when there is none."""

    async def claim(self, claim: Claim) -> bool:
        """Holds the name for the claim's member until released or lapsed.

        The same user may hold its name through several holders; claiming twice changes nothing. Returns
        True when the member was not there before (no living holder). Raises NameTaken when another user,
        alive, has it.
        """

    async def release(self, claim: Claim) -> bool:
        """Lets go. Returns True when that was the member's last living hold on the name, and it was held."""

    async def present(self, room: str) -> list[Member]:
        """The members with a living hold, by name."""

    async def held(self, sessions: Sequence[str]) -> list[Claim]:
        """What these WAMP sessions hold, also on a lease that has lapsed, until somebody clears it or another user
        takes the name."""

    async def hanging(self, node: str) -> list[Claim]:
        """All claims on this lease, as in `held`."""

    async def adopt(self, sessions: Sequence[str], node: str) -> None:
        """What these WAMP sessions hold (see `held`) hangs on the lease of `node` from now on."""

    async def forget(self, node: str) -> None:
        """The node leaves in good order: its lease, all claims on it, and its hold on its id end now."""

    async def lapsed(self) -> list[Claim]:
        """Clears the claims whose leases ran out; returns, each once over all nodes, those that were the
        member's last."""

    async def first_joined(self, room: str, user: str, seq: int) -> int:
        """Where the user first joined the room: `seq`, kept for ever, when this is its first time."""


class Bus(Protocol):
    """How nodes hear of each other's work, soon and without a promise: events may be lost, repeated,
    late or out of order. Nothing here waits."""

    def watch(self, room: Room) -> None:
        """From now on (once the routers know) events of the room come to the listener."""

    def unwatch(self, room: Room) -> None:
        """No more events of the room."""

    def publish(self, room: Room, messages: Sequence[Message]) -> None:
        """Tells everyone who watches the room, WAMP clients too, that its log now holds these (dense)."""

    def announce(self, room: Room, presence: Presence, but: int | None = None) -> None:
        """Tells everyone who watches the room who came, went or types; all but this WAMP session."""


class BusListener(Protocol):
    """What a bus calls when something arrives."""

    def arrived(self, room: str, epoch: str, messages: Sequence[Message]) -> None:
        """Another node stored these (dense and rising)."""

    def noticed(self, room: str, presence: Presence) -> None:
        """Another node saw somebody come or go."""

    def watching(self, room: str) -> None:
        """A watch has (again) become effective: what was published before may have been missed."""


class Dialect(Protocol):
    """How one kind of client wants to be told; one object a node, so that bytes are made once."""

    def message(self, room: Room, message: Message) -> bytes:
        """One message, encoded; the feed keeps it for all readers of the dialect."""

    def pack(self, room: Room, encoded: Sequence[bytes]) -> bytes:
        """Encoded messages as what goes over the wire in one write."""

    def presence(self, room: Room, presence: Presence) -> bytes | None:
        """Who came, went or types, ready for the wire; None when these clients do not want to know."""

    def roster(self, room: Room, members: Sequence[Member]) -> bytes | None:
        """All who are in the room, ready for the wire; None, whoever they are, when these clients do not want to
        know."""


class Outlet(Protocol):
    """The way out to one reader, a socket. Whoever owns it calls `Feed.wake` when it is writable again."""

    @property
    def dialect(self) -> Dialect: ...

    def writable(self) -> bool:
        """False while the transport's buffer is full."""

    def write(self, data: bytes) -> None:
        """Hands bytes made by the dialect to the transport."""


class Timer(Protocol):
    """A call that will happen, unless cancelled before."""

    def cancel(self) -> None: ...

    def active(self) -> bool: ...


class Promise(Protocol[T]):
    """A value that will be there: settled once, awaited by any number."""

    def resolve(self, value: T) -> None: ...

    def reject(self, error: Exception) -> None: ...

    def wait(self) -> Awaitable[T]: ...


class Loop(Protocol):
    """Time and tasks. In production Twisted's reactor; in the simulation a clock that a seed drives."""

    def seconds(self) -> float:
        """Seconds since 1970."""

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        """Calls once, after `delay` seconds."""

    def sleep(self, delay: float) -> Awaitable[None]:
        """Done after `delay` seconds."""

    def promise(self) -> Promise[Any]:
        """A new, unsettled promise."""

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Runs the coroutine on its own, starting now; an error that escapes it is logged as `what`."""


class CannotStart(Exception):
    """Something that is needed is missing, taken or unusable. The text says what, and what to do, in one line."""

    status = 1
    """What the process exits with."""
