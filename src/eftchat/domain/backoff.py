"""How long to wait before trying again, and when whose turn is. Chance is an argument."""

from __future__ import annotations

from random import Random


def full_jitter(attempt: int, rng: Random, *, base: float, cap: float, floor: float = 0.0) -> float:
    """Seconds before try number `attempt` (0, 1, 2 ...): uniform up to `base * 2**attempt`, capped.

    Full jitter spreads a crowd that failed together better than any fixed ladder.
    """
    ceiling = min(cap, base * 2 ** min(attempt, 32))
    return max(floor, rng.uniform(0.0, ceiling))


def waves(sockets: int, window: float, rng: Random) -> list[float]:
    """A slot for each of the sockets: seconds from now, rising, evenly over the window.

    Each share of the window has one slot, somewhere in its middle half. So no second (no interval at all) sees more
    than one socket above its even share: at most 1.5 times the share wherever that is 2 or more.
    """
    share = window / max(1, sockets)
    return [(number + rng.uniform(0.25, 0.75)) * share for number in range(sockets)]
