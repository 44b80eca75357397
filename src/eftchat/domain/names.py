"""What a legal room name, user name and uuid is; nothing else decides it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import unicodedata

import msgspec

from eftchat.domain.errors import BadParams

NAME_MAX = 64
"""Characters in a room or user name, after normalisation."""

_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})
_UUID = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")


class Name(msgspec.Struct, frozen=True):
    """A name as it is shown, and the form under which two spellings are the same name."""

    shown: str
    folded: str


def name(text: str, path: str) -> Name:
    """The name that `text` spells; raises BadParams naming `path` when it is not a legal one."""
    if len(text) > 8 * NAME_MAX:
        raise BadParams(f"{path}: at most {NAME_MAX} characters")
    shown = unicodedata.normalize("NFC", text).strip()
    folded = fold(shown)
    if not shown or not folded:
        raise BadParams(f"{path}: must not be empty")
    if len(shown) > NAME_MAX or len(folded) > 8 * NAME_MAX:
        raise BadParams(f"{path}: at most {NAME_MAX} characters")
    if any(unicodedata.category(char) in _REFUSED for char in shown):
        raise BadParams(f"{path}: control characters are not allowed")
    return Name(shown, folded)


def fold(text: str) -> str:
    """The form under which names compare: case and compatibility variants are the same (NFKC, casefold)."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.strip()


def uuid(text: str, path: str) -> str:
    """`text` when it can serve as a message's identity (1-64 of letters, digits, `_ . : -`), else BadParams."""
    if not _UUID.match(text):
        raise BadParams(f"{path}: 1 to 64 letters, digits or _.:-")
    return text


def room_key(room: str, secret: bytes) -> str:
    """The unguessable, URI-safe form of a room's id, for topics: 26 of [a-z2-7]."""
    digest = hmac.new(secret, room.encode(), hashlib.sha256).digest()
    return base64.b32encode(digest)[:26].decode().lower()
