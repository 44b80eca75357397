"""How long to wait before trying again. Chance is an argument."""

from __future__ import annotations

from random import Random


def full_jitter(attempt: int, rng: Random, *, base: float, cap: float, floor: float = 0.0) -> float:
    """Seconds before try number `attempt` (0, 1, 2 ...): uniform up to `base * 2**attempt`, capped.

    Full jitter spreads a crowd that failed together better than any fixed ladder.
    """
    ceiling = min(cap, base * 2 ** min(attempt, 32))
    return max(floor, rng.uniform(0.0, ceiling))
