"""The collections and their indexes.

| collection     | `_id`          | more                                                                  |
|----------------|----------------|-----------------------------------------------------------------------|
| `rooms`        | the room's id  | `name`, `epoch`                                                       |
| `messages`     | an ObjectId    | unique (room, seq), unique (room, uuid)                               |
| `claims`       | {room, folded} | `holds` with one entry per connection, `version` for compare-and-swap |
| `leases`       | the node       | `until`, by the server's clock                                        |
| `nodes`        | a node's id    | `node`, the one that has it, and `until`                              |
| `first_joined` | {room, user}   | `seq`                                                                 |

Both unique indexes of `messages` begin with `room`, so that the collection can be sharded on `room`. Its
`_id` could have been {room, seq} itself, which saves an index: measured, that is 5-10 % of the time of a
batch, and it costs the plain index on (room, seq) by which `heads` skips from room to room (DISTINCT_SCAN:
one key per room).

Empty claims documents and forgotten leases are swept by MongoDB itself (TTL indexes).
"""

from __future__ import annotations

from typing import Any

from eftchat.mongo.link import Link

SEQ_INDEX = "room_seq"
UUID_INDEX = "room_uuid"

_HOUR = 3600

_INDEXES: dict[str, list[dict[str, Any]]] = {
    "rooms": [],
    "messages": [
        {"name": SEQ_INDEX, "key": {"room": 1, "seq": 1}, "unique": True},
        {"name": UUID_INDEX, "key": {"room": 1, "uuid": 1}, "unique": True},
    ],
    "claims": [
        {"name": "room", "key": {"room": 1}},
        {"name": "lease", "key": {"holds.lease": 1}},
        {"name": "node", "key": {"holds.node": 1}},
        {"name": "session", "key": {"holds.session": 1}, "sparse": True},
        {"name": "emptied", "key": {"emptied": 1}, "expireAfterSeconds": 60},
    ],
    "leases": [{"name": "until", "key": {"until": 1}, "expireAfterSeconds": _HOUR}],
    "nodes": [{"name": "until", "key": {"until": 1}, "expireAfterSeconds": _HOUR}],
    "first_joined": [],
}


async def ensure(link: Link) -> None:
    """Makes what is missing. Raises what `Link.write` raises."""
    for collection, indexes in _INDEXES.items():
        if indexes:
            await link.write({"createIndexes": collection, "indexes": indexes})
