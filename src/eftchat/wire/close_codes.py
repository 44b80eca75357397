"""Websocket close codes: what they ask of the client. 4000-4499 come back, 4500-4999 do not without a change."""

from __future__ import annotations

from typing import Final

BYE: Final = 1000
GOING_AWAY: Final = 1001
UNSUPPORTED_DATA: Final = 1003
TOO_BIG: Final = 1009
OUR_FAULT: Final = 1011
NODE_LEAVING: Final = 1012
TOO_SLOW: Final = 4008
PROTOCOL_VIOLATED: Final = 4503
