"""Refusals as WAMP errors: `eftchat.error.<reason>`, a text that is safe to show, and what to do about it."""

from __future__ import annotations

from typing import Any

from autobahn.wamp.exception import ApplicationError
from twisted.logger import Logger
from twisted.python.failure import Failure

from eftchat.domain.errors import ChatError, Internal
from eftchat.wire import uris

_log = Logger("eftchat.wamp.errors")


def refusal(error: ChatError) -> ApplicationError:
    """The same refusal for a WAMP client: its text, and `retryable` and `retry_after_ms` by name."""
    given: dict[str, Any] = {"retryable": error.retryable}
    if error.retry_after_ms is not None:
        given["retry_after_ms"] = error.retry_after_ms
    return ApplicationError(uris.error(error.reason), error.text, **given)


def refused(error: Exception, what: str) -> ApplicationError:
    """What the client is told when `what` failed: a refusal, or no more than that the fault is ours.

    The unexpected is logged here, in full; nothing of it reaches the client.
    """
    if isinstance(error, ChatError):
        return refusal(error)
    _log.failure("{what} failed", Failure(error), what=what)
    return refusal(Internal())
