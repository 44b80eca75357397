"""Bad input over real sockets, against the node as it is composed: an error each, and nobody else disturbed."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from eftchat.app import Node, NodeConfig, build, open_store
from eftchat.drain import Pace
from tests.integration.raw import Raw, dial, seated

VECTORS = Path(__file__).parent.parent / "vectors"


@pytest_twisted.async_yield_fixture
async def node(tmp_path: Path) -> AsyncIterator[tuple[Node, str]]:
    """A node over the embedded store and without routers, and its address."""
    config = NodeConfig("n1", "127.0.0.1", 0, b"secret", "ticket", (), grace=5.0, pace=Pace(linger=0.0))
    store = await open_store(reactor, None, tmp_path)
    running = build(reactor, config, store, Random(1))
    port = await running.start()
    yield running, f"127.0.0.1:{port}"
    await running.stop()


async def stored(node: Node) -> int:
    """How many messages the room has."""
    return (await node.store.messages.heads(["r"])).get("r", 0)


@pytest.mark.parametrize("door", ["v2", "v1"])
@pytest_twisted.ensureDeferred
async def test_every_bad_frame_gets_its_error_and_the_connection_stays(
    node: tuple[Node, str], door: str
) -> None:
    url = f"ws://{node[1]}/chat"
    bob = await seated(url, "R", "Bob")
    if door == "v2":
        talk = await seated(url, "R", "Ann")
    else:
        talk = await dial(url)
        talk.call("joinRoom", userId="uA", roomName="R", userName="Ann", lastMessageId=None)
    await bob.heard()  # Ann entered
    for row in json.loads((VECTORS / f"{door}_refused.json").read_text()):
        talk.say(row["frame"])
        frame = await refusal(talk)
        assert (frame["id"], frame["error"]["code"]) == (row["id"], row["code"]), row["name"]
    assert await stored(node[0]) == 0
    bob.call("post", room="R", uuid="after all that", kind="text", body={"text": "x"})
    assert (await bob.answer())["error"]["data"]["reason"] == "bad_params"
    bob.call("post", room="R", uuid="after-all-that", kind="text", body={"text": "x"})
    assert (await bob.heard())["method"] == "messages"
    assert (await bob.answer())["result"]["seq"] == 1


async def refusal(talk: Raw) -> Any:
    while True:
        frame = await talk.heard()
        if "error" in frame:
            return frame


@pytest_twisted.ensureDeferred
async def test_an_unknown_subprotocol_is_refused_at_the_handshake(node: tuple[Node, str]) -> None:
    with pytest.raises(ConnectionRefusedError):
        await dial(f"ws://{node[1]}/chat", "eftchat.v9")


@pytest.mark.parametrize("protocols", [(), ("eftchat.v2",)], ids=["v1", "v2"])
@pytest_twisted.ensureDeferred
async def test_a_frame_over_the_limit_closes_with_1009_and_disturbs_nobody(
    node: tuple[Node, str], protocols: tuple[str, ...]
) -> None:
    bob = await seated(f"ws://{node[1]}/chat", "R", "Bob")
    talk = await dial(f"ws://{node[1]}/chat", *protocols)
    talk.say("x" * (256 * 1024 + 1))
    assert (await talk.closed.addTimeout(10, reactor))[0] == 1009
    bob.call("members", room="R")
    assert (await bob.answer())["result"]["members"]


@pytest_twisted.ensureDeferred
async def test_a_name_is_free_again_when_its_connection_is_cut_in_the_middle_of_a_frame(
    node: tuple[Node, str],
) -> None:
    url = f"ws://{node[1]}/chat"
    ann = await seated(url, "R", "Ann")
    bob = await seated(url, "R", "Bob")
    ann.transport.write(b"\x81\xff\x00\x00")
    ann.transport.abortConnection()
    frame = await bob.heard()
    assert (frame["method"], frame["params"]["member"]["name"]) == ("left", "Ann")
    await seated(url, "R", "ann")


@pytest_twisted.ensureDeferred
async def test_the_same_uuid_a_thousand_times_from_three_connections_is_one_message(
    node: tuple[Node, str],
) -> None:
    sockets = [await seated(f"ws://{node[1]}/chat", "R", f"N{n}") for n in range(3)]
    for number in range(1_000):
        sockets[number % 3].call("post", number, room="R", uuid="u", kind="text", body={"text": "hi"})
    for number in range(1_000):
        assert (await sockets[number % 3].answer(number))["result"]["seq"] == 1
    assert await stored(node[0]) == 1


@pytest_twisted.ensureDeferred
async def test_paths_lead_where_they_should(node: tuple[Node, str]) -> None:
    async def get(path: str) -> tuple[int, str]:
        response = await treq.get(f"http://{node[1]}{path}", persistent=False)
        return response.code, await response.text()

    assert await get("/healthz") == (200, '{"ok":true}')
    assert await get("/readyz") == (200, '{"ok":true}')
    assert (await get("/"))[0] == 200
    for path in ("/nothing", "/chat/more", "/..%2fetc%2fpasswd"):
        assert (await get(path))[0] == 404
    node[0].rooms.refusing = True
    assert await get("/readyz") == (503, '{"ok":false,"problem":"leaving"}')


@pytest.mark.parametrize("protocols", [(), ("eftchat.v2",)], ids=["v1", "v2"])
@pytest_twisted.ensureDeferred
async def test_a_node_that_leaves_closes_with_1012(
    node: tuple[Node, str], protocols: tuple[str, ...]
) -> None:
    talk = await dial(f"ws://{node[1]}/chat", *protocols)
    node[0].web.conversations.send_away()
    assert (await talk.closed.addTimeout(10, reactor))[0] == 1012


@pytest_twisted.ensureDeferred
async def test_metrics_are_served_in_the_format_of_prometheus(node: tuple[Node, str]) -> None:
    await seated(f"ws://{node[1]}/chat", "R", "Ann")
    response = await treq.get(f"http://{node[1]}/metrics", persistent=False)
    lines = (await response.text()).splitlines()
    assert 'eftchat_connections{dialect="v2"} 1.0' in lines
    assert 'eftchat_readers{state="live"} 1.0' in lines
    assert "eftchat_lease_held 1.0" in lines


@pytest.mark.parametrize("how", [b"Content-Length: 32000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [b"/healthz", b"/", b"/chat", b"/nothing"])
@pytest_twisted.ensureDeferred
async def test_a_body_is_refused_before_it_is_read(node: tuple[Node, str], path: bytes, how: bytes) -> None:
    def ask() -> bytes:
        host, port = node[1].split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n5\r\na=b&c\r\n" % (path, how))
            return connection.recv(100)

    assert (await deferToThread(ask)).startswith(b"HTTP/1.1 413 ")
    assert (await treq.get(f"http://{node[1]}/healthz", persistent=False)).code == 200
