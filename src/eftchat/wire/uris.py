"""Every WAMP URI, spelled once."""

from __future__ import annotations

REALM = "eftchat"
SUBPROTOCOL = "eftchat.v2"

API = "eftchat.api."
ERROR = "eftchat.error."
NOTICE_RECONNECT = "eftchat.notice.reconnect"

SESSION_LEFT = "wamp.session.on_leave"
SESSION_LIST = "wamp.session.list"


def procedure(method: str) -> str:
    """The procedure that serves a method, `join` -> `eftchat.api.join`."""
    return API + method


def error(reason: str) -> str:
    """The error that carries a reason, `name_taken` -> `eftchat.error.name_taken`."""
    return ERROR + reason


def messages_topic(key: str) -> str:
    """Where the messages of the room with this key are published."""
    return f"eftchat.room.{key}.messages"


def presence_topic(key: str) -> str:
    """Where it is published who enters and leaves the room with this key."""
    return f"eftchat.room.{key}.presence"
