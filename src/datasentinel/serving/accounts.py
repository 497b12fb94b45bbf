"""Counts of what was answered: one account for each transport, and its observers."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.backend import RequestCounts

# Upper bounds in seconds. The first is below what one row of a small model takes, the last above any chunk.
LATENCY_BOUNDS_S = (
    5e-6,
    1e-5,
    2.5e-5,
    5e-5,
    1e-4,
    2.5e-4,
    5e-4,
    1e-3,
    2.5e-3,
    5e-3,
    1e-2,
    2.5e-2,
    0.1,
    0.5,
    2.5,
)


class Answered(NamedTuple):
    """What was answered together: how much, in which time, and what its errors were."""

    requests: int
    rows: int
    anomalies: int
    errors: int
    latency_s: float
    code: str
    ended_ns: int | None = None  # Since the epoch; None: just now.


Observer: TypeAlias = "Callable[[Answered], None]"


@dataclass(slots=True)
class TransportAccount:
    """What one transport did since the server started.

    Attributes
    ----------
    requests, rows, anomalies, errors : int
        Requests answered; rows scored; of those, anomalies; requests answered with an error.
    error_codes : Counter of str
        The same errors by code; those whose code was not recorded are missing.
    refused_connections, timed_out_connections : int
        Connections refused over the limit; closed because they were idle or slow for too long.
    open_connections : int or None
        None where the transport's library does not expose it.
    latency_counts : list of int
        Requests per bucket of `LATENCY_BOUNDS_S`, and those above the last bound. The requests of one chunk
        are answered together, so each of them took the time of the chunk.
    latency_sum_s : float
        Time of all requests together.
    observer : callable or None
        Called with everything that was answered.
    queued_rows : int or None
        Rows that wait in the queue that all transports share.
    queue_waits_s : tuple or None
        How long requests waited in it: upper bounds, counts per bound and above the last one, sum.
    source : callable, optional
        Adds what native code has counted since it was last asked.
    """

    requests: int = 0
    rows: int = 0
    anomalies: int = 0
    errors: int = 0
    error_codes: Counter[str] = field(default_factory=Counter)
    refused_connections: int = 0
    timed_out_connections: int = 0
    open_connections: int | None = None
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    latency_sum_s: float = 0.0
    observer: Observer | None = None
    source: Callable[[], None] | None = None
    queued_rows: int | None = None
    queue_waits_s: tuple[list[float], list[int], float] | None = None

    def refresh(self) -> None:
        """Bring the counts up to date."""
        if self.source is not None:
            self.source()

    def add(
        self, requests: int, rows: int, anomalies: int, latency_s: float, *, errors: int = 0, code: str = ""
    ) -> None:
        """Count requests that were answered together, some of them with errors of one code."""
        self.requests += requests
        self.rows += rows
        self.anomalies += anomalies
        self.errors += errors
        if errors:
            self.error_codes[code] += errors
        self.latency_counts[bisect_left(LATENCY_BOUNDS_S, latency_s)] += requests
        self.latency_sum_s += requests * latency_s
        if self.observer is not None:
            self.observer(Answered(requests, rows, anomalies, errors, latency_s, code if errors else ""))

    def take(self, counts: RequestCounts, code_name: Callable[[int], str]) -> None:
        """Add what native code has counted since it was last asked; `code_name` maps a code to its name."""
        counted = counts.take()
        self.requests += counted["requests"]
        self.rows += counted["rows"]
        self.anomalies += counted["anomalies"]
        self.latency_sum_s += counted["latency_sum_s"]
        for code, count in counted["errors"].items():
            self.errors += count
            self.error_codes[code_name(code)] += count
        for bucket, count in enumerate(counted["latency_counts"]):
            self.latency_counts[bucket] += count
        if self.observer is not None:
            for requests, rows, anomalies, errors, code, latency_s, ended_ns in counted["traced"]:
                name = code_name(code) if errors and code else ""
                self.observer(Answered(requests, rows, anomalies, errors, latency_s, name, ended_ns))
