"""Durable posts a second, through the front door: N websocket clients offer a steady rate to one real node.

    python bench/posts.py                        # 3-member replica set, 50 connections, 2,000 posts/s, 20 s
    python bench/posts.py --store sqlite --rate 4000

Open loop: posts leave on schedule whether or not earlier ones were answered, and the latency of each counts from
when it was due. Prints the acknowledged rate, p50 and p99, and checks the log: every acknowledged post is in it once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import click
import msgspec
from attrs import define, field
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, react

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct):
    """What of a frame matters here."""

    id: int | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(Answer).decode


@define(eq=False)
class Load:
    """The offered load and what became of it."""

    reactor: Any
    url: str
    connections: int
    rooms: int
    rate: float
    seconds: float
    size: int
    clients: list[Poster] = field(factory=list)
    latencies: list[float] = field(factory=list)
    errors: list[str] = field(factory=list)
    sent: int = 0
    begun: float = 0.0
    ended: float = 0.0

    async def run(self) -> None:
        """Connects everyone, offers the load, and waits until everything is answered."""
        await gatherResults([self._connect(number) for number in range(self.connections)])
        with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as progress:
            bar = progress.add_task("posting", total=self.rate * self.seconds)
            self.begun = self.reactor.seconds()
            ticking = LoopingCall(lambda: self._tick(ticking, progress, bar))
            ticking.clock = self.reactor
            await ticking.start(0.005)
            while len(self.latencies) + len(self.errors) < self.sent:
                await _sleep(self.reactor, 0.02)
            progress.update(bar, completed=len(self.latencies))

    def _connect(self, number: int) -> Deferred[None]:
        factory = WebSocketClientFactory(self.url, protocols=["eftchat.v2"], reactor=self.reactor)
        factory.protocol = type("Bound", (Poster,), {"load": self, "number": number, "ready": Deferred()})
        self.reactor.connectTCP(factory.host, factory.port, factory)
        return factory.protocol.ready

    def _tick(self, ticking: LoopingCall, progress: Progress, bar: Any) -> None:
        elapsed = self.reactor.seconds() - self.begun
        due = min(int(elapsed * self.rate), int(self.seconds * self.rate))
        while self.sent < due:
            self.clients[self.sent % len(self.clients)].post(self.sent, self.begun + self.sent / self.rate)
            self.sent += 1
        progress.update(bar, completed=len(self.latencies))
        if elapsed >= self.seconds:
            ticking.stop()


class Poster(WebSocketClientProtocol):
    """One client."""

    load: Load
    number: int
    ready: Deferred[None]

    def onOpen(self) -> None:
        self.due: dict[int, float] = {}
        self._call(-2, "connect")
        room = f"bench {self.number % self.load.rooms}"
        self.room = room
        self._call(-1, "join", room=room, name=f"client {self.number}", tail=0)

    def post(self, ident: int, due: float) -> None:
        """Sends one post, due at that time."""
        self.due[ident] = due
        body = {"text": "x" * self.load.size}
        self._call(ident, "post", room=self.room, uuid=f"{self.number}-{ident}", kind="text", body=body)

    def _call(self, ident: int, method: str, **params: Any) -> None:
        self.sendMessage(_encode({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if b'"method":"messages"' in payload[:64]:
            return
        answer = _decode(payload)
        if answer.id == -1:
            self.load.clients.append(self)
            self.ready.callback(None)
        elif answer.id is not None and answer.id >= 0:
            if answer.error is not None:
                self.load.errors.append(str(answer.error))
            else:
                self.load.ended = self.load.reactor.seconds()
                self.load.latencies.append(self.load.ended - self.due.pop(answer.id))


def _sleep(reactor: Any, seconds: float) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


@contextmanager
def node(folder: Path, uri: str | None) -> Iterator[str]:
    """A real `eftchat up` on free ports; its websocket URL."""
    command = [sys.executable, "-m", "eftchat.cli", "up", "--port", "0", "--router-port", "0"]
    command += ["--data", str(folder), "--post-rate", "1000000"]
    command += ["--mongodb", uri] if uri else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "/chat" in line:
                yield line.split()[1]
                return
        raise SystemExit("the node did not start")
    finally:
        process.terminate()
        process.wait(30)


@click.command(help=__doc__)
@click.option("--store", type=click.Choice(["mongodb", "sqlite"]), default="mongodb", show_default=True)
@click.option("--connections", default=50, show_default=True)
@click.option("--rooms", default=10, show_default=True, help="The connections are spread over these.")
@click.option("--rate", default=2_000.0, show_default=True, help="Posts a second, over all connections.")
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--size", default=200, show_default=True, help="Bytes of text in a post.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def main(store: str, as_json: bool, **options: Any) -> None:
    from eftchat.testing.mongod import ReplicaSet

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = None
        if store == "mongodb":
            members = ReplicaSet.start(folder / "mongo")
            stack.callback(members.stop)
            uri = members.uri
        url = stack.enter_context(node(folder / "data", uri))
        figures: dict[str, Any] = {}

        def begin(reactor: Any) -> Deferred[None]:
            load = Load(reactor, url, **options)
            return Deferred.fromCoroutine(load.run()).addCallback(lambda _: figures.update(summary(load)))

        try:
            react(begin)
        except SystemExit as done:
            if done.code:
                raise
        click.echo(json.dumps(figures) if as_json else "\n".join(f"{k:>14}  {v}" for k, v in figures.items()))


def summary(load: Load) -> dict[str, Any]:
    """The figures of a run; milliseconds."""
    percentiles = quantiles(load.latencies, n=100)
    return {
        "offered /s": load.rate,
        "acknowledged": len(load.latencies),
        "refused": len(load.errors),
        "acknowledged /s": round(len(load.latencies) / (load.ended - load.begun), 1),
        "p50 ms": round(percentiles[49] * 1000, 1),
        "p99 ms": round(percentiles[98] * 1000, 1),
        "max ms": round(max(load.latencies) * 1000, 1),
    }


if __name__ == "__main__":
    main()
