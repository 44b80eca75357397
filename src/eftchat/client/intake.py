"""The receiving side of a room: everything once, in order. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from eftchat.client.values import Message
from eftchat.domain.timeline import judge


@define(eq=False)
class Intake:
    """Where a reader stands in the log `epoch`: it has everything up to and including `head`.

    `target` is how far the log is known to reach beyond a hole; while `head < target` the hole must be read.
    """

    epoch: str | None = field(default=None, init=False)
    head: int = field(default=0, init=False)
    target: int = field(default=0, init=False)

    @property
    def hole(self) -> bool:
        """Messages between `head` and `target` did not come: read them from the log."""
        return self.head < self.target

    def begin(self, epoch: str, head: int) -> None:
        """The log is this one, and everything up to `head` is had, or not wanted."""
        self.epoch = epoch
        self.head = self.target = head

    def resume(self, sent_from: int) -> None:
        """The node sends what follows `sent_from`; what is missing before that is a hole."""
        self.target = max(self.head, sent_from)

    def offer(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Those of a batch that are next. Call `took` for each. A batch behind a hole gives nothing."""
        if not messages:
            return ()
        first, last = messages[0].seq, messages[-1].seq
        self.target = max(self.target, last)
        verdict, repeats = judge(self.head, first, last)
        if verdict != "deliver" or last - first + 1 != len(messages):
            return ()
        return messages[repeats:]

    def took(self, message: Message) -> None:
        """The message was delivered."""
        self.head = message.seq
        self.target = max(self.target, self.head)
