"""What the MongoDB store says when MongoDB fails, held against a real replica set.

The rule: what was acknowledged is there, what was not may be; nobody is told "not stored" of what may yet be
stored; and a new primary is found within seconds, however the old one went.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from eftchat import mongo
from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Claim, Member, Message
from eftchat.ports import Appended, OutcomeUnknown
from eftchat.testing.mongod import Mongod, NoMongod, ReplicaSet, find_mongod

QUICK = mongo.Deadlines(connect=2.0, read=1.0, write=1.0)
_databases = itertools.count()


def database_uri(replica_set: ReplicaSet) -> str:
    return replica_set.uri.replace("/?", f"/outcomes{next(_databases)}?")


def bounded(coroutine: Any, seconds: float = 90.0) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine).addTimeout(seconds, reactor)


def lobby(seq: int, uuid: str | None = None) -> Message:
    return Message("lobby", seq, uuid or f"u{seq}", "text", "ann", "Ann", 0, {"text": "x"})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    folder = tmp_path_factory.mktemp("mongod")
    started = ReplicaSet.start(folder, parameters=["enableTestCommands=1"])
    yield started
    started.stop()


@pytest_twisted.async_yield_fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    """`mongo.connect`, bounded, closed at the end."""
    stores: list[mongo.MongoStore] = []

    async def opened(uri: str, deadlines: mongo.Deadlines | None = None) -> mongo.MongoStore:
        stores.append(await bounded(mongo.connect(reactor, uri, deadlines)))
        return stores[-1]

    yield opened
    for store in stores:
        await store.close()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., Mongod]]:
    """Starts a single mongod with the options given."""
    started: list[Mongod] = []

    def start(*options: str) -> Mongod:
        started.append(Mongod(find_mongod(), tmp_path / f"alone{len(started)}", free_port(), options))
        started[-1].start()
        started[-1].wait()
        return started[-1]

    yield start
    for member in started:
        member.kill()


# Connecting.


@pytest_twisted.ensureDeferred
async def test_a_standalone_mongod_is_refused(alone: Any, connect: Any) -> None:
    member = alone()
    with pytest.raises(mongo.StoreUnusable, match=f"{member.host} is not a replica set: .*--replSet"):
        await connect(f"mongodb://{member.host}")


@pytest_twisted.ensureDeferred
async def test_a_replica_set_that_was_never_initiated_is_refused(alone: Any, connect: Any) -> None:
    member = alone("--replSet", "rs")
    with pytest.raises(mongo.StoreUnusable, match=r"rs\.initiate"):
        await connect(f"mongodb://{member.host}")


@pytest_twisted.ensureDeferred
async def test_another_replica_set_than_named_is_refused(replica_set: ReplicaSet, connect: Any) -> None:
    with pytest.raises(mongo.StoreUnusable, match="belongs to the replica set eftchat, not other"):
        await connect(replica_set.uri.replace("replicaSet=eftchat", "replicaSet=other"))


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
@pytest_twisted.ensureDeferred
async def test_an_unreachable_host_is_given_up_in_time(connect: Any, silent: bool) -> None:
    begin = reactor.seconds()
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # the kernel accepts, nobody answers
        port = nobody.getsockname()[1] if silent else free_port()
        with pytest.raises(mongo.StoreUnreachable, match=f"127.0.0.1:{port}"):
            await connect(f"mongodb://127.0.0.1:{port}/?replicaSet=rs", QUICK)
    assert reactor.seconds() - begin < QUICK.connect + 1


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://ann:se/cret@127.0.0.1:1/",
        "mongodb://ann:se@cret@127.0.0.1:1/",
        "mongodb://ann:secret@127.0.0.1:1/?tls=true",
        "mongodb://ann:secret@127.0.0.1:1/?authMechanism=PLAIN",
        "mongodb+srv://ann:secret@127.0.0.1/",
        "mongodb://ann:secret@127.0.0.1:1/",
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_error_shows_a_password(connect: Any, uri: str) -> None:
    with pytest.raises((mongo.StoreUnusable, mongo.StoreUnreachable)) as raised:
        await connect(uri, mongo.Deadlines(connect=0.3))
    assert "cret" not in f"{raised.value} {raised.value!r}" and raised.value.__cause__ is None


@pytest_twisted.ensureDeferred
async def test_one_reachable_member_is_enough_to_find_the_others(
    replica_set: ReplicaSet, connect: Any
) -> None:
    primary = replica_set.primary()
    follower = next(member for member in replica_set.members if member is not primary)
    store = await connect(f"mongodb://{follower.host},127.0.0.1:1/outcomes{next(_databases)}")
    assert await store.messages.append([lobby(1)]) == Appended(1)


@pytest_twisted.ensureDeferred
async def test_a_set_that_lost_its_majority_is_refused_in_time(tmp_path: Path, connect: Any) -> None:
    small = ReplicaSet.start(tmp_path)
    try:
        for member in [member for member in small.members if member is not small.primary()]:
            small.kill(member)
        begin = reactor.seconds()
        with pytest.raises((mongo.StoreUnreachable, mongo.StoreUnusable)) as raised:
            await connect(small.uri, mongo.Deadlines(connect=5.0, write=3.0))
        assert "has no primary" in str(raised.value) or "majority" in str(raised.value)
        assert reactor.seconds() - begin < 12
    finally:
        small.stop()


def test_a_missing_mongod_is_told_with_the_way_to_get_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoMongod, match="pip install"):
        find_mongod()


# Single failures, made by MongoDB's own fail points.


@contextmanager
def failing(replica_set: ReplicaSet, command: str, times: int = 1, **how: Any) -> Iterator[None]:
    """The next `times` calls of `command` fail on the primary as told."""
    with replica_set.primary().client() as client:
        data = {"failCommands": [command], **how}
        client.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


@contextmanager
def all_failing(members: list[Mongod], point: str) -> Iterator[None]:
    """A fail point is on at these members."""
    for mode in ("alwaysOn", "off"):
        for member in members:
            with member.client() as client:
                client.admin.command("configureFailPoint", point, mode=mode)
        if mode == "alwaysOn":
            yield


NO_MAJORITY = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
FAILURES = {
    "applied, no majority in time": NO_MAJORITY,
    "connection closed": {"closeConnection": True},
    "not the primary": {"errorCode": 10107},
    "stepping down": {"errorCode": 189},
    "shutting down": {"errorCode": 91},
    "interrupted by a step-down": {"errorCode": 11602},
}


@pytest.mark.parametrize("how", FAILURES.values(), ids=FAILURES.keys())
@pytest_twisted.ensureDeferred
async def test_an_append_that_fails_midway_has_an_unknown_outcome(
    replica_set: ReplicaSet, connect: Any, how: dict[str, Any]
) -> None:
    store = await connect(database_uri(replica_set), QUICK)
    batch = [lobby(1), lobby(2)]
    with failing(replica_set, "insert", **how), pytest.raises(OutcomeUnknown):
        await bounded(store.messages.append(batch))
    again = await bounded(store.messages.append(batch))
    assert again.stored == (0 if how is NO_MAJORITY else 2)
    assert len(await bounded(store.messages.find("lobby", ["u1", "u2"]))) == 2


@pytest_twisted.ensureDeferred
async def test_a_collision_is_told_only_when_what_is_there_is_durable(
    replica_set: ReplicaSet, connect: Any
) -> None:
    store = await connect(database_uri(replica_set), QUICK)
    await bounded(store.messages.append([lobby(1)]))
    primary = replica_set.primary()
    followers = [member for member in replica_set.members if member is not primary]
    with all_failing(followers, "rsSyncApplyStop"):
        for batch in ([lobby(2)], [lobby(2)], [lobby(3, "u2")], [lobby(2, "other")]):
            with pytest.raises(OutcomeUnknown):
                await bounded(store.messages.append(batch))
        assert await bounded(store.messages.heads(["lobby"])) == {"lobby": 1}
    assert await bounded(store.messages.append([lobby(3, "u2")])) == Appended(0, "uuid")
    assert (await bounded(store.messages.find("lobby", ["u2"])))["u2"].seq == 2


@pytest_twisted.ensureDeferred
async def test_an_append_past_its_deadline_may_still_be_applied(
    replica_set: ReplicaSet, connect: Any
) -> None:
    store = await connect(database_uri(replica_set), QUICK)
    slow = {"blockConnection": True, "blockTimeMS": 2000}
    with failing(replica_set, "insert", **slow), pytest.raises(OutcomeUnknown):
        await bounded(store.messages.append([lobby(1)]))
    assert await bounded(store.messages.heads(["lobby"])) in ({"lobby": 0}, {"lobby": 1})


@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 10107}, {"errorCode": 11600}])
@pytest_twisted.ensureDeferred
async def test_a_read_that_fails_is_retryable(
    replica_set: ReplicaSet, connect: Any, how: dict[str, Any]
) -> None:
    store = await connect(database_uri(replica_set), QUICK)
    with failing(replica_set, "find", times=9, **how), pytest.raises(Unavailable):
        await bounded(store.messages.after("lobby", 0, 10))
    assert await bounded(store.messages.after("lobby", 0, 10)) == []


@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 43}, {"errorCode": 11600}])
@pytest_twisted.ensureDeferred
async def test_a_long_read_that_breaks_midway_comes_whole(
    replica_set: ReplicaSet, connect: Any, how: dict[str, Any]
) -> None:
    store = await connect(database_uri(replica_set))
    big = {"text": "x" * 250_000}
    batch = [msgspec.structs.replace(lobby(seq), body=big) for seq in range(1, 101)]
    await bounded(store.messages.append(batch))
    with failing(replica_set, "getMore", **how):
        log = await bounded(store.messages.after("lobby", 0, 200))
    assert [message.seq for message in log] == list(range(1, 101))


@pytest.mark.parametrize("command", ["insert", "update"])
@pytest_twisted.ensureDeferred
async def test_a_claim_of_unknown_outcome_is_answered_once(
    replica_set: ReplicaSet, connect: Any, command: str
) -> None:
    members = (await connect(database_uri(replica_set))).members
    claim = Claim("lobby", "ann", Member("ann", "Ann"), "h1", "n1")
    await members.renew("n1", 60_000)
    if command == "update":  # a document is there already
        await members.claim(claim)
        await members.release(claim)
    with failing(replica_set, command, **NO_MAJORITY):
        assert await bounded(members.claim(claim)) is True
    assert await bounded(members.claim(claim)) is False
    with failing(replica_set, "update", **NO_MAJORITY):
        assert await bounded(members.release(claim)) is True
    assert await bounded(members.release(claim)) is False


@pytest_twisted.ensureDeferred
async def test_an_append_that_was_never_sent_is_unavailable(tmp_path: Path, connect: Any) -> None:
    small = ReplicaSet.start(tmp_path, size=1)
    try:
        store = await connect(small.uri, QUICK)
        small.kill(small.members[0])
        with pytest.raises(Unavailable):
            for _ in range(10):  # at first it is sent, into connections whose end is not known yet
                with suppress(OutcomeUnknown):
                    await bounded(store.messages.append([lobby(1)]))
    finally:
        small.stop()


# The replica set itself.

OWNER = """
import sys, time
from pathlib import Path
from eftchat.testing.mongod import ReplicaSet
ReplicaSet.start(Path(sys.argv[1]), size=1)
print("started", flush=True)
time.sleep(60)
"""


def test_a_replica_set_ends_with_its_owner(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "started\n"
        assert runs_in(tmp_path)
        owner.kill()
    deadline = time.monotonic() + 10
    while runs_in(tmp_path):
        assert time.monotonic() < deadline, "mongod outlived its owner"
        time.sleep(0.02)


def runs_in(folder: Path) -> bool:
    """Whether a process runs with the folder in its command line."""
    commands = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            commands.append(process.read_text(errors="replace"))
    return any("mongod" in command and f"{folder}/" in command for command in commands)
