"""The receiving side of a log: does this batch continue what I have, repeat it, or leave a hole?

Everything that reads a room's log uses this one rule: the feeds of a node, the Python client, the
JavaScript client (through the shared vectors).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from eftchat.domain.messages import Message

Verdict = Literal["deliver", "ignore", "refill"]


def judge(head: int, first: int, last: int) -> tuple[Verdict, int]:
    """What to do with a dense batch `first..last` when everything up to `head` is already had.

    Returns the verdict and how many messages at the front of the batch are repeats: `deliver` the rest,
    `ignore` all of it, or `refill` from the log before any of it may be delivered.
    """
    if last <= head:
        return "ignore", last - first + 1
    if first > head + 1:
        return "refill", 0
    return "deliver", head + 1 - first


def runs(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Splits rising messages into parts whose seqs are dense."""
    start = 0
    for here in range(1, len(messages) + 1):
        if here == len(messages) or messages[here].seq != messages[here - 1].seq + 1:
            yield messages[start:here]
            start = here
