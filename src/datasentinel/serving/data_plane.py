"""The one way from any transport to the model: validate, score, account.

Transports decode requests and encode replies; everything between happens here, so that every protocol
answers and is counted alike.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.backend import LineSession, ModelTable
from datasentinel.errors import (
    BackendError,
    InvalidInputError,
    OutOfMemoryError,
    ResourceExhaustedError,
    UnsupportedModelError,
)
from datasentinel.serving.logs import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.detector import Detector
    from datasentinel.reasons import Reason

_logger = logging.getLogger(__name__)

# What an error is called in the metrics, for transports without codes of their own; the first that fits.
INVALID, INTERNAL = "invalid_argument", "internal"
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (InvalidInputError, INVALID),
    (UnsupportedModelError, "unimplemented"),
    (ResourceExhaustedError, "resource_exhausted"),
    (OutOfMemoryError, "resource_exhausted"),
    (BackendError, INTERNAL),
)

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

_WARM_UP_ROWS = (1, 64, 1)

# What requests call a model whose artifact does not say.
_UNNAMED = "datasentinel"
_UNVERSIONED = "1"


@dataclass(slots=True)
class TransportAccount:
    """What one transport did since the server started.

    Attributes
    ----------
    requests, rows, anomalies, errors : int
        Requests answered; rows scored; of those, anomalies; requests answered with an error.
    error_codes : Counter of str
        The same errors by code; those whose code nobody told are missing.
    refused_connections, timed_out_connections : int
        Connections refused over the limit; closed because they were idle or slow for too long.
    open_connections : int or None
        None where the transport's library does not tell.
    latency_counts : list of int
        Requests per bucket of `LATENCY_BOUNDS_S`, and those above the last bound. The requests of one chunk
        are answered together, so each of them took the time of the chunk.
    latency_sum_s : float
        Time of all requests together.
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

    def add(
        self, *, requests: int, rows: int, anomalies: int, errors: int, latency_s: float, code: str = ""
    ) -> None:
        """Account for `requests` requests that were answered together; `code` tells what all errors were."""
        self.requests += requests
        self.rows += rows
        self.anomalies += anomalies
        self.errors += errors
        if errors and code:
            self.error_codes[code] += errors
        self.latency_counts[bisect_left(LATENCY_BOUNDS_S, latency_s)] += requests
        self.latency_sum_s += requests * latency_s


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One scored row: its score, whether that is above the threshold and, if asked for, why."""

    score: float
    is_anomaly: bool
    reasons: Sequence[Reason] = ()


class LineStream:
    """One connection of the line protocol, accounted for: bytes in, reply bytes out."""

    __slots__ = ("_account", "_errors", "_failures", "_lines", "_session", "mid_message")

    def __init__(self, session: LineSession, account: TransportAccount) -> None:
        self._session = session
        self._account = account
        self._lines = 0
        self._errors = 0
        self._failures = 0
        self.mid_message = False

    @property
    def closed(self) -> bool:
        """Whether nothing more will be read."""
        return self._session.closed

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; give the replies to every line they complete."""
        started = perf_counter()
        replies = self._session.feed(data)
        self.mid_message = not data.endswith(b"\n")
        self._add(replies, perf_counter() - started)
        return replies

    def finish(self) -> bytes:
        """Answer a last line without a newline: the stream ended."""
        started = perf_counter()
        replies = self._session.finish()
        self.mid_message = False
        self._add(replies, perf_counter() - started)
        return replies

    def _add(self, replies: bytes, latency_s: float) -> None:
        if not replies:
            return
        session = self._session
        lines, errors = session.lines - self._lines, session.errors - self._errors
        self._lines += lines
        self._errors += errors
        self._account.add(
            requests=lines,
            rows=lines - errors,
            anomalies=replies.count(b"ANOMALY\n"),
            errors=errors,
            latency_s=latency_s,
        )
        if errors:
            self._explain(errors)

    def _explain(self, errors: int) -> None:
        """Count errors by code, and log those that are not the client's fault."""
        failures = self._session.failures - self._failures
        if errors > failures:
            self._account.error_codes[INVALID] += errors - failures
        if failures:
            self._failures += failures
            self._account.error_codes[INTERNAL] += failures
            _failure_log(lines=failures, reason=self._session.last_failure)


# A broken backend fails every line; a line in the log for each would be a second failure.
_failure_log = RateLimitedLog(_logger, logging.ERROR, "lines_failed")


class DataPlane:
    """A detector that is being served.

    Parameters
    ----------
    detector : Detector
        The loaded model.

    Attributes
    ----------
    models : ModelTable
        The models as requests name them; every protocol asks it anew for each batch.
    ready : bool
        Whether requests are welcome: set when every transport listens, cleared when the server drains.
    accounts : dict of str to TransportAccount
        By transport.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.models = ModelTable()
        config = detector.artifact.config
        self.models.put(config.name or _UNNAMED, config.version or _UNVERSIONED, detector.scorer)
        self.ready = False
        self.accounts: dict[str, TransportAccount] = {}
        self._uncounted = dict.fromkeys(detector.scorer.counts, 0)

    def warm_up(self) -> None:
        """Score a few rows that no metric counts, so that the first client does not pay for first-time work.

        Raises
        ------
        BackendError, OutOfMemoryError
            The model loads but does not run.
        """
        before = self.detector.scorer.counts
        for count in _WARM_UP_ROWS:
            self.detector.score(np.zeros((count, self.detector.input_dim), dtype=np.float32))
        after = self.detector.scorer.counts
        for name, value in after.items():
            self._uncounted[name] += value - before[name]
        self.detector.scorer.observe()

    @property
    def counts(self) -> dict[str, int]:
        """The model's own counters `rows`, `anomalies` and `batches`, without the warm-up."""
        return {name: value - self._uncounted[name] for name, value in self.detector.scorer.counts.items()}

    def account(self, transport: str) -> TransportAccount:
        """Give the account of a transport, opened at first use."""
        return self.accounts.setdefault(transport, TransportAccount())

    def line_stream(self, account: TransportAccount, *, max_line_bytes: int) -> LineStream:
        """Open a connection of the line protocol."""
        return LineStream(LineSession(self.models, max_line_bytes=max_line_bytes), account)

    def evaluate(
        self, values: Sequence[float], account: TransportAccount, *, explain_top: int = 0
    ) -> Evaluation:
        """Score one row.

        Parameters
        ----------
        values : sequence of float, length D, raw units
        account : TransportAccount
            Where the request is counted.
        explain_top : int
            How many reasons to give, the greatest contributions first; 0 computes none.

        Raises
        ------
        InvalidInputError
            Wrong number of values, or a non-finite one.
        UnsupportedModelError
            Reasons are asked for, and the model cannot give any.
        BackendError, OutOfMemoryError
            The backend failed.
        """
        started = perf_counter()
        scored = anomaly = False
        code = ""
        reasons: Sequence[Reason] = ()
        try:
            row = np.array(values, dtype=np.float32)
            if explain_top:
                (reasons,) = self.detector.explain(row, explain_top)
            score = float(self.detector.score(row)[0])
            scored, anomaly = True, score > self.detector.threshold
        except Exception as error:
            code = code_of(error)
            raise
        finally:
            account.add(
                requests=1,
                rows=scored,
                anomalies=anomaly,
                errors=not scored,
                latency_s=perf_counter() - started,
                code=code,
            )
        return Evaluation(score, anomaly, reasons)


def code_of(error: Exception) -> str:
    """Tell what an error is called in the metrics."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL)
