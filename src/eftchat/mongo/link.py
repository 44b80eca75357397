"""The way to the primary: every command of the store goes through here, with a deadline.

Theory of operation. A txmongo pool holds a few connections to the primary and reconnects by itself after a
step-down or a crash. It does badly when the primary stands still: its calls hang. So whenever a call is out
for longer than `patience`, or ended badly, the link takes its own look at all members (look.py). When another
one is the primary now, the pool is thrown away, which ends all its calls at once, and a fresh pool starts at
the new primary. Idle, the link has no timer.

What a caller needs to know after a failure is one thing: was the command sent? `NotSent` says no. `Lost` says
that it may have been applied, or may still be.

Rejected: a wait for the pool's own pings (seen to take 9-19 s, or as long as the host is frozen).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
from bson.codec_options import CodecOptions
from pymongo.errors import ConnectionFailure, OperationFailure
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from txmongo.connection import ConnectionPool
from txmongo.protocol import MongoProtocol, Msg

from eftchat.mongo.address import Address, Host
from eftchat.mongo.look import Seen, look, primary

Document = Mapping[str, Any]

_CODEC: CodecOptions[dict[str, Any]] = CodecOptions()
_LOOK = 0.5
"""Seconds within which a member has to answer a look."""
_POLL = 0.02
"""Seconds between two looks at the pool while it has no connection."""
PASSING = frozenset(
    {6, 7, 43, 50, 64, 89, 91, 134, 175, 189, 237, 262, 9001, 10107, 11600, 11602, 13435, 13436}
)
"""Codes of failures that pass: network, elections, shutdowns, deadlines, a cursor that is gone."""


class Deadlines(msgspec.Struct, frozen=True):
    """Seconds: to get a connection, for a read, for a write; and before a silent primary is doubted."""

    connect: float = 5.0
    read: float = 5.0
    write: float = 10.0
    patience: float = 0.5


class NotSent(Exception):
    """No connection to a primary was to be had: the command was never sent."""


class Lost(Exception):
    """The command was sent and no certain answer came: it may have been applied, or may still be."""


class Refused(Exception):
    """The server said no, for a reason that does not pass by itself. `code` is MongoDB's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"MongoDB refuses (code {code}): {text}")
        self.code = code


@attrs.define(eq=False)
class Link:
    """A pool of connections to whichever member is the primary."""

    log = Logger()

    reactor: Any
    address: Address
    deadlines: Deadlines = Deadlines()
    size: int = 4
    """Connections: the one write and a few reads beside it."""

    _known: list[Host] = attrs.field(factory=list, init=False)
    _pool: Any = attrs.field(default=None, init=False)
    _aim: tuple[Any, float] = attrs.field(default=(None, 0.0), init=False)
    """The primary for which the pool was opened, and when."""
    _since: dict[object, float] = attrs.field(factory=dict, init=False)
    """When each call that is under way began."""
    _timer: Any = attrs.field(default=None, init=False)
    _looking: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def start(self, at: Seen) -> None:
        """Opens the pool at this primary."""
        self._known = [*self.address.hosts, *at.members]
        self._open(at)

    async def read(self, command: Document) -> dict[str, Any]:
        """The server's answer to a command that changes nothing. Not asked again when it is lost."""
        return await self._call(command, None, self.deadlines.read)

    async def write(
        self, command: Document, documents: Mapping[str, Sequence[Any]] | None = None
    ) -> dict[str, Any]:
        """The server's answer, durable on a majority and in their journals.

        Raises Lost also when the server itself cannot tell (its `writeConcernError`). Errors of single
        documents are in the answer's `writeErrors`.
        """
        patience = int(self.deadlines.write * 800)  # the server's own word comes before our deadline
        durable = {**command, "writeConcern": {"w": "majority", "j": True, "wtimeout": patience}}
        answer = await self._call(durable, documents, self.deadlines.write)
        if "writeConcernError" in answer:
            raise Lost(f"no majority: code {answer['writeConcernError'].get('code')}")
        return answer

    async def rows(self, command: Document) -> list[dict[str, Any]]:
        """All documents of a `find` or `aggregate`, seen by a majority; tried twice."""
        try:
            return await self._rows(command)
        except Lost:
            return await self._rows(command)

    async def _rows(self, command: Document) -> list[dict[str, Any]]:
        answer = await self.read({**command, "readConcern": {"level": "majority"}})
        rows: list[dict[str, Any]] = answer["cursor"]["firstBatch"]
        # An answer has at most 16 MB. A lost `getMore` must not be asked again: its batch would be skipped.
        while answer["cursor"]["id"]:
            collection = answer["cursor"]["ns"].partition(".")[2]
            answer = await self.read({"getMore": answer["cursor"]["id"], "collection": collection})
            rows += answer["cursor"]["nextBatch"]
        return rows

    async def close(self) -> None:
        """Drops all connections; calls under way end with NotSent or Lost."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._drop()

    async def _call(self, command: Document, documents: Any, deadline: float) -> dict[str, Any]:
        call = object()
        self._since[call] = self.reactor.seconds()
        self._watch()
        try:
            protocol = await self._connection()
            return await self._send(protocol, command, documents, deadline)
        finally:
            del self._since[call]

    async def _connection(self) -> MongoProtocol:
        """The connection with the least to do, waited for until the deadline."""
        end = self.reactor.seconds() + self.deadlines.connect
        while not self._closed and self.reactor.seconds() < end:
            free = self._connected()
            if free:
                return min(free, key=MongoProtocol.inflight)
            # Not `getprotocol()`: that waits for one certain connection, of a pool that may be replaced.
            await deferLater(self.reactor, _POLL)
        raise NotSent(f"no primary at {self.address}")

    async def _send(
        self, protocol: MongoProtocol, command: Document, documents: Any, deadline: float
    ) -> dict[str, Any]:
        message = Msg.create({**command, "$db": self.address.database}, documents, codec_options=_CODEC)
        try:
            answer: dict[str, Any] = await protocol.send_msg(message, _CODEC, None).addTimeout(
                deadline, self.reactor
            )
        except TimeoutError:
            protocol.transport.abortConnection()  # whatever comes next on it would wait behind this call
            self._doubt()
            raise Lost(f"no answer within {deadline} s") from None
        except ConnectionFailure as error:
            self._doubt()
            raise Lost(type(error).__name__) from error
        except OperationFailure as error:
            code = error.code or 0
            if code in PASSING:
                raise Lost(f"code {code}") from error
            raise Refused(code, (error.details or {}).get("codeName", "")) from None
        return answer

    def _connected(self) -> list[MongoProtocol]:
        connections = self._pool.getprotocols() if self._pool is not None else []
        protocols = [connection.instance for connection in connections if connection.instance is not None]
        return [protocol for protocol in protocols if not protocol.transport.disconnecting]

    # Watching the primary.

    def _watch(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = self.reactor.callLater(self.deadlines.patience, self._turn)

    def _turn(self) -> None:
        self._timer = None
        if not self._since:
            return
        self._watch()
        if self.reactor.seconds() - min(self._since.values()) >= self.deadlines.patience:
            self._doubt()

    def _doubt(self) -> None:
        """Something is slow or broken: who is the primary?"""
        if self._looking or self._closed:
            return
        self._looking = True
        looked = Deferred.fromCoroutine(self._find_primary())
        looked.addErrback(lambda failure: self.log.failure("looking for the primary", failure))

    async def _find_primary(self) -> None:
        try:
            seen = await look(self.reactor, self._known, _LOOK)
        finally:
            self._looking = False
        best = primary(seen)
        if best is None or self._closed:
            return
        self._known = list(dict.fromkeys([*self.address.hosts, *best.members]))
        writable = [each.peer for each in seen if each.writable and (each.sharded or each is best)]
        if any(protocol.transport.getPeer() in writable for protocol in self._connected()):
            return
        peer, since = self._aim
        if peer == best.peer and self.reactor.seconds() - since < self.deadlines.connect:
            return  # it is on its way there
        self.log.warn("The primary is now {host}: all connections are made anew", host=str(best))
        await self._drop()
        if not self._closed:
            self._open(best)

    def _open(self, at: Seen) -> None:
        self._aim = (at.peer, self.reactor.seconds())
        hosts = dict.fromkeys([at.host, *self._known])
        self._pool = ConnectionPool(
            self.address.uri(hosts), pool_size=self.size, retry_delay=1.0, max_delay=1.0
        )

    async def _drop(self) -> None:
        """Ends the pool, also where the other side does not answer."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for connection in pool.getprotocols():
            connection.stopTrying()
            if connection.instance is not None:
                connection.instance.transport.abortConnection()
        await pool.disconnect()
