"""Our own look at a replica set: one short-lived connection to each member, with a deadline.

txmongo finds out late that its primary stands still (a frozen host's kernel goes on accepting connections);
asking all members at once tells within a second which of them is the primary now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory
from txmongo.protocol import MongoProtocol

from eftchat.mongo.address import Host, spelled


class Seen(msgspec.Struct, frozen=True):
    """What a member said of itself; `peer` is its address as the transport knows it."""

    host: Host
    peer: Any
    hello: dict[str, Any]

    @property
    def writable(self) -> bool:
        """Whether it takes writes: the primary, or a mongos."""
        return bool(self.hello.get("ismaster"))

    @property
    def sharded(self) -> bool:
        """Whether it is a mongos, the door to a sharded cluster."""
        return self.hello.get("msg") == "isdbgrid"

    @property
    def members(self) -> list[Host]:
        """All members that it knows."""
        pairs = (name.rpartition(":") for name in self.hello.get("hosts", []))
        return [(name.strip("[]"), int(port)) for name, _, port in pairs]

    def __str__(self) -> str:
        return spelled(self.host)


class _Looker(Factory):
    """The factory that txmongo's protocol expects, without a pool behind it."""

    protocol = MongoProtocol
    noisy = False

    def setInstance(self, instance: object = None, reason: object = None) -> None:
        """The protocol reports that it is gone; nobody here waits for it."""


async def look(reactor: Any, hosts: Iterable[Host], deadline: float) -> list[Seen]:
    """Those of the hosts that answered within `deadline` seconds. Leaves no connection behind."""
    asked = [Deferred.fromCoroutine(_ask(reactor, host)).addTimeout(deadline, reactor) for host in set(hosts)]
    answers = await DeferredList(asked, consumeErrors=True)
    return [seen for succeeded, seen in answers if succeeded]


def primary(seen: Sequence[Seen]) -> Seen | None:
    """The one that takes writes; of two that claim to, the one that was elected last."""
    return max((s for s in seen if s.writable), key=_elected, default=None)


def _elected(seen: Seen) -> bytes:
    election = seen.hello.get("electionId")
    return election.binary if election else b""


async def _ask(reactor: Any, host: Host) -> Seen:
    looker: Any = _Looker()
    protocol = await HostnameEndpoint(reactor, *host).connect(looker)
    try:
        hello = await protocol.send_op_query_command("admin", {"ismaster": 1})
        return Seen(host, protocol.transport.getPeer(), hello)
    finally:
        protocol.transport.abortConnection()
