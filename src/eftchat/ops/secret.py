"""Secrets that a single machine makes for itself, kept in the data folder for its owner's eyes only."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

SIZE = 32


def kept_secret(path: Path, rng: Random) -> bytes:
    """The secret in the file; made, durably, when there is none. Raises OSError when that cannot be done.

    `rng` has to be an unguessable one, `random.SystemRandom()`.
    """
    try:
        found = path.read_bytes()
        if len(found) == SIZE:
            return found
    except FileNotFoundError:
        pass
    made = rng.randbytes(SIZE)
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(made)
        out.flush()
        os.fsync(out.fileno())
    fresh.rename(path)
    return made
