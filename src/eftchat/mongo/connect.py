"""Opens the MongoDB store, and refuses one that could not keep what eftchat promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.task import deferLater

from eftchat.mongo import indexes
from eftchat.mongo.address import Address, StoreUnusable, parse
from eftchat.mongo.link import Deadlines, Link, Lost, NotSent, Refused
from eftchat.mongo.look import Seen, look, primary
from eftchat.mongo.members import MongoMembers
from eftchat.mongo.messages import MongoMessages
from eftchat.ports import CannotStart

_OLDEST_WIRE = 9
"""MongoDB 4.4."""
_UNAUTHORIZED = frozenset({13, 18})


class StoreUnreachable(CannotStart):
    """No MongoDB that takes writes answered in time; the same call may succeed later."""


@attrs.define
class MongoStore:
    """The open store. `close` ends it; the ports are not to be called afterwards."""

    messages: MongoMessages
    members: MongoMembers
    _link: Link

    async def close(self) -> None:
        """Drops all connections."""
        await self._link.close()


async def connect(reactor: Any, uri: str, deadlines: Deadlines | None = None) -> MongoStore:
    """The store in the database that `uri` names (`eftchat` when it names none), with its indexes made.

    Raises StoreUnreachable when no primary answers within `deadlines.connect` seconds, StoreUnusable when
    what answers is no replica set, too old, without a working majority, or refuses us. No text shows a
    password.
    """
    address = parse(uri)
    deadlines = deadlines or Deadlines()
    found = await _find_primary(reactor, address, deadlines.connect)
    if found.hello.get("maxWireVersion", 0) < _OLDEST_WIRE:
        raise StoreUnusable(f"MongoDB at {found} is too old: 4.4 or later is needed")
    link = Link(reactor, address, deadlines)
    link.start(found)
    try:
        await _check(link, found)
    except BaseException:
        await link.close()
        raise
    return MongoStore(MongoMessages(link), MongoMembers(link), link)


async def _find_primary(reactor: Any, address: Address, deadline: float) -> Seen:
    end = reactor.seconds() + deadline
    hosts = list(address.hosts)
    seen: Sequence[Seen] = ()
    while (left := end - reactor.seconds()) > 0:
        seen = await look(reactor, hosts, min(1.0, left))
        _refuse_standalone(seen, address)
        found = primary(seen)
        if found is not None:
            return found
        hosts = list(dict.fromkeys([*hosts, *(host for each in seen for host in each.members)]))
        await deferLater(reactor, min(0.2, left))
    if seen:
        raise StoreUnreachable(f"The MongoDB replica set at {address} has no primary")
    raise StoreUnreachable(f"No MongoDB answers at {address} within {deadline:g} s")


def _refuse_standalone(seen: Sequence[Seen], address: Address) -> None:
    for each in seen:
        if each.hello.get("isreplicaset"):
            raise StoreUnusable(f"The MongoDB replica set at {each} is not set up: run rs.initiate() on it")
        if "setName" not in each.hello and not each.sharded:
            raise StoreUnusable(
                f"MongoDB at {each} is not a replica set: start mongod with --replSet NAME and run"
                " rs.initiate() (one member is enough to try things out)"
            )
        wanted = address.options.get("replicaSet")
        if wanted and not each.sharded and each.hello["setName"] != wanted:
            raise StoreUnusable(
                f"MongoDB at {each} belongs to the replica set {each.hello['setName']}, not {wanted}"
            )


async def _check(link: Link, found: Seen) -> None:
    """Makes the indexes and tries a majority write and a majority read."""
    try:
        await indexes.ensure(link)
        # Deletes nothing, and waits for a majority like any write.
        await link.write({"delete": "leases", "deletes": [{"q": {"_id": ""}, "limit": 1}]})
        await link.rows({"find": "rooms", "limit": 1})
    except Refused as error:
        if error.code in _UNAUTHORIZED:
            raise StoreUnusable(
                f"MongoDB at {found} does not let us in: check user, password and authSource; the user needs"
                f" the role readWrite on {link.address.database}"
            ) from None
        raise StoreUnusable(f"MongoDB at {found} cannot be used: {error}") from None
    except Lost as error:
        raise StoreUnusable(
            f"MongoDB at {found}: a majority of the members does not acknowledge writes ({error})"
        ) from None
    except NotSent:
        raise StoreUnreachable(f"MongoDB at {found} answers, but takes no connection") from None
