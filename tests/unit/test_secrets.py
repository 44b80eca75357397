"""Where secrets come from, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from eftchat.ops.secret import BadSecret, given_secret, secret_file

GOOD = "correct horse battery staple"


def refusal(file: Path | None, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(BadSecret) as refused:
        given_secret("ticket", file, "TICKET", environment or {})
    return str(refused.value)


def test_the_file_comes_before_the_environment_and_space_around_it_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "ticket"
    file.write_text(f"{GOOD}\n")
    assert given_secret("ticket", file, "TICKET", {"TICKET": "another, also long enough"}) == GOOD
    assert given_secret("ticket", None, "TICKET", {"TICKET": f" {GOOD} "}) == GOOD


def test_a_missing_secret_says_how_to_give_one(tmp_path: Path) -> None:
    assert "give a file with it, or the variable TICKET" in refusal(None)
    assert f"{tmp_path / 'none'} cannot be read: No such file" in refusal(tmp_path / "none")


def test_a_short_secret_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "ticket").write_text("hunter2")
    said = refusal(tmp_path / "ticket")
    assert "has 7 characters, 16 are the least" in said
    assert "hunter2" not in said
    assert "hunter2" not in refusal(None, {"TICKET": "hunter2"})


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ticket").write_bytes(b"\xff" * 32)
    assert "is not text" in refusal(tmp_path / "ticket")


def test_a_made_secret_is_for_its_owner_only_and_stays(tmp_path: Path) -> None:
    file = secret_file(tmp_path / "ticket", Random(1))
    made = given_secret("ticket", file, "TICKET", {})
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(made) == 64
    secret_file(file, Random(2))
    assert given_secret("ticket", file, "TICKET", {}) == made
