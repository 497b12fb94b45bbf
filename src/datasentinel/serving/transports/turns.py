"""Whose turn it is: the event loop's time, shared fairly between the connections of all transports.

A turn is about a millisecond of decoding and scoring; a session that needs more asks for another one. Who has
used the loop least is served first, as in fair queueing by virtual time (Demers, Keshav and Shenker,
"Analysis and simulation of a fair queueing algorithm", 1989): so a client that asks for little waits for
others' turns hardly at all, however many connections and however much work they bring.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from time import perf_counter
from typing import Protocol

# So long turns are taken one after the other before the loop looks at its sockets again.
_BURST_S = 0.002


class TurnTaker(Protocol):
    """Somebody who takes turns.

    Attributes
    ----------
    used_s : float
        How much it has used of the loop, in virtual time; kept by `Turns`.
    waiting : bool
        Whether its turn is to come; kept by `Turns`.
    """

    used_s: float
    waiting: bool

    def take_turn(self) -> bool:
        """Do a millisecond's work; tell whether there is more to do."""


class Turns:
    """Gives turns on one event loop."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, TurnTaker]] = []  # A heap: by virtual time, then by arrival.
        self._arrivals = 0
        self._virtual_s = 0.0  # Where the least served of those with work are.
        self._burst_started_s = 0.0
        self._burst_s = 0.0
        self._tick_scheduled = False

    def ready(self, taker: TurnTaker) -> None:
        """Give a turn to who has something to do: at once, where nobody waits and the loop is not late."""
        if taker.waiting:
            return
        started_s = perf_counter()
        if started_s - self._burst_started_s > 2 * _BURST_S:
            self._burst_started_s = started_s
            self._burst_s = 0.0
        if self._queue or self._burst_s > _BURST_S:
            self._enqueue(taker)
        else:
            self._give_turn(taker, started_s)

    def _enqueue(self, taker: TurnTaker) -> None:
        taker.waiting = True
        # Time that somebody did not use is not saved up.
        taker.used_s = max(taker.used_s, self._virtual_s)
        self._arrivals += 1
        heappush(self._queue, (taker.used_s, self._arrivals, taker))
        if not self._tick_scheduled:
            self._tick_scheduled = True
            asyncio.get_running_loop().call_soon(self._tick)

    def _give_turn(self, taker: TurnTaker, started_s: float) -> None:
        self._virtual_s = max(self._virtual_s, taker.used_s)
        more = taker.take_turn()
        took_s = perf_counter() - started_s
        self._burst_s += took_s
        taker.used_s = self._virtual_s + took_s
        if more and not taker.waiting:
            self._enqueue(taker)

    def _tick(self) -> None:
        """Go through the queue until the sockets must be looked at."""
        self._tick_scheduled = False
        started_s = self._burst_started_s = perf_counter()
        self._burst_s = 0.0
        while self._queue and self._burst_s < _BURST_S / 2:
            _, _, taker = heappop(self._queue)
            taker.waiting = False
            self._give_turn(taker, started_s)
            started_s = perf_counter()
        if self._queue and not self._tick_scheduled:
            self._tick_scheduled = True
            asyncio.get_running_loop().call_soon(self._tick)
