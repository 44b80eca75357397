"""How a process is asked to stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

_log = Logger("eftchat.signals")


def stop_requested(reactor: Any) -> Deferred[str]:
    """Fires with the name of the first SIGTERM or SIGINT; every further one is only logged.

    To be called while the reactor runs: it replaces the handlers that the reactor installed.
    """
    asked: Deferred[str] = Deferred()

    def ask(name: str) -> None:
        if asked.called:
            _log.warn("{name} again: already leaving", name=name)
        else:
            asked.callback(name)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        reactor.callFromThread(ask, signal.Signals(number).name)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return asked
