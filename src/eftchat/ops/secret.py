"""Secrets: those that operators give, and those that one machine makes for itself, for its owner's eyes only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from random import Random

from eftchat.ports import CannotStart

SIZE = 32
LEAST = 16
"""Characters of a secret that is given. Less can be guessed."""
MAKE_ONE = "openssl rand -hex 32"


class BadSecret(CannotStart):
    """A secret is missing, unreadable or too short. The text does not show it."""


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
    _write(path, made)
    return made


def secret_file(path: Path, rng: Random) -> Path:
    """The file, with a secret as text in it, as `given_secret` reads it; made like `kept_secret`."""
    if not path.exists():
        _write(path, f"{rng.randbytes(SIZE).hex()}\n".encode())
    return path


def given_secret(
    what: str, file: Path | None, variable: str, environment: Mapping[str, str], *, least: int = LEAST
) -> str:
    """The secret in the file, else in the environment's `variable`. Raises BadSecret, which says how to give it.

    Space around it does not count. It is never an option's value: everyone on a machine can read command lines.
    """
    if file is None and variable not in environment:
        raise BadSecret(
            f"The {what} is missing: give a file with it, or the variable {variable} ({MAKE_ONE})"
        )
    try:
        secret = (environment[variable] if file is None else file.read_text("utf-8")).strip()
    except OSError as error:
        raise BadSecret(f"The {what} in {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadSecret(f"The {what} in {file} is not text: make one with {MAKE_ONE} > {file}") from None
    if len(secret) < least:
        where = variable if file is None else file
        text = f"The {what} in {where} has {len(secret)} characters, {least} are the least: {MAKE_ONE}"
        raise BadSecret(text)
    return secret


def _write(path: Path, secret: bytes) -> None:
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(secret)
        out.flush()
        os.fsync(out.fileno())
    fresh.rename(path)
