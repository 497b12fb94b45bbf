"""How a process ended, in words."""

from __future__ import annotations

import signal
from contextlib import suppress


def in_words(code: int) -> str:
    """Name an exit code, or the signal of a negative one."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
