"""Sizes and rates that hold at every door, and the token bucket as a function of (state, now)."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """What one client may ask for. Sizes in bytes, rates per second."""

    text: int = 16 * 1024
    frame: int = 256 * 1024
    rooms: int = 20
    post_rate: float = 30.0
    post_burst: float = 100.0
    inflight: int = 256
    history: int = 100
    tail_max: int = 1_000
    page_max: int = 200


class Bucket(msgspec.Struct, frozen=True):
    """A token bucket: `tokens` were there at `since` (seconds)."""

    tokens: float
    since: float

    def take(self, now: float, rate: float, burst: float) -> tuple[Bucket, float]:
        """One token taken at `now`: the new state, and how long (seconds) the taker has to wait for it.

        The bucket may go into debt: a taker that waits as told keeps the rate exactly.
        """
        passed = max(0.0, now - self.since)  # a clock that is set back takes nothing away
        tokens = min(burst, self.tokens + passed * rate) - 1.0
        return Bucket(tokens, now), max(0.0, -tokens / rate)
