"""What the terminal client prints, as pure functions: what others wrote can never steer the terminal."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any

import msgspec

from eftchat.client.values import Entered, Event, Joined, Left, Message, Posted, Reset

_UNSAFE = frozenset({"Cc", "Cs", "Zl", "Zp", "Co", "Cn"})
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They turn the direction of whatever follows, our own words too."""
_INDENT = "      | "
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def harmless(text: str) -> str:
    """`text` with every character that steers a terminal written out, `\\x1b` for an escape."""
    return "".join(_written_out(char) for char in text)


def _written_out(char: str) -> str:
    if unicodedata.category(char) not in _UNSAFE and char not in _BIDI:
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


def message_line(message: Message, zone: tzinfo | None = None) -> str:
    """`HH:MM name: text`, in the zone (of this machine when None); further lines of the text are indented."""
    at = datetime.fromtimestamp(message.at / 1000, zone)
    text = message.text if message.kind == "text" else f"[{message.kind}]"
    lines = [harmless(line) for line in text.split("\n")]
    return f"{at:%H:%M} {harmless(message.name)}: " + f"\n{_INDENT}".join(lines)


def event_line(event: Event) -> str | None:
    """What people are told of an event; None where there is nothing to tell."""
    if isinstance(event, Joined):
        if event.again:
            return f"-- back in {harmless(event.room)}"
        here = ", ".join(harmless(member.name) for member in event.members)
        return f"-- in {harmless(event.room)}; here: {here}"
    if isinstance(event, Entered):
        return f"-- {harmless(event.member.name)} entered"
    if isinstance(event, Left):
        return f"-- {harmless(event.member.name)} left"
    if isinstance(event, Reset) and event.missed is not None:
        return f"-- {event.missed} messages are no longer kept"
    if isinstance(event, Reset):
        return "-- the room begins anew: what follows does not continue what came before"
    return None  # Suspended: the connection's own line says it; Closed: the last line does


def dim(line: str) -> str:
    """The line in a faint colour."""
    return f"{_DIM}{line}{_PLAIN}"


def json_message(message: Message, *, ascii_only: bool) -> str:
    """`{"event": "message", "room": ..., "seq": ..., ...}`."""
    return json_line({"event": "message", **msgspec.to_builtins(message)}, ascii_only=ascii_only)


def json_event(event: Event, *, ascii_only: bool) -> str | None:
    """`{"event": "joined" | "entered" | "left" | "reset", "room": ..., ...}`; None for what concerns people
    only."""
    if not isinstance(event, Joined | Entered | Left | Reset):
        return None
    name = type(event).__name__.lower()
    return json_line({"event": name, **msgspec.to_builtins(event)}, ascii_only=ascii_only)


def json_posted(room: str, posted: Posted, *, ascii_only: bool) -> str:
    """`{"event": "posted", "room": ..., "uuid": ..., "seq": ..., "at": ..., "repeated": ...}`."""
    return json_line({"event": "posted", "room": room, **msgspec.to_builtins(posted)}, ascii_only=ascii_only)


def json_line(members: Mapping[str, Any], *, ascii_only: bool) -> str:
    """One line of JSON. `ascii_only` for a terminal, where some characters beyond ASCII are commands."""
    return json.dumps(members, ensure_ascii=ascii_only, separators=(",", ":")).replace("\x7f", "\\u007f")
