"""Who scores when: exchanges by turns, each for as many rows as fit into one."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long a turn may take, about, and the rows of the first one, when it is not known how long they take.
_TURN_S = 0.02
_FIRST_TURN_ROWS, _LEAST_TURN_ROWS = 16_384, 1_024


class Turns:
    """Lets one exchange at a time score, in the order in which they asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and hand it on at the end."""
        mine = None
        with self._lock:
            if self._taken:
                mine = threading.Event()
                self._waiting.append(mine)
            self._taken = True
        if mine is not None:
            mine.wait()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._taken = False


class Pace:
    """How many rows of an exchange fit into a turn, by how long the last ones took.

    Attributes
    ----------
    rows : int
    """

    def __init__(self) -> None:
        self.rows = _FIRST_TURN_ROWS

    def take(self, rows: int, elapsed_s: float) -> None:
        """Note how long some rows took."""
        self.rows = max(_LEAST_TURN_ROWS, int(rows * _TURN_S / max(elapsed_s, 1e-6)))
