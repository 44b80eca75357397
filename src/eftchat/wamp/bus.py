"""The port `Bus` over independent routers: all goes to each; what arrives twice is sorted out by seq."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from attrs import define, field
from twisted.logger import Logger

from eftchat.domain.errors import BadParams
from eftchat.domain.messages import Message, Presence, Room
from eftchat.ports import BusListener
from eftchat.wamp import events
from eftchat.wamp.line import Line
from eftchat.wire import schema, uris

REMEMBERED = 10_000
"""Events of presence that are known when they come again: more than arrive while a router lags behind another."""


@define(eq=False)
class WampBus:
    """Publishes to every line and listens on every line. Without any it is a bus that loses everything.

    `lines` may grow until the first room is watched; `listener` is set before a line comes up.
    """

    key: Callable[[str], str]
    """The key of a room's id, which names its topics."""
    name: str = ""
    """Who publishes: unique in the cluster."""
    lines: list[Line] = field(factory=list)
    listener: BusListener | None = field(default=None, init=False)
    unsent: int = field(default=0, init=False)
    """Events that no router was there for; the nodes find what was in them in the log."""
    malformed: int = field(default=0, init=False)
    """Events that were dropped because they are none of ours."""
    _numbers: Iterator[int] = field(factory=lambda: count(1), init=False)
    _heard: OrderedDict[str, None] = field(factory=OrderedDict, init=False)
    """The last events of presence: messages have seqs, but these come once from each router."""
    _log: Logger = field(factory=lambda: Logger("eftchat.wamp.bus"), init=False)

    def watch(self, room: Room) -> None:
        """See `ports.Bus`; `watching` is told per router."""
        key = self.key(room.id)
        for line in self.lines:
            effective = partial(self._watching, room.id)
            line.listen(uris.messages_topic(key), partial(self._messages, room.id), effective)
            line.listen(uris.presence_topic(key), partial(self._presence, room.id))

    def unwatch(self, room: Room) -> None:
        """See `ports.Bus`."""
        key = self.key(room.id)
        for line in self.lines:
            line.unlisten(uris.messages_topic(key))
            line.unlisten(uris.presence_topic(key))

    def publish(self, room: Room, messages: Sequence[Message]) -> None:
        """See `ports.Bus`; as many events as the size of one demands."""
        topic = uris.messages_topic(self.key(room.id))
        for part in events.parts(room, messages):
            self._send(topic, schema.shown_batch(room, part))

    def announce(self, room: Room, presence: Presence, but: int | None = None) -> None:
        """See `ports.Bus`."""
        identity = f"{self.name}.{next(self._numbers)}"
        shown = {**events.shown_presence(room, presence), "id": identity}
        self._send(uris.presence_topic(self.key(room.id)), shown, but)

    def notice(self, payload: Mapping[str, Any]) -> bool:
        """Asks WAMP clients to connect elsewhere; False when no router was there to tell them."""
        return self._send(uris.NOTICE_RECONNECT, payload)

    def troubles(self) -> dict[str, int]:
        """How often what went wrong, since the start."""
        return {"unsent": self.unsent, "malformed": self.malformed}

    def _send(self, topic: str, payload: Mapping[str, Any], but: int | None = None) -> bool:
        sent = [line.publish(topic, payload, but) for line in self.lines]
        if not any(sent):
            self.unsent += 1
        return any(sent)

    # -- from the routers ------------------------------------------------------------------------------

    def _watching(self, room: str, subscription: int) -> None:
        if self.listener is not None:
            self.listener.watching(room)

    def _messages(self, room: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            epoch, messages = events.heard_messages(room, kwargs)
        except BadParams as error:
            self._drop(room, error)
            return
        if self.listener is not None:
            self.listener.arrived(room, epoch, messages)

    def _presence(self, room: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            presence = events.heard_presence(kwargs)
        except BadParams as error:
            self._drop(room, error)
            return
        if self.listener is not None and not self._repeated(kwargs.get("id", "")):
            self.listener.noticed(room, presence)

    def _repeated(self, identity: str) -> bool:
        """Whether this event came through another router before."""
        if identity in self._heard:
            return True
        if identity:
            self._heard[identity] = None
            if len(self._heard) > REMEMBERED:
                self._heard.popitem(last=False)
        return False

    def _drop(self, room: str, error: BadParams) -> None:
        self.malformed += 1
        self._log.warn("dropped an event of {room}: {why}", room=room, why=error.text)


@define(eq=False)
class NoBus:
    """The port `Bus` for a node that is alone."""

    def watch(self, room: Room) -> None:
        """Nobody else writes."""

    def unwatch(self, room: Room) -> None:
        """Nobody else writes."""

    def publish(self, room: Room, messages: Sequence[Message]) -> None:
        """Nobody else reads."""

    def announce(self, room: Room, presence: Presence, but: int | None = None) -> None:
        """Nobody else reads."""
