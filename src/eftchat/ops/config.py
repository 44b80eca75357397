"""The only reader of the process environment. Options come from it through click (`EFTCHAT_<COMMAND>_<OPTION>`)."""

from __future__ import annotations

import os
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """The environment of this process, to be handed to children."""
    return dict(os.environ)
