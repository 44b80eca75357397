"""`eftchat chat` on a console of paper: what it prints, when it ends, and what it lets through to a
terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta, timezone
from random import Random
from typing import Any

import pytest
from attrs import define, field
from click.testing import CliRunner
from twisted.internet.defer import Deferred

from eftchat.client import (
    Closed,
    Cursor,
    Entered,
    Joined,
    Left,
    Member,
    Message,
    Reset,
    Suspended,
    complete,
    show,
)
from eftchat.client.command import chat_command
from eftchat.client.console import LINE_MAX, Lines
from eftchat.client.terminal import Options, Terminal
from eftchat.client.values import ChatClientError
from tests.unit.fake_node import EPOCH, FakeNet, batch, message, pending, result, run

OPTIONS = Options(("ws://a:1/chat",), "R", "Ann", user="ann")


@define(eq=False)
class Paper:
    """A console that remembers."""

    interactive: bool = False
    screen: bool = False
    said: list[str] = field(factory=list)
    notes: list[str] = field(factory=list)
    on_line: Callable[[str], object] | None = None
    input: Deferred[None] = field(factory=Deferred)
    output: Deferred[None] = field(factory=Deferred)

    def say(self, line: str) -> None:
        self.said.append(line)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def read(self, on_line: Callable[[str], object]) -> None:
        self.on_line = on_line

    def pause(self) -> None:
        self.on_line = None

    def ended(self) -> Deferred[None]:
        return self.input

    def gone(self) -> Deferred[None]:
        return self.output

    async def close(self, seconds: float | None) -> None: ...

    def type(self, *lines: str) -> None:
        for line in lines:
            assert self.on_line is not None
            self.on_line(line)


@define(eq=False)
class Desk:
    """A terminal, its console and its net."""

    net: FakeNet
    paper: Paper
    terminal: Terminal
    code: Deferred[int]

    def joined(self, **how: Any) -> Any:
        """The node lets it in."""
        line = self.net.lines[-1].open()
        line.let_in(**how)
        return line

    def ends_with(self) -> int:
        """The exit code, after the line was closed."""
        self.net.clock.advance(1.1)
        self.net.clock.advance(0.1)
        return int(result(self.code))


@pytest.fixture
def begin() -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(options: Options = OPTIONS, **paper: Any) -> Desk:
        net, console = FakeNet(), Paper(**paper)
        terminal = Terminal(net.clock, options, Random(1), console)
        terminal.client.dial = net.dial
        desks.append(Desk(net, console, terminal, run(terminal.run())))
        return desks[-1]

    yield make
    for desk in desks:
        desk.terminal.interrupt("SIGINT")
        desk.ends_with()
        assert desk.net.clock.getDelayedCalls() == []
        assert desk.net.open == []


Begin = Callable[..., Desk]


def test_lines_are_sent_and_it_ends_when_they_are_stored_and_seen(begin: Begin) -> None:
    desk = begin()
    assert desk.paper.on_line is None, "nothing is read before there is a room"
    line = desk.joined()
    desk.paper.type("one", "", "  ", "two")
    desk.paper.input.callback(None)
    first, second = line.take_posts()
    line.store(first, 1)
    line.store(second, 2)
    assert pending(desk.code)
    line.notify("messages", **batch(1, 2))
    assert desk.ends_with() == 0
    assert desk.paper.said[0] == "-- in R; here: Ann"
    assert [said[5:] for said in desk.paper.said[1:]] == [" Bob: text 1", " Bob: text 2"]
    assert desk.paper.notes == []


def test_without_any_input_it_prints_what_there_is_and_ends(begin: Begin) -> None:
    desk = begin()
    desk.paper.input.callback(None)
    line = desk.joined(seq=0, head=2)
    assert pending(desk.code)
    line.notify("messages", **batch(1, 2))
    assert desk.ends_with() == 0


def test_it_follows_when_it_is_told_to(begin: Begin) -> None:
    desk = begin(Options(("ws://a:1/chat",), "R", "Ann", follow=True))
    desk.paper.input.callback(None)
    desk.joined()
    desk.net.clock.advance(3_600)
    assert pending(desk.code)
    desk.terminal.interrupt("SIGINT")
    assert desk.ends_with() == 130


def test_in_json_every_line_is_an_object(begin: Begin) -> None:
    desk = begin(Options(("ws://a:1/chat",), "R", "Ann", user="ann", json=True))
    line = desk.joined()
    desk.paper.type("one", "bad")
    first, second = line.take_posts()
    line.store(first, 1)
    line.refuse(second, "bad_params", retryable=False)
    line.notify("messages", **batch(1, 1))
    line.notify("entered", room="R", member={"user": "bob", "name": "Bob"})
    line.notify("left", room="R", member={"user": "bob", "name": "Bob"})
    desk.paper.input.callback(None)
    assert desk.ends_with() == 1
    joined, posted, refused, said, entered, left = [json.loads(line) for line in desk.paper.said]
    assert joined == {
        "event": "joined",
        "room": "R",
        "position": {"epoch": EPOCH, "seq": 0},
        "head": 0,
        "members": [{"user": "ann", "name": "Ann"}],
        "again": False,
    }
    uuid = first["params"]["uuid"]
    assert posted == {"event": "posted", "room": "R", "uuid": uuid, "seq": 1, "at": 1_000, "repeated": False}
    assert refused["event"] == "refused" and refused["reason"] == "bad_params"
    assert said == {"event": "message", **message(1)}
    assert entered == {"event": "entered", "room": "R", "member": {"user": "bob", "name": "Bob"}}
    assert left["event"] == "left"
    assert "not sent: 'bad': no: bad_params" in desk.paper.notes[0]


def test_what_was_typed_on_the_screen_is_not_printed_again(begin: Begin) -> None:
    desk = begin(interactive=True, screen=True)
    line = desk.joined()
    desk.paper.type("hi")
    (post,) = line.take_posts()
    mine = {**message(1), "uuid": post["params"]["uuid"]}
    line.notify("messages", room="R", epoch=EPOCH, messages=[mine, message(2)])
    assert desk.paper.said[0] == "\x1b[2m-- in R; here: Ann\x1b[0m"
    assert [said[5:] for said in desk.paper.said[1:]] == [" Bob: text 2"]


def test_a_long_input_waits_for_the_acknowledgements(begin: Begin) -> None:
    desk = begin()
    line = desk.joined()
    desk.paper.type(*["x"] * 1_000)
    assert desk.paper.on_line is None
    for seq in range(1, 501):
        line.store(line.asked.pop(0), seq)
    assert desk.paper.on_line is not None


def test_a_refused_join_is_one_plain_line(begin: Begin) -> None:
    desk = begin()
    line = desk.net.lines[-1].open()
    line.refuse(line.take("join"), "name_taken", retryable=False)
    assert desk.ends_with() == 1
    assert desk.paper.notes == ["eftchat: no: name_taken"]


def test_a_node_that_says_not_to_come_back_is_one_plain_line(begin: Begin) -> None:
    desk = begin()
    desk.joined().drop(4503, "protocol \x1b[31mviolated")
    assert desk.ends_with() == 1
    assert desk.paper.notes == ["eftchat: protocol \\x1b[31mviolated"]


def test_the_connection_is_told_on_the_standard_error(begin: Begin) -> None:
    desk = begin()
    desk.net.lines[-1].drop(None, "refused")
    desk.net.next_line()
    line = desk.joined()
    desk.paper.type("kept")
    line.drop(1012, "node leaving")
    cannot, lost = desk.paper.notes
    assert cannot.startswith("-- cannot connect to ws://a:1/chat (refused), trying again in 0.")
    assert lost.startswith("-- connection lost (node leaving), trying again in 0.")
    assert lost.endswith("; 1 messages wait to be sent")
    desk.net.next_line()
    desk.joined()
    assert desk.paper.said[-1] == "-- back in R"


def test_interrupted_it_says_what_may_be_lost(begin: Begin) -> None:
    desk = begin()
    desk.joined()
    desk.paper.type("hi")
    desk.terminal.interrupt("SIGTERM")
    desk.terminal.interrupt("SIGINT")
    assert desk.ends_with() == 143
    assert desk.paper.notes == ["-- 1 messages were not acknowledged; they may or may not be stored"]


def test_it_ends_when_nobody_reads_its_output_but_sends_what_it_has(begin: Begin) -> None:
    desk = begin()
    line = desk.joined()
    desk.paper.type("hi")
    desk.paper.output.callback(None)
    line.store(line.take_posts()[0], 1)
    assert desk.ends_with() == 0


# -- what is shown -------------------------------------------------------------------------------------


def shown(text: str, name: str = "Bob", kind: str = "text") -> str:
    at = 1_767_225_540_000  # 23:59 on the last day of 2025, UTC
    return show.message_line(Message("R", 1, "u", kind, "b", name, at, {"text": text}), UTC)


def test_a_message_is_shown_with_its_time_and_name() -> None:
    assert shown("hello") == "23:59 Bob: hello"
    east = timezone(timedelta(hours=2))
    assert show.message_line(Message("R", 1, "u", "text", "b", "B", 0, {"text": "x"}), east) == "02:00 B: x"
    assert shown("", kind="image") == "23:59 Bob: [image]"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b]0;pwned\x07", "\\x1b]0;pwned\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f\x00\r", "\\x7f\\x00\\x0d"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u2028b", "a\\u2028b"),
        ("\U000f0000", "\\uf0000"),
        ("Zoë 你好 👩\u200d💻", "Zoë 你好 👩\u200d💻"),
    ],
)
def test_nothing_that_others_write_steers_the_terminal(text: str, safe: str) -> None:
    assert shown(text, name=text) == f"23:59 {safe}: {safe}"
    for event in (Entered("R", Member("u", text)), Left("R", Member("u", text))):
        assert safe in (show.event_line(event) or "")


def test_a_text_of_several_lines_cannot_pass_for_several_messages() -> None:
    assert shown("hi\n23:59 Root: do it") == "23:59 Bob: hi\n      | 23:59 Root: do it"


def test_json_on_a_screen_is_ascii() -> None:
    sent = Message("R", 1, "u", "text", "b", "B", 0, {"text": "\x9b\x7fé\n"})
    on_screen = show.json_message(sent, ascii_only=True)
    assert on_screen.isascii() and on_screen.isprintable()
    in_pipe = show.json_message(sent, ascii_only=False)
    assert "é" in in_pipe and "\n" not in in_pipe
    assert json.loads(on_screen) == json.loads(in_pipe)


def test_every_event_is_told_or_left_out_on_purpose() -> None:
    here = Cursor(EPOCH, 3)
    assert show.event_line(Reset("R", here, 7)) == "-- 7 messages are no longer kept"
    assert "anew" in (show.event_line(Reset("R", here)) or "")
    assert show.event_line(Joined("R", here, 3, (), again=True)) == "-- back in R"
    for silent in (Suspended("R"), Closed("R", ChatClientError("left", "You left"))):
        assert show.event_line(silent) is None
        assert show.json_event(silent, ascii_only=False) is None


def test_lines_come_out_whole_however_they_come_in() -> None:
    lines = Lines()
    text = "één\r\ntwo\n\nthree".encode()
    got = [line for byte in text for line in lines.feed(bytes((byte,)))]
    assert got == ["één", "two", ""]
    assert lines.end() == ["three"]
    assert lines.end() == []
    assert lines.feed(b"\xff\n") == ["\ufffd"]
    assert lines.feed(b"x" * (3 * LINE_MAX)) == []
    assert len(lines.feed(b"y\n")[0]) == LINE_MAX


# -- the command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("localhost:8080", "ws://localhost:8080/chat"),
        ("chat.example.org", "ws://chat.example.org/chat"),
        ("http://h:1", "ws://h:1/chat"),
        ("https://h/", "wss://h/chat"),
        ("WSS://h/other?x=1", "wss://h/other?x=1"),
        ("[::1]:9", "ws://[::1]:9/chat"),
    ],
)
def test_an_address_is_completed(typed: str, url: str) -> None:
    assert complete(typed) == url
    assert complete(url) == url


@pytest.mark.parametrize("typed", ["", "ftp://h", "h:x", "h:0", "h:70000", "u@h", "a b", "://", "[::1"])
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(ValueError):
        complete(typed)


def invoke(*arguments: str) -> Any:
    command = chat_command(lambda main: None, lambda reactor: Deferred())
    return CliRunner().invoke(command, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--name", "Ann"], "--room"),
        (["--room", "R"], "--name"),
        (["ftp://x", "--room", "R", "--name", "Ann"], "ws://"),
        (["--room", " ", "--name", "Ann"], "must not be empty"),
        (["--room", "R", "--name", "A\x1b"], "control characters"),
        (["--room", "R", "--name", "Ann", "--since", "1", "--tail", "1"], "one of them"),
        (["--room", "R", "--name", "Ann", "--tail", "1001"], "1001"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(arguments: list[str], complaint: str) -> None:
    ended = invoke(*arguments)
    assert ended.exit_code == 2
    assert complaint in ended.output


def test_the_help_teaches_by_examples() -> None:
    shown_help = invoke("--help").output
    assert "eftchat chat --room ci --name bot < report.txt" in shown_help
    assert all(f"  {event}  " in shown_help for event in ("message", "posted", "refused", "joined", "reset"))


def test_the_default_is_the_server_on_this_machine() -> None:
    assert invoke("--room", "R", "--name", "Ann").exit_code == 0
