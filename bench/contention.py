"""Several nodes that all write to one room: how much each gets through, and how long the unluckiest post waits.

    python bench/contention.py                     # 3 nodes, 20 senders each, 10 s, a 3-member replica set
    python bench/contention.py --nodes 1           # what one node alone does, to compare

Each node is a log of its own over a store connection of its own; they know of each other only through the collisions
in the database. At the end the room's log is read and must be dense.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any

import click
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from eftchat import mongo
from eftchat.domain.messages import Draft
from eftchat.log import Log
from eftchat.ops.loop import TwistedLoop
from eftchat.testing.mongod import ReplicaSet

ROOM = "r"


@define(eq=False)
class Node:
    """One log and its senders, each of which posts as soon as it was answered."""

    number: int
    log: Log
    waits: list[float] = field(factory=list)

    async def send(self, sender: int, until: float) -> None:
        """Posts until then."""
        loop, count = self.log.loop, 0
        while loop.seconds() < until:
            count += 1
            begun = loop.seconds()
            draft = Draft(ROOM, f"{self.number}-{sender}-{count}", "text", "u", "n", 0, {"text": "x" * 200})
            await self.log.post(draft).wait()
            self.waits.append(loop.seconds() - begun)


async def run(reactor: Any, uri: str, nodes: int, senders: int, seconds: float) -> None:
    """The contest, and its table."""
    loop = TwistedLoop(reactor)
    stores = [await mongo.connect(reactor, uri) for _ in range(nodes)]
    crowd = [Node(n, Log(store.messages, loop, Random(n), lambda *_: None)) for n, store in enumerate(stores)]
    until = loop.seconds() + seconds
    work = [Deferred.fromCoroutine(node.send(s, until)) for node in crowd for s in range(senders)]
    await gatherResults(work)
    total = 0
    for node in crowd:
        total += len(node.waits)
        cut = quantiles(node.waits, n=100)
        click.echo(
            f"node {node.number}: {len(node.waits) / seconds:7.0f} posts/s   wait p50 {cut[49] * 1000:6.1f} ms"
            f"  p99 {cut[98] * 1000:6.1f} ms  longest {max(node.waits) * 1000:6.1f} ms"
            f"   collisions {node.log.collisions}"
        )
    head = (await stores[0].messages.heads([ROOM]))[ROOM]
    seqs: list[int] = []
    while page := await stores[0].messages.after(ROOM, len(seqs), 1_000):
        seqs += [message.seq for message in page]
    dense = seqs == list(range(1, total + 1)) and head == total
    click.echo(
        f"together {total / seconds:6.0f} posts/s; the log is {'dense' if dense else 'BROKEN'}: {head} messages"
    )
    for store in stores:
        await store.close()


@click.command(help=__doc__)
@click.option("--nodes", default=3, show_default=True)
@click.option("--senders", default=20, show_default=True, help="Per node.")
@click.option("--seconds", default=10.0, show_default=True)
def main(**options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        members = ReplicaSet.start(Path(folder))
        try:
            react(lambda reactor: Deferred.fromCoroutine(run(reactor, members.uri, **options)))
        finally:
            members.stop()


if __name__ == "__main__":
    main()
