"""Where the log goes: quiet text for a terminal, JSON lines for a collector. No message body ever enters it."""

from __future__ import annotations

import sys
from typing import IO, Any, Literal

from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    jsonFileLogObserver,
    textFileLogObserver,
)

Format = Literal["text", "json"]


def begin(level: str, form: Format, out: IO[str] | None = None) -> None:
    """Sends everything of at least `level` (debug, info, warn, error) to `out`, the standard error by default."""
    out = sys.stderr if out is None else out
    observer: Any = jsonFileLogObserver(out, "") if form == "json" else textFileLogObserver(out)
    predicate: Any = LogLevelFilterPredicate(LogLevel.lookupByName(level))
    # Autobahn and Twisted talk about every connection; what matters of theirs comes as a warning.
    for namespace in ("autobahn", "twisted", "txmongo"):
        predicate.setLogLevelForNamespace(namespace, max(LogLevel.lookupByName(level), LogLevel.warn))
    # The driver's way to say, several times a second, that there is no primary; the node says it once itself.
    predicate.setLogLevelForNamespace("log_legacy", LogLevel.error)
    filtered: Any = FilteringLogObserver(observer, [predicate])
    globalLogBeginner.beginLoggingTo([filtered], redirectStandardIO=False)
