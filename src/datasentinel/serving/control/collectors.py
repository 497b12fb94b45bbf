"""Every Prometheus metric of a server, read from the data plane when they are asked for.

Nothing here runs while requests are served: the counters live in the data plane and in the native scorer.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

import datasentinel
from datasentinel.serving.accounts import LATENCY_BOUNDS_S
from datasentinel.serving.live_drift import LiveDrift

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from datasentinel.backend import StateStore
    from datasentinel.drift import Shift
    from datasentinel.serving.board import Board
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.served_model import ServedModel

_BY_TRANSPORT = {
    "requests": "Requests answered.",
    "rows": "Rows scored.",
    "anomalies": "Rows above the threshold.",
    "errors": "Requests answered with an error.",
    "refused_connections": "Connections refused because too many were open.",
    "timed_out_connections": "Connections closed because they were idle or slow for too long.",
}
_BY_MODEL = {
    "rows": "Rows scored by the model, over all transports.",
    "anomalies": "Rows above the threshold, over all transports.",
    "batches": "Batches run by the backend.",
}

# A metric has at most so many columns as label values: those with the greatest PSI.
_MAX_FEATURES = 64

# Name of the metric, help text.
_HISTOGRAMS = {
    "batch_rows": ("datasentinel_batch_rows", "Rows that the backend ran together."),
    "compute_s": ("datasentinel_compute_duration_seconds", "Time the backend took for one batch."),
}


def _label(fact: str) -> str:
    """Turn the name of a fact into a label name."""
    return re.sub(r"\W+", "_", fact).strip("_")


def _buckets(bounds: Iterable[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    return list(zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True))


class DataPlaneCollector(Collector):
    """What is served, to whom, how long it takes, and how the scores lie.

    Parameters
    ----------
    plane : DataPlane
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._watch: _ScoreWatch | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield them as they are now."""
        yield GaugeMetricFamily(
            "datasentinel_ready", "1 while requests are welcome.", value=float(self._plane.ready)
        )
        if self._plane.has_default:
            yield from self._about()
            yield from self._batches()
            yield from self._scores()
        yield from self._by_model()
        yield from self._by_stream()
        yield from self._by_shadow()
        yield from self._by_transport()
        reloads = CounterMetricFamily(
            "datasentinel_model_reloads",
            "Changed artifacts since the start: served (ok), or not (failed).",
            labels=["result"],
        )
        for result, count in self._plane.reloads.items():
            reloads.add_metric([result], count)
        yield reloads

    def _about(self) -> Iterator[Metric]:
        info = self._plane.detector.info()
        yield InfoMetricFamily(
            "datasentinel_model",
            "The model being served.",
            value={key: str(info[key]) for key in ("name", "version", "directory", "input_dim")},
        )
        yield GaugeMetricFamily(
            "datasentinel_model_threshold", "Scores above this are anomalies.", value=info["threshold"]
        )
        yield InfoMetricFamily(
            "datasentinel_backend",
            "What runs the model.",
            value={"backend": info["backend"]}
            | {_label(key): str(value) for key, value in info["facts"].items()},
        )
        plan = GaugeMetricFamily(
            "datasentinel_plan",
            "1 for each step of the plan: from min_rows rows on, batches go to backend.",
            labels=["min_rows", "backend"],
        )
        for min_rows, backend in info["plan"].items():
            plan.add_metric([str(min_rows), backend], 1.0)
        yield plan
        yield InfoMetricFamily(
            "datasentinel_build", "The version of the server.", value={"version": datasentinel.__version__}
        )

    def _by_model(self) -> Iterator[Metric]:
        counts = self._plane.counts
        for name, help_text in _BY_MODEL.items():
            yield CounterMetricFamily(f"datasentinel_model_{name}", help_text, value=counts[name])

    def _by_stream(self) -> Iterator[Metric]:
        alive = GaugeMetricFamily(
            "datasentinel_streams", "Streams that a model with memory remembers.", labels=["model"]
        )
        warming = GaugeMetricFamily(
            "datasentinel_streams_warming", "Of those, streams that are still warming.", labels=["model"]
        )
        stale = GaugeMetricFamily(
            "datasentinel_streams_stale",
            "Of those, streams with a column that has had no value for longer than is remembered.",
            labels=["model"],
        )
        stale_rows = CounterMetricFamily(
            "datasentinel_stale_rows", "Rows that were scored with such a column.", labels=["model"]
        )
        memory = GaugeMetricFamily(
            "datasentinel_stream_memory_bytes", "Memory of the streams' states.", labels=["model"]
        )
        evicted = CounterMetricFamily(
            "datasentinel_streams_evicted", "Streams dropped to make room for others.", labels=["model"]
        )
        stores: dict[str, set[StateStore]] = {}  # Versions may share one.
        for model in self._plane.served.all():
            if model.streams is not None:
                stores.setdefault(model.name, set()).add(model.streams.store)
        for name, of_model in stores.items():
            alive.add_metric([name], sum(map(len, of_model)))
            warming.add_metric([name], sum(store.warming for store in of_model))
            stale.add_metric([name], sum(store.stale for store in of_model))
            stale_rows.add_metric([name], sum(store.stale_rows for store in of_model))
            memory.add_metric([name], sum(store.bytes for store in of_model))
            evicted.add_metric([name], sum(store.evicted for store in of_model))
        yield from (alive, warming, stale, stale_rows, memory, evicted)

    def _by_shadow(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        judged = GaugeMetricFamily(
            "datasentinel_shadow_streams",
            "Streams that a version warming up beside another one is to judge before it takes over.",
            labels=labels,
        )
        warm = GaugeMetricFamily(
            "datasentinel_shadow_streams_warm", "Streams for which it is warm.", labels=labels
        )
        memory = GaugeMetricFamily(
            "datasentinel_shadow_memory_bytes", "Memory of the states that it keeps.", labels=labels
        )
        remaining = GaugeMetricFamily(
            "datasentinel_shadow_remaining_seconds", "Time until it takes over, warm or not.", labels=labels
        )
        for name, shadow in self._plane.served.shadows.items():
            values = [name, shadow.new.version]
            judged.add_metric(values, shadow.judged_streams)
            warm.add_metric(values, shadow.warm_streams)
            memory.add_metric(values, shadow.memory_bytes)
            remaining.add_metric(values, shadow.remaining_s)
        yield from (judged, warm, memory, remaining)

    def _batches(self) -> Iterator[Metric]:
        for name, (bounds, bucket_counts, total) in self._plane.detector.scorer.histograms.items():
            metric, help_text = _HISTOGRAMS[name]
            buckets = _buckets(bounds, bucket_counts)
            yield HistogramMetricFamily(metric, help_text, buckets=buckets, sum_value=total)

    def _scores(self) -> Iterator[Metric]:
        model = self._plane.served.find()
        if self._watch is None or self._watch.model is not model:
            self._watch = _ScoreWatch(model)
        yield from self._watch.collect()

    def _by_transport(self) -> Iterator[Metric]:
        for name, help_text in _BY_TRANSPORT.items():
            counter = CounterMetricFamily(f"datasentinel_{name}", help_text, labels=["transport"])
            for transport, account in self._plane.accounts.items():
                counter.add_metric([transport], getattr(account, name))
            yield counter

        codes = CounterMetricFamily(
            "datasentinel_error_codes", "The same errors by code.", labels=["transport", "code"]
        )
        for transport, account in self._plane.accounts.items():
            for code, count in account.error_codes.items():
                codes.add_metric([transport, code], count)
        yield codes

        connections = GaugeMetricFamily(
            "datasentinel_open_connections", "Connections open now.", labels=["transport"]
        )
        queued = GaugeMetricFamily(
            "datasentinel_queued_rows",
            "Rows that wait off the event loop now.",
            labels=["transport"],
        )
        latency = HistogramMetricFamily(
            "datasentinel_request_duration_seconds",
            "Time from a request's arrival in the data plane to its reply, without the network.",
            labels=["transport"],
        )
        waits = HistogramMetricFamily(
            "datasentinel_queue_duration_seconds",
            "Time that requests taken off the event loop waited for their batch.",
            labels=["transport"],
        )
        for transport, account in self._plane.accounts.items():
            if account.open_connections is not None:
                connections.add_metric([transport], account.open_connections)
            if account.queued_rows is not None:
                queued.add_metric([transport], account.queued_rows)
            if account.queue_waits_s is not None:
                bounds, counts, total = account.queue_waits_s
                waits.add_metric([transport], buckets=_buckets(bounds, counts), sum_value=total)
            buckets = _buckets(LATENCY_BOUNDS_S, account.latency_counts)
            latency.add_metric([transport], buckets=buckets, sum_value=account.latency_sum_s)
        yield connections
        yield queued
        yield waits
        yield latency


class _ScoreWatch:
    """How one model's live scores are distributed, and how far they and the columns are from calibration."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self._drift = LiveDrift.of_model(model)

    def collect(self) -> Iterator[Metric]:
        """Yield them as they are now."""
        if self._drift is None:
            return
        bounds = [*map(str, self._drift.score_edges), "+Inf"]
        yield HistogramMetricFamily(
            "datasentinel_score",
            "Live scores, in intervals that held equal shares of the calibration scores.",
            buckets=list(zip(bounds, accumulate(self.model.score_counts), strict=True)),
            sum_value=None,
        )
        shifts = self._drift.measure()
        yield GaugeMetricFamily(
            "datasentinel_score_window_rows",
            "Rows in the window of datasentinel_score_psi.",
            value=shifts.score_rows,
        )
        yield GaugeMetricFamily(
            "datasentinel_feature_window_rows",
            "Rows in the window of datasentinel_feature_psi, a sample of all.",
            value=shifts.feature_rows,
        )
        score = [shifts.score] if shifts.score else []
        yield from _measures("score", score, "the last hour's scores", labels=[])
        features = sorted(shifts.features, key=lambda shift: shift.psi, reverse=True)[:_MAX_FEATURES]
        yield from _measures("feature", features, "a column of the last hour's rows", labels=["feature"])
        retrain = GaugeMetricFamily(
            "datasentinel_retrain",
            "1 when the score or a column has drifted: PSI at least 0.25 and KS beyond chance. Absent while "
            "there are too few rows to tell.",
        )
        if shifts.retrain is not None:
            retrain.add_metric([], float(shifts.retrain))
        yield retrain


def _measures(about: str, shifts: list[Shift], what: str, labels: list[str]) -> Iterator[Metric]:
    absent = "Absent while the window has fewer than 500 rows."
    index = GaugeMetricFamily(
        f"datasentinel_{about}_psi",
        f"Population stability index of {what} against calibration; 0.25 means drift. {absent}",
        labels=labels,
    )
    distance = GaugeMetricFamily(
        f"datasentinel_{about}_ks",
        f"Kolmogorov-Smirnov statistic of {what} against calibration, at the bins' edges. {absent}",
        labels=labels,
    )
    for shift in shifts:
        values = [shift.name] if labels else []
        index.add_metric(values, shift.psi)
        distance.add_metric(values, shift.ks)
    yield index
    yield distance


class GuardCollector(Collector):
    """Failed logins."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def collect(self) -> Iterator[Metric]:
        """Yield them as they are now."""
        yield CounterMetricFamily(
            "datasentinel_failed_logins",
            "Requests without a valid token where one was needed.",
            value=float(self._guard.failed_logins),
        )


class WorkerCollector(Collector):
    """Workers that died."""

    def __init__(self, board: Board) -> None:
        self._is_successor = board.is_successor

    def collect(self) -> Iterator[Metric]:
        """Yield them as they are now."""
        # Each successor adds one to what it inherits.
        yield CounterMetricFamily(
            "datasentinel_worker_restarts",
            "Workers that replaced a dead one.",
            value=float(self._is_successor),
        )
