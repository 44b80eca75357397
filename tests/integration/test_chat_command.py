"""`eftchat chat` as people and scripts start it: a process with pipes, files or a terminal around it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_twisted
from attrs import define, field
from twisted.internet.threads import deferToThread

from tests.integration.test_client import Server, until

PROGRAM = """
from eftchat.cli import run
from eftchat.client.command import chat_command
from eftchat.ops.signals import stop_requested
chat_command(run, stop_requested)(prog_name="eftchat chat")
"""


@define(eq=False)
class Chat:
    """A running `eftchat chat`, whose output is read line by line in a thread."""

    process: subprocess.Popen[bytes]
    out: list[str] = field(factory=list)
    err: list[str] = field(factory=list)
    _reading: list[Any] = field(factory=list)

    def follow(self) -> None:
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            if stream is not None:
                self._reading.append(deferToThread(self._read, stream, lines))

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.decode().rstrip("\n"))

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    async def ended(self) -> int:
        code = await deferToThread(self.process.wait, 30)
        for reading in self._reading:
            await reading
        return int(code)

    def events(self, name: str) -> list[Any]:
        return [event for line in self.out if (event := json.loads(line))["event"] == name]


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.kill()


@pytest_twisted.async_yield_fixture
async def chat(server: Server) -> AsyncIterator[Callable[..., Chat]]:
    """Starts one: `chat("--json", name="Ann", stdin=...)`."""
    started: list[Chat] = []

    def start(*options: str, name: str = "Ann", stdin: Any = subprocess.PIPE, **more: Any) -> Chat:
        command = [sys.executable, "-c", PROGRAM, server.address, "--room", "R", "--name", name, *options]
        streams = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        started.append(Chat(subprocess.Popen(command, **streams)))
        started[-1].follow()
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        await one.ended()
        for stream in (one.process.stdin, one.process.stdout, one.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


Start = Callable[..., Chat]


@pytest_twisted.ensureDeferred
async def test_a_file_is_sent_line_by_line_and_then_it_ends(
    server: Server, chat: Start, tmp_path: Path
) -> None:
    lines = [f"line {number}" for number in range(2_500)]
    (tmp_path / "in").write_text("\n".join(lines))
    with (tmp_path / "in").open() as given, (tmp_path / "out").open("wb") as taken:
        sender = chat("--json", stdin=given, stdout=taken)
        assert await sender.ended() == 0
    assert await server.log() == lines
    sender.out = (tmp_path / "out").read_text().splitlines()
    assert [event["body"]["text"] for event in sender.events("message")] == lines
    assert sorted(event["seq"] for event in sender.events("posted")) == list(range(1, 2_501))
    assert sender.err == []


@pytest_twisted.ensureDeferred
async def test_the_whole_log_can_be_had_without_saying_a_word(server: Server, chat: Start) -> None:
    sender = chat()
    sender.say("one\ntwo\nthree\n")
    sender.process.stdin.close()
    assert await sender.ended() == 0
    reader = chat("--json", "--since", "0", name="Bob", stdin=subprocess.DEVNULL)
    assert await reader.ended() == 0
    assert [event["seq"] for event in reader.events("message")] == [1, 2, 3]
    reader = chat("--json", "--since", "2", name="Bob", stdin=subprocess.DEVNULL)
    assert await reader.ended() == 0
    assert [event["body"]["text"] for event in reader.events("message")] == ["three"]


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_killed_and_started_again_costs_nothing(server: Server, chat: Start) -> None:
    tap = chat("--json", "--follow", name="tap", stdin=subprocess.DEVNULL)
    sender = chat("--json")
    await until(lambda: bool(tap.out) and bool(sender.out))
    sender.say("before\n")
    await until(lambda: len(tap.events("message")) == 1)
    await server.kill()
    sender.say("in the dark\n")
    await until(lambda: "trying again" in "".join(sender.err) and "trying again" in "".join(tap.err))
    await server.start()
    sender.say("after\n")
    sender.process.stdin.close()
    assert await sender.ended() == 0
    await until(lambda: len(tap.events("message")) == 3)
    assert [e["body"]["text"] for e in tap.events("message")] == ["before", "in the dark", "after"]
    assert [event["again"] for event in tap.events("joined")] == [False, True]
    tap.process.send_signal(signal.SIGTERM)
    assert await tap.ended() == 143


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_taken_ends_it_with_1_and_a_plain_line(server: Server, chat: Start) -> None:
    first = chat()
    await until(lambda: bool(first.out))
    second = chat(name="ANN", stdin=subprocess.DEVNULL)
    assert await second.ended() == 1
    assert second.err == ["eftchat: There is another user with this name in the room"]
    first.process.send_signal(signal.SIGINT)
    assert await first.ended() == 130
    assert first.err == []


@pytest_twisted.ensureDeferred
async def test_a_text_that_is_too_long_is_told_and_the_rest_is_sent(server: Server, chat: Start) -> None:
    sender = chat()
    await deferToThread(sender.say, "x" * 20_000 + "\nfine\n")
    sender.process.stdin.close()
    assert await sender.ended() == 1
    assert await server.log() == ["fine"]
    assert len(sender.err) == 1 and "16384 bytes" in sender.err[0]


@pytest_twisted.ensureDeferred
async def test_it_works_without_a_standard_input(server: Server) -> None:
    inner = ["sh", "-c", 'exec "$@" <&-', "sh"]
    command = [*inner, sys.executable, "-c", PROGRAM, server.address, "--room", "R", "--name", "Ann"]
    done = await deferToThread(subprocess.run, command, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest_twisted.ensureDeferred
async def test_it_ends_when_nobody_reads_on(server: Server) -> None:
    pipe = ["sh", "-c", '"$@" < /dev/null | head -n 1', "sh"]
    command = [sys.executable, "-c", PROGRAM, server.address, "--room", "R", "--name", "Ann", "--follow"]
    done = await deferToThread(subprocess.run, [*pipe, *command], capture_output=True, timeout=30)
    assert (done.stdout, done.stderr) == (b"-- in R; here: Ann\n", b"")


@define(eq=False)
class Screen:
    """A terminal of our own around a process."""

    ours: int
    text: str = ""

    def read(self) -> None:
        try:
            while data := os.read(self.ours, 4096):
                self.text += data.decode()
        except OSError:
            pass  # Linux says EIO when the last process has closed the terminal


@pytest_twisted.ensureDeferred
async def test_on_a_terminal_people_talk_and_leave_with_ctrl_d(server: Server, chat: Start) -> None:
    ours, theirs = pty.openpty()
    ann = chat(stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    screen = Screen(ours)
    reading = deferToThread(screen.read)
    await until(lambda: "-- in R; here: Ann" in screen.text)
    os.write(ours, b"hello\n")
    bob = chat(name="Bob")
    bob.say("hi Ann \x1b[2J\n")
    await until(lambda: "Bob: hi Ann \\x1b[2J" in screen.text)
    assert "\x1b[2m-- Bob entered\x1b[0m" in screen.text
    assert "Ann: hello" not in screen.text, "it stands there as it was typed"
    await until(lambda: any(line.endswith("Ann: hello") for line in bob.out))
    os.write(ours, b"\x04")
    assert await ann.ended() == 0
    await reading
    os.close(ours)
