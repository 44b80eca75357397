"""Whole simulated clusters, each from one seed, and what they must never do."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from eftchat.testing.mutations import MUTATIONS
from eftchat.testing.sim import again, trial

CATCH_WITHIN = 500


def command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """`eftchat-sim` in a process of its own."""
    line = [sys.executable, "-m", "eftchat.testing.sim", *arguments]
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(line, capture_output=True, text=True, env=env, timeout=120, check=False)


def test_whatever_breaks_no_promise_does(seeds: range) -> None:
    verdicts = [trial(seed) for seed in seeds]
    broken = [f"{again(v, None)}: {v.broken}: {v.evidence}" for v in verdicts if v.broken]
    assert not broken, "\n".join(broken)
    assert sum(verdict.messages for verdict in verdicts) > 10 * len(verdicts)


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_planted_mistake_is_caught(name: str) -> None:
    verdicts = (trial(seed, name) for seed in range(CATCH_WITHIN))
    assert any(verdict.broken for verdict in verdicts), f"{name} survives {CATCH_WITHIN} seeds"


def test_nothing_of_a_planted_mistake_stays() -> None:
    for name in MUTATIONS:
        trial(0, name)
    assert not trial(0).broken


@pytest.mark.parametrize("seed", [1, 7, 20])
def test_a_seed_is_the_same_run_every_time(seed: int) -> None:
    first, again = trial(seed, trace=True), trial(seed, trace=True)
    assert first.trace == again.trace
    assert len(first.trace) > 100
    assert trial(seed) == type(first)(seed, first.broken, first.evidence, first.messages, first.seconds)


def test_a_seed_is_the_same_run_in_every_process() -> None:
    runs = [command("--seed", "12", "--trace", hash_seed=number) for number in ("1", "2")]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].returncode == 0


def test_a_broken_run_prints_the_line_that_shows_it_again() -> None:
    many = command("--seeds", "100", "--failures", "1", "--mutation", "no-dedupe")
    assert many.returncode == 1
    shown = re.search(r"eftchat-sim --seed (\d+) --mutation no-dedupe", many.stdout)
    assert shown is not None
    one = command("--seed", shown[1], "--mutation", "no-dedupe", "--trace")
    assert one.returncode == 1
    assert "BROKEN" in one.stdout
