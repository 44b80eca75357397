"""Clients that do not read cost an integer each, however much is said meanwhile."""

from __future__ import annotations

from pathlib import Path
from random import Random

import psutil
import pytest_twisted
from twisted.internet import reactor

from eftchat import sqlite
from eftchat.bridge.connection import Settings
from eftchat.bridge.protocol import Conversations
from eftchat.bridge.site import site
from eftchat.ops.loop import TwistedLoop
from eftchat.rooms import Rooms
from eftchat.wamp.bus import NoBus
from tests.integration.crowd import eventually
from tests.integration.raw import Raw, seated

STALLED = 200
MESSAGES = 50_000
AT_ONCE = 1_000
MIB = 1024 * 1024


async def reads_everything(socket: Raw) -> None:
    """It was only late: reading on, it gets the log from its place, each message once."""
    socket.transport.resumeProducing()
    got = 0
    while got < MESSAGES:
        frame = await socket.heard()
        for message in frame["params"].get("messages", ()):
            got += 1
            assert message["seq"] == got


@pytest_twisted.ensureDeferred
async def test_memory_stays_constant_while_200_stalled_sockets_miss_50_000_messages(tmp_path: Path) -> None:
    loop = TwistedLoop(reactor)
    store = await sqlite.connect(reactor, tmp_path)
    rooms = Rooms("n1", b"secret", store.messages, store.members, NoBus(), loop, Random(1))
    await store.members.renew("n1", 600_000)
    conversations = Conversations(rooms, loop, Settings("n1", heartbeat_ms=600_000))
    listening = reactor.listenTCP(0, site(conversations, lambda: None, reactor), interface="127.0.0.1")
    url = f"ws://127.0.0.1:{listening.getHost().port}/chat"

    stalled = [await seated(url, "R", f"N{n}") for n in range(STALLED)]
    for socket in stalled:
        socket.transport.pauseProducing()
    talker = next(iter(conversations.open)).conversation
    seat = talker.sittings["r"].seat

    async def say(count: int, start: int) -> None:
        for first in range(start, start + count, AT_ONCE):
            posts = [
                rooms.post(seat, f"u{n}", "text", {"text": "x" * 200}) for n in range(first, first + AT_ONCE)
            ]
            await posts[-1].wait()

    await say(10_000, 0)  # every buffer on the way is full by now
    before = psutil.Process().memory_info().rss
    await say(MESSAGES - 10_000, 10_000)
    grown = psutil.Process().memory_info().rss - before
    cursors = [socket.conversation.sittings["r"].reader.cursor for socket in conversations.open]
    assert max(cursors) < 10_000, "they were not stalled"
    # A queue for each of them would be 2.8 GiB. What is there is the ring, and pages read for who takes a little.
    assert grown < 64 * MIB, f"{grown / MIB:.1f} MiB"

    await reads_everything(stalled[0])
    for socket in stalled:
        socket.transport.abortConnection()
    await eventually(lambda: not conversations.open, 10)
    await listening.stopListening()
    await store.close()
    print(f"grown by {grown / MIB:.1f} MiB; cursors between {min(cursors)} and {max(cursors)}")
