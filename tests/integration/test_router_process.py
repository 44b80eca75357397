"""The router as a child process, with the real Crossbar: it comes up, comes back, says why not, and goes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.task import deferLater

from eftchat.wamp.router import RouterProcess, RouterUnavailable
from tests.integration.peers import join


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def family(pid: int) -> list[int]:
    """The process and all below it: leash, controller, worker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline, "did not happen in time"
        await deferLater(reactor, 0.05)


async def get(router: RouterProcess, path: str) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{router.settings.client_port}{path}"
    response = await treq.get(url, timeout=5, persistent=False)
    return response.code, await response.content()


@pytest_twisted.ensureDeferred
async def test_health_answers_and_the_root_says_nothing(router: RouterProcess) -> None:
    status, body = await get(router, "/health")
    assert (status, json.loads(body)["ok"]) == (200, True)
    assert (await get(router, "/"))[0] == 404


def test_the_ticket_is_in_no_file_and_on_no_command_line(router: RouterProcess) -> None:
    assert router.pid is not None
    for file in router.settings.cbdir.iterdir():
        assert router.ticket.encode() not in file.read_bytes()
    for pid in family(router.pid):
        assert router.ticket.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest_twisted.async_yield_fixture(scope="module")
async def mortal(
    make_router: Callable[..., RouterProcess], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[RouterProcess, list[str]]]:
    """A router that may be killed, and the states that it went through."""
    states: list[str] = []
    process = make_router(tmp_path_factory.mktemp("mortal"), on_state=lambda state, _: states.append(state))
    process.start()
    await process.ready
    yield process, states
    everyone = family(process.pid)
    await process.stop()
    assert not any(map(alive, everyone))
    assert states[-1] == "stopped"


@pytest.mark.parametrize("victim", ["controller", "worker", "leash"])
@pytest_twisted.ensureDeferred
async def test_a_router_killed_in_any_part_comes_back_whole(
    mortal: tuple[RouterProcess, list[str]], victim: str
) -> None:
    router, states = mortal
    leash, controller, worker = before = family(router.pid)
    states.clear()
    os.kill({"leash": leash, "controller": controller, "worker": worker}[victim], signal.SIGKILL)
    await until(lambda: "ready" in states)
    assert states == ["died", "restarting", "starting", "ready"]
    assert not any(map(alive, before))
    assert len(family(router.pid)) == 3
    peer = await join(router.settings.node_url, router.ticket)
    peer.leave()
    await peer.gone


@pytest_twisted.ensureDeferred
async def test_stopping_a_router_that_still_starts_leaves_nothing(
    make_router: Callable[..., RouterProcess], tmp_path: Path
) -> None:
    router = make_router(tmp_path)
    router.start()
    ready = router.ready
    leash = router.pid
    await until(lambda: len(family(leash)) > 1)
    everyone = family(leash)
    await router.stop()
    assert not any(map(alive, everyone))
    with pytest.raises(RouterUnavailable, match="stopped"):
        await ready
    await router.stop()


@pytest.mark.parametrize("door", ["client", "node"])
@pytest_twisted.ensureDeferred
async def test_a_taken_port_is_named_at_once(
    make_router: Callable[..., RouterProcess], tmp_path: Path, door: str
) -> None:
    router = make_router(tmp_path)
    port = getattr(router.settings, f"{door}_port")
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(RouterUnavailable, match=f"port {port} on 127.0.0.1 is taken by another program"):
            router.start()
        with pytest.raises(RouterUnavailable, match="taken by another program"):
            await router.ready
    await router.stop()


def test_a_directory_that_cannot_be_written_is_named_at_once(
    make_router: Callable[..., RouterProcess], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RouterUnavailable, match=r"cannot write to the router's directory .*file/below"):
        make_router(tmp_path / "file" / "below").start()


@pytest_twisted.ensureDeferred
async def test_a_first_start_that_fails_is_explained_and_not_repeated(
    make_router: Callable[..., RouterProcess], tmp_path: Path
) -> None:
    states: list[str] = []
    router = make_router(tmp_path, on_state=lambda state, _: states.append(state))
    router.settings = msgspec.structs.replace(router.settings, client_auth={"no_such_method": {}})
    router.start()
    with pytest.raises(RouterUnavailable, match="no_such_method"):
        await router.ready
    assert states == ["starting", "died"]
    assert router.pid is None


PARENT = """
import os, signal, sys
from pathlib import Path
from random import Random
from twisted.internet import reactor
from eftchat.wamp.router import RouterProcess, RouterSettings

cbdir, client_port, node_port, template = sys.argv[1:]
settings = RouterSettings(cbdir=Path(cbdir), client_port=int(client_port), node_port=int(node_port))
router = RouterProcess(
    reactor=reactor, settings=settings, ticket="t", environment=dict(os.environ), rng=Random(2),
    on_state=lambda state, detail: print(state, router.pid, flush=True), template_folder=Path(template),
)
reactor.callWhenRunning(router.start)
reactor.callWhenRunning(signal.signal, signal.SIGINT, signal.SIG_IGN)
reactor.run()
"""


@pytest_twisted.ensureDeferred
async def test_the_router_outlives_a_ctrl_c_but_not_its_parent(
    make_router: Callable[..., RouterProcess], tmp_path: Path
) -> None:
    model = make_router(tmp_path / "cbdir")
    ports = [str(model.settings.client_port), str(model.settings.node_port)]
    script, output = tmp_path / "parent.py", tmp_path / "output"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(tmp_path / "cbdir"), *ports, str(model.template_folder)]
    with output.open("w") as sink:
        parent = subprocess.Popen(command, stdout=sink, start_new_session=True)
    try:
        await until(lambda: "ready" in output.read_text())
        _, *router = family(parent.pid)
        assert len(router) == 3
        os.killpg(parent.pid, signal.SIGINT)
        assert (await get(model, "/health"))[0] == 200
        assert all(map(alive, router))
    finally:
        parent.kill()
        parent.wait(10)
    await until(lambda: not any(map(alive, router)), 10)
    assert "died" not in output.read_text()
