"""What `ports.Messages` promises, sentence by sentence, held against every adapter."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList

from eftchat import sqlite
from eftchat.domain.messages import Message, Room
from eftchat.ports import Appended
from eftchat.testing.memory import MemoryMessages

Make = Callable[..., Message]


def run(message: Make, room: str, first: int, last: int) -> list[Message]:
    return [message(room, seq) for seq in range(first, last + 1)]


def seqs(messages: list[Message]) -> list[int]:
    return [message.seq for message in messages]


@pytest_twisted.ensureDeferred
async def test_a_room_is_made_by_the_first_who_opens_it(store: Any) -> None:
    first = await store.messages.open("lobby", "Lobby", "00000000aa")
    second = await store.other_messages.open("lobby", "LOBBY", "00000000bb")
    assert first == second == Room("lobby", "Lobby", "00000000aa")


@pytest_twisted.ensureDeferred
async def test_two_who_open_a_room_at_once_get_the_same_epoch(store: Any) -> None:
    opening = [
        Deferred.fromCoroutine(messages.open("lobby", "Lobby", f"{n:010x}"))
        for n, messages in enumerate([store.messages, store.other_messages] * 4)
    ]
    rooms = [room for _, room in await DeferredList(opening, fireOnOneErrback=True)]
    assert len(set(rooms)) == 1


@pytest_twisted.ensureDeferred
async def test_a_batch_is_stored_as_it_is(store: Any, message: Make) -> None:
    batch = run(message, "lobby", 1, 5)
    assert await store.messages.append(batch) == Appended(5)
    assert await store.other_messages.after("lobby", 0, 10) == batch


@pytest_twisted.ensureDeferred
async def test_a_message_comes_back_exactly(store: Any, message: Make) -> None:
    body = {
        "text": "Zażółć 👩‍👩‍👧 \u202e \x00 end",
        "size": 2**53,
        "small": -1,
        "ratio": 0.5,
        "flag": True,
        "nothing": None,
        "list": [1, {"deep": 2**40}],
        "$dollar.dot": "kept",
    }
    sent = message("日本語 room", 1, "A-z_0.9:", body=body, at=2**41)
    await store.messages.append([sent])
    (got,) = await store.other_messages.after("日本語 room", 0, 1)
    assert got == sent
    assert type(got.at) is int and type(got.body["size"]) is int and type(got.body["list"][1]["deep"]) is int


@pytest_twisted.ensureDeferred
async def test_one_batch_may_hold_many_rooms(store: Any, message: Make) -> None:
    batch = [message(room, seq) for seq in (1, 2) for room in ("a", "b", "c")]
    assert await store.messages.append(batch) == Appended(6)
    assert await store.messages.heads(["a", "b", "c"]) == {"a": 2, "b": 2, "c": 2}


@pytest_twisted.ensureDeferred
async def test_an_empty_batch_is_stored_at_once(store: Any) -> None:
    assert await store.messages.append([]) == Appended(0)


@pytest_twisted.ensureDeferred
async def test_append_stops_at_a_taken_place(store: Any, message: Make) -> None:
    await store.messages.append([message("lobby", 3, "early")])
    assert await store.messages.append(run(message, "lobby", 1, 5)) == Appended(2, "seq")
    assert seqs(await store.messages.after("lobby", 0, 10)) == [1, 2, 3]


@pytest_twisted.ensureDeferred
async def test_append_stops_at_a_taken_identity(store: Any, message: Make) -> None:
    await store.messages.append([message("lobby", 1, "same")])
    batch = [message("lobby", 2), message("lobby", 3, "same"), message("lobby", 4)]
    assert await store.messages.append(batch) == Appended(1, "uuid")
    assert seqs(await store.messages.after("lobby", 0, 10)) == [1, 2]


@pytest_twisted.ensureDeferred
async def test_a_whole_batch_sent_again_stores_nothing(store: Any, message: Make) -> None:
    batch = run(message, "lobby", 1, 3)
    await store.messages.append(batch)
    again = await store.other_messages.append(batch)
    assert again.stored == 0 and again.taken in ("seq", "uuid")
    assert await store.messages.after("lobby", 0, 10) == batch


@pytest_twisted.ensureDeferred
async def test_a_batch_that_repeats_itself_stops_at_the_repetition(store: Any, message: Make) -> None:
    batch = [message("lobby", 1, "x"), message("lobby", 2, "x"), message("lobby", 3, "y")]
    assert await store.messages.append(batch) == Appended(1, "uuid")


@pytest_twisted.ensureDeferred
async def test_nothing_behind_a_collision_is_stored_in_other_rooms_either(store: Any, message: Make) -> None:
    await store.messages.append([message("b", 1, "first")])
    batch = [message("a", 1), message("b", 1, "second"), message("a", 2), message("c", 1)]
    assert await store.messages.append(batch) == Appended(1, "seq")
    assert await store.messages.heads(["a", "b", "c"]) == {"a": 1, "b": 1, "c": 0}


@pytest_twisted.ensureDeferred
async def test_rooms_do_not_share_places_or_identities(store: Any, message: Make) -> None:
    batch = [message("a", 1, "same"), message("b", 1, "same"), message("A", 1, "same")]
    assert await store.messages.append(batch) == Appended(3)


@pytest_twisted.ensureDeferred
async def test_find_gives_what_is_stored_in_that_room(store: Any, message: Make) -> None:
    one, two = message("lobby", 1, "one"), message("lobby", 2, "two")
    await store.messages.append([one, two, message("other", 1, "three")])
    assert await store.messages.find("lobby", ["two", "three", "none", "one", "one"]) == {
        "one": one,
        "two": two,
    }
    assert await store.messages.find("lobby", []) == {}
    assert await store.messages.find("nowhere", ["one"]) == {}


@pytest_twisted.ensureDeferred
async def test_many_uuids_can_be_looked_for_at_once(store: Any, message: Make) -> None:
    batch = run(message, "lobby", 1, 1000)
    await store.messages.append(batch)
    assert await store.messages.find("lobby", [m.uuid for m in batch]) == {m.uuid: m for m in batch}


@pytest_twisted.ensureDeferred
async def test_an_unknown_room_has_head_0(store: Any, message: Make) -> None:
    await store.messages.append(run(message, "lobby", 1, 7))
    await store.messages.open("empty", "Empty", "00000000aa")
    assert await store.messages.heads(["lobby", "empty", "never"]) == {"lobby": 7, "empty": 0, "never": 0}
    assert await store.messages.heads([]) == {}


@pytest_twisted.ensureDeferred
async def test_the_heads_of_many_rooms_come_in_one_answer(store: Any, message: Make) -> None:
    rooms = [f"room {n}" for n in range(300)]
    await store.messages.append([message(room, seq) for room in rooms for seq in (1, 2)])
    assert await store.messages.heads(rooms) == dict.fromkeys(rooms, 2)


@pytest_twisted.ensureDeferred
async def test_pages_forwards_are_dense_and_bounded(store: Any, message: Make) -> None:
    await store.messages.append([*run(message, "lobby", 1, 10), *run(message, "lobbz", 1, 3)])
    assert seqs(await store.messages.after("lobby", 0, 4)) == [1, 2, 3, 4]
    assert seqs(await store.messages.after("lobby", 8, 4)) == [9, 10]
    assert await store.messages.after("lobby", 10, 4) == []
    assert await store.messages.after("lobby", 99, 4) == []
    assert await store.messages.after("lobby", 0, 0) == []
    assert await store.messages.after("nowhere", 0, 4) == []


@pytest_twisted.ensureDeferred
async def test_pages_backwards_are_the_nearest_and_rise(store: Any, message: Make) -> None:
    await store.messages.append([*run(message, "lobby", 1, 10), *run(message, "lobbx", 1, 3)])
    assert seqs(await store.messages.before("lobby", 5, 3)) == [2, 3, 4]
    assert seqs(await store.messages.before("lobby", 3, 9)) == [1, 2]
    assert seqs(await store.messages.before("lobby", 99, 2)) == [9, 10]
    assert await store.messages.before("lobby", 1, 3) == []
    assert await store.messages.before("lobby", 5, 0) == []
    assert await store.messages.before("nowhere", 5, 3) == []


@pytest_twisted.ensureDeferred
async def test_a_thousand_big_messages_go_in_and_come_out(store: Any, message: Make) -> None:
    batch = [message("lobby", seq, body={"text": "ß" * 8192}) for seq in range(1, 1001)]
    assert await store.messages.append(batch) == Appended(1000)
    assert seqs(await store.messages.after("lobby", 0, 2000)) == list(range(1, 1001))


@pytest_twisted.ensureDeferred
async def test_a_batch_too_big_for_one_command_goes_in_whole(store: Any, message: Make) -> None:
    batch = [message("lobby", seq, body={"text": "x" * 250_000}) for seq in range(1, 201)]
    assert await store.messages.append(batch) == Appended(200)
    late = [message("lobby", seq, body={"text": "x" * 250_000}) for seq in range(201, 400)]
    assert await store.messages.append([*late, message("lobby", 7, "late")]) == Appended(199, "seq")


@pytest_twisted.ensureDeferred
async def test_of_writers_that_race_for_a_place_one_gets_it(store: Any, message: Make) -> None:
    """Each of eight writers wants 10 messages in, in order, and takes the next free number as it knows it."""

    async def write(writer: int, messages: Any) -> None:
        sent, head = 0, 0
        while sent < 10:
            batch = [message("lobby", head + 1 + n, f"{writer}-{sent + n}") for n in range(min(3, 10 - sent))]
            sent += (await messages.append(batch)).stored
            head = (await messages.heads(["lobby"]))["lobby"]

    views = [store.messages, store.other_messages] * 4
    writing = [Deferred.fromCoroutine(write(writer, view)) for writer, view in enumerate(views)]
    await DeferredList(writing, fireOnOneErrback=True)
    log = await store.messages.after("lobby", 0, 100)
    assert seqs(log) == list(range(1, 81))
    for writer in range(8):
        mine = [m.uuid for m in log if m.uuid.startswith(f"{writer}-")]
        assert mine == [f"{writer}-{n}" for n in range(10)]


@pytest_twisted.ensureDeferred
async def test_what_was_answered_is_there_after_reopening(store: Any, message: Make) -> None:
    if store.kind == "memory":
        return  # it has nothing to reopen
    room = await store.messages.open("lobby", "Lobby", "00000000aa")
    batch = run(message, "lobby", 1, 20)
    await store.messages.append(batch)
    await store.members.first_joined("lobby", "ann", 4)
    await store.reopen()
    assert await store.messages.open("lobby", "x", "00000000bb") == room
    assert await store.messages.after("lobby", 0, 100) == batch
    assert await store.members.first_joined("lobby", "ann", 9) == 4


# Only SQLite.

WRITER = """
import sys
from pathlib import Path
from twisted.internet import defer, task
from eftchat import sqlite
from eftchat.domain.messages import Message

async def write(reactor):
    store = await sqlite.connect(reactor, Path(sys.argv[1]))
    seq = 0
    while True:
        batch = [Message("lobby", n, f"u{n}", "text", "a", "A", 0, {}) for n in range(seq + 1, seq + 8)]
        seq += (await store.messages.append(batch)).stored
        print(seq, flush=True)

task.react(lambda reactor: defer.Deferred.fromCoroutine(write(reactor)))
"""


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    """Another process that writes to `data`, and says after each batch how far it is."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest_twisted.ensureDeferred
async def test_sqlite_keeps_what_it_answered_when_its_process_is_killed(writer: Any, tmp_path: Path) -> None:
    said = [int(writer.stdout.readline()) for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    said += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    writer.wait(10)
    store = await sqlite.connect(reactor, tmp_path / "data")
    log = await store.messages.after("lobby", 0, 10**6)
    await store.close()
    assert seqs(log) == list(range(1, len(log) + 1))
    assert len(log) >= said[-1]


@pytest_twisted.ensureDeferred
async def test_sqlite_is_open_in_one_process_at_a_time(writer: Any, tmp_path: Path) -> None:
    writer.stdout.readline()
    with pytest.raises(sqlite.StoreInUse, match=f"in use by process {writer.pid}"):
        await sqlite.connect(reactor, tmp_path / "data")
    writer.send_signal(signal.SIGKILL)
    writer.wait(10)
    store = await sqlite.connect(reactor, tmp_path / "data")
    with pytest.raises(sqlite.StoreInUse):
        await sqlite.connect(reactor, tmp_path / "data")
    await store.close()


@pytest_twisted.ensureDeferred
async def test_sqlite_says_what_is_wrong_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(sqlite.StoreUnusable, match="file.*cannot be made"):
        await sqlite.connect(reactor, tmp_path / "file" / "data")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "eftchat.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite.StoreUnusable, match="junk.*not a database"):
        await sqlite.connect(reactor, tmp_path / "junk")


# The twin against a plain list.

POSTS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6), st.sampled_from("uvwxyz")), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(POSTS, max_size=5))
def test_the_twin_in_memory_stops_where_a_list_would(batches: list[list[tuple[str, int, str]]]) -> None:
    twin, kept = MemoryMessages(), []
    for batch in batches:
        messages = [Message(room, seq, uuid, "text", "u", "U", 0, {}) for room, seq, uuid in batch]
        want = 0
        for message in messages:
            taken = {("seq", m.room, m.seq) for m in kept} | {("uuid", m.room, m.uuid) for m in kept}
            if taken & {("seq", message.room, message.seq), ("uuid", message.room, message.uuid)}:
                break
            kept.append(message)
            want += 1
        appending = twin.append(messages)
        with pytest.raises(StopIteration) as done:
            appending.send(None)
        assert done.value.value.stored == want
