"""Publishes the latest scores, and how the watch goes, for a Prometheus to scrape."""

from __future__ import annotations

import logging
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from datasentinel.distributed.prometheus.publishing import ANOMALY, EXPECTED, HELP, REASON, SCORE
from datasentinel.errors import ServerError
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client import Metric

    from datasentinel.distributed.prometheus.config import Exposition
    from datasentinel.distributed.prometheus.publishing import Source
    from datasentinel.distributed.prometheus.scoring import Moment

_logger = logging.getLogger(__name__)

# How long a client may take to send its request, or to read on.
_CLIENT_TIMEOUT_S = 30.0
# What can fail of a model: queries, writes, trainings, and for an unexpected error a whole look.
OPERATIONS = ("read", "write", "fit", "look")
_COUNTERS = {
    "rows": "Rows scored.",
    "anomalies": "Rows above the threshold.",
    "moments_skipped": "Moments too long ago to catch up with.",
}


@dataclass
class Account:
    """What became of one model so far.

    Attributes
    ----------
    fresh_s : float
        How old the latest scores may be to be published.
    counts : Counter
        By the names of `_COUNTERS`.
    failures : Counter
        By `OPERATIONS`.
    fits : int
    fitted_to_s : float
        The end of the window of the last training, seconds since 1970; 0 without one.
    latest : tuple of (Source, Moment), optional
    """

    fresh_s: float
    counts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    fits: int = 0
    fitted_to_s: float = 0.0
    latest: tuple[Source, Moment] | None = None


class ScoreBoard:
    """The latest scores and the accounts of all models.

    Written by a thread for each model, read by those that answer scrapes.

    Parameters
    ----------
    fresh_s : dict of str to float
        How old scores may be to be published, by model.
    """

    def __init__(self, fresh_s: dict[str, float]) -> None:
        self.accounts = {model: Account(seconds) for model, seconds in fresh_s.items()}

    def publish(self, source: Source, moments: Sequence[Moment]) -> None:
        """Take over the last of the moments, and count all."""
        account = self.accounts[source.model]
        account.counts["rows"] += sum(len(moment.keys) for moment in moments)
        account.counts["anomalies"] += sum(int(moment.anomaly.sum()) for moment in moments)
        account.latest = (source, moments[-1])


class _Collector(Collector):
    def __init__(self, board: ScoreBoard) -> None:
        self._accounts = board.accounts

    def collect(self) -> Iterator[Metric]:
        now_s = time.time()
        for account in self._accounts.values():
            latest = account.latest
            # What is not renewed must not look like news.
            if latest is not None and now_s - latest[1].time_s <= account.fresh_s:
                yield from _scores(*latest)
        yield from self._counters()
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        for name, help_text in _COUNTERS.items():
            counter = CounterMetricFamily(f"datasentinel_watch_{name}", help_text, labels=["model"])
            for model, account in self._accounts.items():
                counter.add_metric([model], account.counts[name])
            yield counter
        fits = CounterMetricFamily(
            "datasentinel_watch_fits", "Trainings that gave a model.", labels=["model"]
        )
        failures = CounterMetricFamily(
            "datasentinel_watch_failures",
            "Queries, writes, trainings and whole looks that failed; they are retried.",
            labels=["model", "operation"],
        )
        for model, account in self._accounts.items():
            fits.add_metric([model], account.fits)
            for operation in OPERATIONS:
                failures.add_metric([model, operation], account.failures[operation])
        yield from (fits, failures)

    def _gauges(self) -> Iterator[Metric]:
        scored = GaugeMetricFamily(
            "datasentinel_watch_scored_timestamp_seconds", "The last moment scored.", labels=["model"]
        )
        fitted = GaugeMetricFamily(
            "datasentinel_watch_fitted_timestamp_seconds", "The last moment trained on.", labels=["model"]
        )
        series = GaugeMetricFamily(
            "datasentinel_watch_series", "Series with a score at the last moment.", labels=["model"]
        )
        left_out = GaugeMetricFamily(
            "datasentinel_watch_series_left_out",
            "Series without one: a query has no finite sample of them (incomplete) or several (ambiguous), "
            "they are new (warming), or there are more than max_series (too_many).",
            labels=["model", "reason"],
        )
        for model, account in self._accounts.items():
            if account.fitted_to_s:
                fitted.add_metric([model], account.fitted_to_s)
            if account.latest is None:
                continue
            moment = account.latest[1]
            scored.add_metric([model], moment.time_s)
            series.add_metric([model], len(moment.keys))
            for reason, count in moment.left_out.items():
                left_out.add_metric([model, reason], count)
        yield from (scored, fitted, series, left_out)


def _scores(source: Source, moment: Moment) -> Iterable[Metric]:
    labels = list(source.names)
    score = GaugeMetricFamily(SCORE, HELP[SCORE], labels=labels)
    anomaly = GaugeMetricFamily(ANOMALY, HELP[ANOMALY], labels=labels)
    expected = GaugeMetricFamily(EXPECTED, HELP[EXPECTED], labels=[*labels, "query"])
    reason = GaugeMetricFamily(REASON, HELP[REASON], labels=[*labels, "reason"])
    rows = zip(
        moment.keys, moment.severity.tolist(), moment.anomaly.tolist(), moment.expected.tolist(), strict=True
    )
    for key, severity, is_anomaly, columns in rows:
        values = source.values(key)
        score.add_metric(values, severity)
        anomaly.add_metric(values, float(is_anomaly))
        for column, value in zip(source.columns, columns, strict=True):
            expected.add_metric((*values, column), value)
    for row, place in np.argwhere(moment.shares).tolist():
        values = source.values(moment.keys[row])
        reason.add_metric((*values, source.columns[place]), float(moment.shares[row, place]))
    return score, anomaly, expected, reason


class ExpositionServer:
    """Answers scrapes, in a thread of its own, until it is closed.

    Parameters
    ----------
    settings : Exposition
    board : ScoreBoard

    Raises
    ------
    ServerError
        The port is taken, or the certificate cannot be used.
    """

    def __init__(self, settings: Exposition, board: ScoreBoard) -> None:
        registry = CollectorRegistry()
        registry.register(_Collector(board))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(
                settings.port,
                addr=settings.host,
                registry=registry,
                certfile=settings.certificate_file or None,
                keyfile=settings.key_file or None,
            )
        except OSError as error:
            raise ServerError(
                f"cannot publish scores on {settings.host}:{settings.port}: {error.strerror or error}"
            ) from error
        if isinstance(self._server.socket, ssl.SSLSocket):
            # The thread of a connection shakes hands: a silent client would keep the one that accepts from
            # all others, and from its end.
            self._server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]
        handler = self._server.RequestHandlerClass
        self._server.RequestHandlerClass = type("Handler", (handler,), {"timeout": _CLIENT_TIMEOUT_S})  # type: ignore[arg-type]
        self._server.handle_error = _note_failure  # type: ignore[method-assign, assignment]
        self.address = f"{settings.host}:{self._server.server_port}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _note_failure(_request: object, client: object) -> None:
    log(_logger, logging.DEBUG, "scrape_failed", client=client, reason=repr(sys.exception()))
