"""Every test here fails when something was logged as a failure, unless it took it with `flush_errors`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure


@pytest.fixture(autouse=True)
def flush_errors() -> Iterator[Callable[[type[Exception]], list[Failure]]]:
    """Takes the logged failures of a type out of those that fail the test, and returns them."""
    failures: list[Failure] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_level") == LogLevel.critical and "log_failure" in event:
            failures.append(event["log_failure"])

    def flush(kind: type[Exception]) -> list[Failure]:
        taken = [failure for failure in failures if failure.check(kind)]
        failures[:] = [failure for failure in failures if not failure.check(kind)]
        return taken

    globalLogPublisher.addObserver(observe)
    yield flush
    globalLogPublisher.removeObserver(observe)
    assert not failures, "\n".join(failure.getTraceback() for failure in failures)
