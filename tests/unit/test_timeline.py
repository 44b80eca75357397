"""The one rule of whoever reads a log; the JavaScript client runs the same vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eftchat.domain.messages import Message
from eftchat.domain.timeline import judge, runs

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "timeline.json").read_text("utf-8"))


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_a_batch_is_judged_by_where_the_reader_stands(case: dict[str, Any]) -> None:
    assert judge(case["head"], case["first"], case["last"]) == (case["verdict"], case["repeats"])


def test_what_is_delivered_is_always_exactly_what_follows() -> None:
    for head in range(6):
        for first in range(1, 8):
            for last in range(first, 8):
                verdict, repeats = judge(head, first, last)
                fresh = [seq for seq in range(first, last + 1) if seq > head]
                assert (verdict == "ignore") == (not fresh)
                assert (verdict == "deliver") == (bool(fresh) and fresh[0] == head + 1)
                if verdict == "deliver":
                    assert first + repeats == head + 1


@pytest.mark.parametrize(
    ("seqs", "parts"),
    [
        ([], []),
        ([4], [[4]]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([1, 2, 5, 6, 9], [[1, 2], [5, 6], [9]]),
    ],
)
def test_rising_messages_are_split_where_one_is_missing(seqs: list[int], parts: list[list[int]]) -> None:
    messages = [Message("r", seq, f"u{seq}", "text", "u", "U", 0, {}) for seq in seqs]
    assert [[message.seq for message in run] for run in runs(messages)] == parts
