"""Every WAMP URI, spelled once."""

from __future__ import annotations

REALM = "eftchat"
SUBPROTOCOL = "eftchat.v2"

API = "eftchat.api."
ERROR = "eftchat.error."
NOTICE_RECONNECT = "eftchat.notice.reconnect"

SEATS_CHANGED = "eftchat.node.seats"
"""Among nodes: a WAMP session has joined or left a room; what is known of its seats is out of date."""
TOPICS_OF_ROOMS = "eftchat.room."

SESSION_LEFT = "wamp.session.on_leave"
SESSION_LIST = "wamp.session.list"
SESSION_COUNT = "wamp.session.count"


def procedure(method: str) -> str:
    """The procedure that serves a method, `join` -> `eftchat.api.join`."""
    return API + method


def error(reason: str) -> str:
    """The error that carries a reason, `name_taken` -> `eftchat.error.name_taken`."""
    return ERROR + reason


def messages_topic(key: str) -> str:
    """Where the messages of the room with this key are published."""
    return f"{TOPICS_OF_ROOMS}{key}.messages"


def presence_topic(key: str) -> str:
    """Where it is published who enters and leaves the room with this key."""
    return f"{TOPICS_OF_ROOMS}{key}.presence"
