"""What the simulation knows and no client can: what is durable, and what was promised to whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from eftchat.domain.messages import Message
from eftchat.testing.replica_set import Durable
from eftchat.testing.stage import Stage


@define(eq=False)
class Truth:
    """Judges what clients are told, at the moment they are told, and keeps it for the end."""

    stage: Stage
    durable: Durable
    acknowledged: dict[tuple[str, str], int] = field(factory=dict, init=False)
    """(room, uuid) -> the seq that its sender was told."""
    first_sent: dict[tuple[str, str], list[str]] = field(factory=dict, init=False)
    """(room, sender) -> uuids in the order in which they were first sent."""
    posted: dict[str, str] = field(factory=dict, init=False)
    """uuid -> text."""

    def sent(self, room: str, sender: str, uuid: str, text: str) -> None:
        """A client sends this, perhaps once more."""
        if uuid not in self.posted:
            self.posted[uuid] = text
            self.first_sent.setdefault((room, sender), []).append(uuid)

    def acked(self, who: str, room: str, uuid: str, seq: int) -> None:
        """A client was told that its message is at this place."""
        before = self.acknowledged.setdefault((room, uuid), seq)
        if before != seq:
            self.stage.broken("one place", f"{who}: {uuid} was at {before}, now at {seq}")
        self.is_durable(who, "acknowledged", room, seq, uuid)

    def is_durable(self, who: str, how: str, room: str, seq: int, uuid: str) -> Message | None:
        """Nobody hears of anything that is not on a majority."""
        row = self.durable.by_seq.get((room, seq))
        if row is None or row[1].uuid != uuid:
            there = row[1].uuid if row else "nothing"
            self.stage.broken(
                "durable before told", f"{who}: {uuid} {how} at {room}/{seq}, where a majority has {there}"
            )
            return None
        return row[1]

    def shown(self, who: str, room: str, seq: int, told: Mapping[str, Any]) -> None:
        """A client was shown a message: it is the one that the log has there."""
        message = self.is_durable(who, "shown", room, seq, told["uuid"])
        if message is not None and any(getattr(message, key) != told[key] for key in told):
            self.stage.broken("shown as stored", f"{who}: {told} is not {message}")

    def head(self, room: str) -> int:
        """How far the room's log reaches."""
        return self.durable.head(room, self.durable.size)

    # -- at the end ------------------------------------------------------------------------------------

    def judge(self, room: str) -> None:
        """The room's log as a whole."""
        log = self.durable.log(room)
        seqs = [message.seq for message in log]
        if seqs != list(range(1, len(log) + 1)):
            self.stage.broken("dense", f"{room} has {seqs}")
        places: dict[str, int] = {}
        for message in log:
            if message.uuid in places:
                self.stage.broken("once", f"{message.uuid} at {places[message.uuid]} and {message.seq}")
            places[message.uuid] = message.seq
        self._judge_acknowledged(room, places)
        self._judge_order(room, places)

    def _judge_acknowledged(self, room: str, places: Mapping[str, int]) -> None:
        for (where, uuid), seq in self.acknowledged.items():
            if where == room and places.get(uuid) != seq:
                self.stage.broken(
                    "acknowledged and kept", f"{uuid} was said to be at {seq}, is at {places.get(uuid)}"
                )

    def _judge_order(self, room: str, places: Mapping[str, int]) -> None:
        for (where, sender), uuids in self.first_sent.items():
            if where == room:
                order = [places[uuid] for uuid in uuids if uuid in places]
                if order != sorted(order):
                    pairs = [(uuid, places.get(uuid)) for uuid in uuids]
                    self.stage.broken("each sender's order", f"{sender} sent {pairs}")
