"""Threads that do not keep the process alive, because what they do may never return."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_started: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def start(work: Callable[[], object], name: str) -> threading.Thread:
    """Run `work` in a thread that ends with the process."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    _started.add(thread)
    thread.start()
    return thread


def are_left() -> bool:
    """Whether one of them still runs: the interpreter's own end would wait for it, or run into it."""
    return any(thread.is_alive() for thread in _started)
