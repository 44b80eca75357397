"""Websocket frames from server to client as bytes, made once and written to every socket (RFC 6455, 5.2)."""

from __future__ import annotations

import struct

_TEXT_FINAL = 0x81


def text_frame(payload: bytes) -> bytes:
    """One final, unmasked text frame. The payload must be UTF-8."""
    size = len(payload)
    if size < 126:
        return bytes((_TEXT_FINAL, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", _TEXT_FINAL, 126, size) + payload
    return struct.pack("!BBQ", _TEXT_FINAL, 127, size) + payload
