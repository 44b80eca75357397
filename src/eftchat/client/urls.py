"""Where a chat is, as people type it."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
PATH = "/chat"


def complete(typed: str) -> str:
    """The websocket URL that `typed` means; raises ValueError that says what is wrong with it.

    `host:port`, `http://host:port` and `ws://host:port/chat` are the same place.
    """
    text = typed.strip()
    parts = urlsplit(text if "://" in text else f"ws://{text}")
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None:
        raise ValueError(f"{typed}: use ws://, wss://, http:// or https://, not {parts.scheme}://")
    if parts.username is not None or parts.fragment:
        raise ValueError(f"{typed}: no user and no # in the address of a chat")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{typed}: the port is a number from 1 to 65535") from None
    if not parts.hostname or port == 0 or any(char.isspace() for char in parts.netloc):
        raise ValueError(f"{typed}: this is no host, or no host:port")
    path = parts.path if parts.path not in ("", "/") else PATH
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))
