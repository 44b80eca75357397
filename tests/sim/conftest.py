"""The option `--sim-seeds`: how many simulated clusters the tests run."""

from __future__ import annotations

import pytest

PART = 50
DEFAULT = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sim-seeds", type=int, default=DEFAULT, help="simulated clusters to run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        count = metafunc.config.getoption("--sim-seeds", DEFAULT)
        parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
        metafunc.parametrize("seeds", parts, ids=[f"{part.start}-{part.stop - 1}" for part in parts])
