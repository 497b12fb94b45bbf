"""Time that is left, shared among what is still to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Budget:
    """So many seconds from now on.

    Parameters
    ----------
    seconds : float
    clock : callable
        Seconds that never run backwards.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end_s = clock() + seconds

    @property
    def left_s(self) -> float:
        return max(0.0, self._end_s - self._clock())

    def share(self, parts: float) -> Budget:
        """A budget of one of `parts` equal parts of what is left: what one saves, the next ones get."""
        return Budget(self.left_s / parts, self._clock)


class Estimates:
    """How long a thing took when it was last done, to tell whether there is time to do it again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._longest_s: dict[str, float] = {}

    def of(self, name: str, guess_s: float) -> float:
        return self._longest_s.get(name, guess_s)

    def timed(self, name: str, do: Callable[[], object]) -> None:
        """Do it, and remember the longest time that it ever took."""
        started = self._clock()
        try:
            do()
        finally:
            took_s = self._clock() - started
            self._longest_s[name] = max(took_s, self._longest_s.get(name, 0.0))
