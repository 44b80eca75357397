"""The other end of a client's lines, in memory: a test plays the node, frame by frame, on a `task.Clock`."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from eftchat.client import ChatClient, Message, Room
from eftchat.client.seams import Listener

EPOCH = "00000000e1"


def message(seq: int, text: str | None = None, room: str = "R") -> dict[str, Any]:
    """A message as a node shows it."""
    body = {"text": text if text is not None else f"text {seq}"}
    return {
        "room": room,
        "seq": seq,
        "uuid": f"u{seq}",
        "kind": "text",
        "user": "bob",
        "name": "Bob",
        "at": 1_000 * seq,
        "body": body,
    }


def batch(first: int, last: int, epoch: str = EPOCH) -> dict[str, Any]:
    """The params of `messages`."""
    return {"room": "R", "epoch": epoch, "messages": [message(seq) for seq in range(first, last + 1)]}


@define(eq=False)
class FakeLine:
    """One line that the client dialled. `asked` are the requests that came over it and were not yet looked
    at."""

    net: FakeNet
    url: str
    listener: Listener
    asked: list[dict[str, Any]] = field(factory=list)
    closed_with: int | None = None
    over: bool = False

    # -- the client's side -----------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        assert not self.over
        self.asked.append(json.loads(payload))

    def close(self, code: int, reason: str) -> None:
        if not self.over and self.closed_with is None:
            self.closed_with = code
            self.net.clock.callLater(0.01, self.drop, code)

    def abort(self) -> None:
        if not self.over:
            self.net.clock.callLater(0, self.drop)

    # -- the node's side -------------------------------------------------------------------------------

    def open(self, **welcome: Any) -> FakeLine:
        """Completes the handshake and answers `connect`."""
        self.listener.opened()
        self.answer(self.take("connect"), {"node": "n1", **welcome})
        return self

    def take(self, method: str) -> dict[str, Any]:
        """The oldest request, which must be of this method."""
        request = self.asked.pop(0)
        assert request["method"] == method, request
        return request

    def take_posts(self) -> list[dict[str, Any]]:
        """All requests, which must be posts."""
        posts, self.asked = self.asked, []
        assert all(post["method"] == "post" for post in posts), posts
        return posts

    def answer(self, request: dict[str, Any], result: Any) -> None:
        self.say({"id": request["id"], "result": result})

    def refuse(self, request: dict[str, Any], reason: str, *, retryable: bool, after_ms: int = 0) -> None:
        data = {"reason": reason, "retryable": retryable, "retry_after_ms": after_ms}
        self.say({"id": request["id"], "error": {"code": -32000, "message": f"no: {reason}", "data": data}})

    def notify(self, method: str, **params: Any) -> None:
        self.say({"method": method, "params": params})

    def say(self, frame: dict[str, Any]) -> None:
        self.listener.received(json.dumps({"jsonrpc": "2.0", **frame}).encode())

    def drop(self, code: int | None = None, reason: str = "gone") -> None:
        """The line ends."""
        if not self.over:
            self.over = True
            self.net.open.remove(self)
            self.listener.lost(code, reason)

    def let_in(self, *, seq: int = 0, head: int | None = None, **more: Any) -> dict[str, Any]:
        """Answers a join; returns its params."""
        request = self.take("join")
        head = seq if head is None else head
        me = {"user": request["params"]["user"], "name": request["params"]["name"]}
        result = {"room": "R", "key": "k", "epoch": EPOCH, "seq": seq, "head": head, "members": [me]}
        self.answer(request, {**result, "resumed": True, **more})
        params: dict[str, Any] = request["params"]
        return params

    def store(self, post: dict[str, Any], seq: int, *, repeated: bool = False) -> None:
        """Answers a post."""
        self.answer(post, {"seq": seq, "at": 1_000 * seq, "repeated": repeated})


@define(eq=False)
class FakeNet:
    """Everything that the client dials."""

    clock: Clock = field(factory=Clock)
    lines: list[FakeLine] = field(factory=list)
    open: list[FakeLine] = field(factory=list)

    def dial(self, url: str, listener: Listener) -> FakeLine:
        line = FakeLine(self, url, listener)
        self.lines.append(line)
        self.open.append(line)
        return line

    def next_line(self, within: float = 5.0) -> FakeLine:
        """Lets time pass until the client dials again."""
        seen = len(self.lines)
        for _ in range(round(within / 0.05) + 1):
            if len(self.lines) > seen:
                return self.lines[-1]
            self.clock.advance(0.05)
        raise AssertionError(f"the client did not dial within {within} s")


@define(eq=False)
class World:
    """A client, the net, and what the client was told."""

    net: FakeNet
    client: ChatClient
    seen: list[Message] = field(factory=list)
    events: list[Any] = field(factory=list)
    states: list[str] = field(factory=list)
    joining: list[Deferred[Room]] = field(factory=list)

    @property
    def clock(self) -> Clock:
        return self.net.clock

    @property
    def line(self) -> FakeLine:
        """The line that was dialled last."""
        return self.net.lines[-1]

    @property
    def seqs(self) -> list[int]:
        return [one.seq for one in self.seen]

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    def connected(self) -> FakeLine:
        """Starts the client and lets it connect."""
        self.client.start()
        return self.line.open()

    def asks_to_join(self, **how: Any) -> Deferred[Room]:
        """The client begins to join R."""
        how = {"on_message": self.seen.append, "on_event": self.events.append, **how}
        joining = run(self.client.join("R", name="Ann", **how))
        self.joining.append(joining)
        return joining

    def joined(self, *, seq: int = 0, **how: Any) -> tuple[Room, FakeLine]:
        """A connected client in the room R, whose head is `seq`."""
        line = self.connected()
        joining = self.asks_to_join(**how)
        line.let_in(seq=seq)
        return result(joining), line


def run(work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    """Starts a coroutine."""
    return Deferred.fromCoroutine(work)


async def wait(awaitable: Any) -> Any:
    """As a coroutine, so that `run` can start it."""
    return await awaitable


def result(deferred: Deferred[Any]) -> Any:
    """What it has come to; it must have. Raises what it failed with."""
    got: list[Any] = []
    deferred.addCallback(lambda value: got.append(value) or value).addErrback(got.append)
    assert got, "there is no result yet"
    if isinstance(got[0], Failure):
        got[0].raiseException()
    return got[0]


def pending(deferred: Deferred[Any]) -> bool:
    """Whether there is no result yet."""
    return not deferred.called or deferred.paused > 0


def back(here: World, **how: Any) -> FakeLine:
    """The connection breaks, and another one is made and joined."""
    here.line.drop()
    line = here.net.next_line().open()
    line.let_in(**how)
    return line


@contextmanager
def world(urls: str | list[str] = "node-a:1", seed: int = 1, **options: Any) -> Iterator[World]:
    """A world that ends with nothing running."""
    net = FakeNet()
    made = World(net, ChatClient(net.clock, urls, user="ann", rng=Random(seed), dial=net.dial, **options))
    if made.client.on_state is None:
        made.client.on_state = lambda state: made.states.append(state.name)
    yield made
    stopping = run(made.client.stop())
    net.clock.advance(0.02)
    assert not pending(stopping)
    assert net.clock.getDelayedCalls() == []
    assert net.open == []
    for joining in made.joining:
        joining.addErrback(lambda failure: None)  # whoever was interested has looked
