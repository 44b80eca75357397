"""What integration tests share: free ports, and one real router for all who only talk to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import pytest_twisted
from twisted.internet import reactor

from eftchat.wamp.router import RouterProcess, RouterSettings, RouterUnavailable, find_crossbar

ROUTER_TEMPLATE = Path(__file__).parents[2] / "crossbar"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long form of the cluster's tests")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port that nobody listens on, another one at each call."""
    given: set[int] = set()

    def give() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in given:
                given.add(port)
                return port

    return give


@pytest.fixture(scope="session")
def make_router(free_port: Callable[[], int]) -> Callable[..., RouterProcess]:
    """Builds a RouterProcess on free ports, not started, in the directory given: `make_router(tmp_path)`.

    Its ticket is `router.ticket`, its doors are `router.settings.client_url` and `.node_url`. Stop what you
    start.
    """
    try:
        find_crossbar(os.environ.get("PATH"))
    except RouterUnavailable as missing:
        pytest.fail(str(missing), pytrace=False)

    def make(cbdir: Path, on_state: Callable[[str, str], None] = lambda *_: None) -> RouterProcess:
        settings = RouterSettings(cbdir=cbdir, client_port=free_port(), node_port=free_port())
        return RouterProcess(
            reactor=reactor,
            settings=settings,
            ticket="open sesame",
            environment=dict(os.environ),
            rng=Random(1),
            on_state=on_state,
            template_folder=ROUTER_TEMPLATE,
        )

    return make


@pytest.fixture(scope="session")
def router(
    make_router: Callable[..., RouterProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RouterProcess]:
    """A router that is ready, for everyone: talk to it, do not kill it."""
    process = make_router(tmp_path_factory.mktemp("router"))
    process.start()
    pytest_twisted.blockon(process.ready)
    yield process
    pytest_twisted.blockon(process.stop())
