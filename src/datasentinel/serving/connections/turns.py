"""Whose turn it is: the event loop's time, shared fairly between the connections of all transports.

A turn is about a millisecond of decoding and scoring; a session that needs more asks for another one. Who has
used the loop least is served first, as in fair queueing by virtual time (Demers, Keshav and Shenker,
"Analysis and simulation of a fair queueing algorithm", 1989): so a client that asks for little waits for
others' turns hardly at all, however many connections and however much work they bring.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from time import monotonic
from typing import Protocol

# So long turns are taken one after the other before the loop looks at its other sockets again.
_BURST_S = 0.002
#: What receiving costs before a turn can begin: a copy out of the kernel and one into Python's bytes.
RECEIVING_S_PER_BYTE = 4e-10


class TurnTaker(Protocol):
    """What takes turns.

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
        """Do a millisecond's work; return whether there is more to do."""


class Turns:
    """Gives turns on one event loop.

    Attributes
    ----------
    free : bool
        Whether nothing waits and the loop is not late: a connection with work may take a turn at once, and
        `spend` it.
    """

    def __init__(self) -> None:
        self.free = True
        self._queue: list[tuple[float, int, TurnTaker]] = []  # A heap: by virtual time, then by arrival.
        self._arrivals = 0
        self._virtual_s = 0.0  # Where the least served of those with work are.
        self._burst_s = 0.0  # Spent on turns since the loop is known to have looked at its sockets.
        self._tick_scheduled = False

    def ready(self, taker: TurnTaker, received_bytes: int = 0) -> None:
        """Schedule a connection that has work: at once if nothing waits and the loop is not late.

        Parameters
        ----------
        taker : TurnTaker
        received_bytes : int
            How much was just received for it.
        """
        if self.free:
            self._give_turn(taker, monotonic(), received_bytes)
            return
        receiving_s = received_bytes * RECEIVING_S_PER_BYTE
        self._burst_s += receiving_s
        taker.used_s += receiving_s
        if not taker.waiting:
            self.enqueue(taker)

    def spend(self, spent_s: float) -> None:
        """Count the loop's time that was used, so that it looks at its other sockets in time."""
        self._burst_s += spent_s
        if self._burst_s > _BURST_S / 2:
            self.free = self.free and self._burst_s <= _BURST_S
            self._schedule_tick()  # In time, where the loop is about to look at its sockets anyway.

    def enqueue(self, taker: TurnTaker) -> None:
        """Schedule another turn for a connection with more work, after those that have used less."""
        taker.waiting = True
        self.free = False
        # Time that somebody did not use is not saved up.
        taker.used_s = max(taker.used_s, self._virtual_s)
        self._arrivals += 1
        heappush(self._queue, (taker.used_s, self._arrivals, taker))
        self._schedule_tick()

    def _schedule_tick(self) -> None:
        if not self._tick_scheduled:
            self._tick_scheduled = True
            asyncio.get_running_loop().call_soon(self._tick)

    def _give_turn(self, taker: TurnTaker, started_s: float, received_bytes: int = 0) -> float:
        """Return when the turn was over."""
        self._virtual_s = max(self._virtual_s, taker.used_s)
        more = taker.take_turn()
        ended_s = monotonic()
        spent_s = ended_s - started_s + received_bytes * RECEIVING_S_PER_BYTE
        taker.used_s = self._virtual_s + spent_s
        self.spend(spent_s)
        if more and not taker.waiting:
            self.enqueue(taker)
        return ended_s

    def _tick(self) -> None:
        """Go through the queue until the sockets must be looked at, which the loop does between two ticks."""
        self._tick_scheduled = False
        self._burst_s = 0.0
        now_s = monotonic()
        while self._queue and self._burst_s < _BURST_S / 2:
            _, _, taker = heappop(self._queue)
            taker.waiting = False
            now_s = self._give_turn(taker, now_s)
        self.free = not self._queue and self._burst_s <= _BURST_S
        if self._queue:
            self._schedule_tick()
