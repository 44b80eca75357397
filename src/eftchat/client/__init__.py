"""The Python client of eftchat: for bots, for tests, for the terminal. Asynchronous, on Twisted.

    from random import SystemRandom
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react
    from eftchat.client import ChatClient, Message

    async def main(reactor):
        client = ChatClient(reactor, "localhost:8080", user="echo-bot", rng=SystemRandom())
        client.start()

        def answer(message: Message) -> None:
            if message.user != client.user:
                room.post(f"{message.name} said: {message.text}")

        room = await client.join("lobby", name="Echo", tail=0, on_message=answer)
        await room.post("Hello")           # durable, or ChatClientError
        await Deferred()                   # until Ctrl-C

    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))

What it promises, whatever happens to nodes, routers and networks in between:

- every message of the room reaches `on_message` exactly once, in the order of the log, from where you began;
- `await room.post(...)` returns when the message is durable, and it is stored once;
- your posts of a room are stored in the order in which you made them (see `outbox` for the one exception);
- after `await client.stop()` nothing of it is left running.
"""

from __future__ import annotations

from eftchat.client.chat import ChatClient
from eftchat.client.outbox import Sending
from eftchat.client.room import Room
from eftchat.client.urls import complete
from eftchat.client.values import (
    ChatClientError,
    Closed,
    Disconnected,
    Entered,
    Event,
    Joined,
    Left,
    Message,
    Page,
    Posted,
    Reset,
    State,
    Suspended,
    Timing,
    Typing,
)
from eftchat.domain.messages import Cursor, Member

__all__ = [
    "ChatClient",
    "ChatClientError",
    "Closed",
    "Cursor",
    "Disconnected",
    "Entered",
    "Event",
    "Joined",
    "Left",
    "Member",
    "Message",
    "Page",
    "Posted",
    "Reset",
    "Room",
    "Sending",
    "State",
    "Suspended",
    "Timing",
    "Typing",
    "complete",
]
