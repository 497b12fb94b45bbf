"""What the page for people shows: a bounded view of what the server does now, read when a page asks.

Nothing here runs while nobody looks; the core keeps a few of the rows scored last (`core/recent_rows.h`).
"""

from __future__ import annotations

import json
import time
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import numpy as np

import datasentinel
from datasentinel.backend import backends
from datasentinel.calibration import ScoreTable
from datasentinel.errors import DataSentinelError
from datasentinel.serving.accounts import LATENCY_BOUNDS_S
from datasentinel.serving.live_drift import LiveDrift

if TYPE_CHECKING:
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.served_model import ServedModel
    from datasentinel.types import Float32Array

# How often a page asks again, and how often drift is measured for all of them.
INTERVAL_MS = 1000
_DRIFT_INTERVAL_S = 5.0
# Bounds of one event. Explaining costs most: so many values take well under a millisecond.
_MAX_MODELS = 50
_MAX_SAMPLES = 1000
_MAX_EXPLAINED, _MAX_EXPLAINED_VALUES = 20, 2000
_MAX_NAMES = 256
_MAX_COLUMNS = 12
_REASONS = 3

_MEDIA = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
# Nothing but what this server sends is loaded or asked, and no other page may frame it.
HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
)


@cache
def asset(name: str) -> tuple[bytes, str]:
    """Return a file of the page, and its media type."""
    return Path(__file__).with_name("page").joinpath(name).read_bytes(), _MEDIA[name]


class LiveView:
    """What the server does, for pages that ask about once a second.

    Parameters
    ----------
    plane : DataPlane
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._started_s = time.monotonic()
        self._watches: dict[tuple[str, str], _ModelWatch] = {}

    def event(self, query: str) -> bytes:
        """Return the state as one server-sent event.

        Parameters
        ----------
        query : str
            Of the request: `after` is the `cursor` of the page's last event, so that no row is sent twice.
        """
        told = parse_qs(query).get("after", [""])[0]
        after_ns = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
        content = json.dumps(self.state(after_ns), allow_nan=False, separators=(",", ":"))
        return f"retry: {INTERVAL_MS}\nevent: state\ndata: {content}\n\n".encode()

    def state(self, after_ns: int = 0) -> dict[str, Any]:
        """Return everything that the page shows; of rows, those scored after `after_ns`, since the epoch."""
        now_ns = time.time_ns()
        served = self._plane.served
        models = served.all()[:_MAX_MODELS]
        kept = {(model.name, model.version): self._watch(model) for model in models}
        self._watches = kept
        default = served.find() if self._plane.has_default else None
        return {
            "version": datasentinel.__version__,
            "time_ms": now_ns // 1_000_000,
            "cursor": str(now_ns),  # Beyond what JavaScript's numbers hold exactly.
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "ready": self._plane.ready,
            "reloads": self._plane.reloads,
            "latency_bounds_s": LATENCY_BOUNDS_S,
            "transports": [
                {
                    "name": name,
                    "requests": account.requests,
                    "rows": account.rows,
                    "anomalies": account.anomalies,
                    "errors": account.errors,
                    "connections": account.open_connections,
                    "latency_counts": account.latency_counts,
                }
                for name, account in self._plane.accounts.items()
            ],
            "models": [
                watch.state(after_ns, _MAX_SAMPLES // len(kept), is_default=watch.model is default)
                for watch in kept.values()
            ],
            "backends": self._backends,
        }

    def _watch(self, model: ServedModel) -> _ModelWatch:
        watch = self._watches.get((model.name, model.version))
        return watch if watch is not None and watch.model is model else _ModelWatch(model)

    @cached_property
    def _backends(self) -> list[dict[str, str]]:
        return [
            {"name": status.name, "state": status.availability, "detail": status.version or status.detail}
            for status in backends()
        ]


class _ModelWatch:
    """One model, as the page shows it."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        detector = model.detector
        self._facts = {
            "name": model.name,
            "version": model.version,
            "threshold": detector.threshold,
            "input_dim": detector.input_dim,
            "features": list(detector.feature_names[:_MAX_NAMES]),
            "outputs": list(model.outputs),
            "plan": list(dict(detector.scorer.plan.steps).items()),
            "backend": detector.backend,
        }
        self._has_p_values = ScoreTable.of_config(detector.artifact.config) is not None
        self._drift = LiveDrift.of_model(model)
        self._measured_s = -_DRIFT_INTERVAL_S
        self._shifts: dict[str, Any] | None = None

    def state(self, after_ns: int, max_samples: int, *, is_default: bool) -> dict[str, Any]:
        """Return the model's part of the event."""
        detector = self.model.detector
        rows = detector.scorer.recent_rows(after_ns)[-max_samples:]
        samples: list[dict[str, Any]] = [
            {"time_ms": time_ns // 1_000_000, "score": score, "anomaly": anomaly}
            for time_ns, score, anomaly, _ in rows
        ]
        if self._has_p_values:
            scores = np.array([score for _, score, _, _ in rows], np.float32)
            for sample, p_value in zip(samples, detector.p_values_of_scores(scores).tolist(), strict=True):
                sample["p_value"] = p_value
        explained = max(1, min(_MAX_EXPLAINED, _MAX_EXPLAINED_VALUES // detector.input_dim))
        anomalies = [i for i, sample in enumerate(samples) if sample["anomaly"]][-explained:]
        if anomalies:
            reasons = self._reasons(np.stack([rows[i][3] for i in anomalies]))
            for i, reasons_of_row in zip(anomalies, reasons, strict=True):
                samples[i]["reasons"] = reasons_of_row
        return self._facts | {
            "default": is_default,
            **self.model.counts,
            "samples": samples,
            "drift": self._measured_drift(),
        }

    def _reasons(self, rows: Float32Array) -> list[list[dict[str, Any]]]:
        if self.model.detector.scorer.state_dim:
            return [[] for _ in rows]  # A row alone does not say why: what came before it does.
        try:
            found = self.model.detector.explain(rows, _REASONS)
        except DataSentinelError:  # it cannot explain, or its backend failed
            return [[] for _ in rows]
        return [
            [
                {"feature": reason.feature, "value": reason.value, "expected": _finite(reason.expected)}
                for reason in reasons
            ]
            for reasons in found
        ]

    def _measured_drift(self) -> dict[str, Any] | None:
        if self._drift is None:
            return None
        now_s = time.monotonic()
        if now_s - self._measured_s >= _DRIFT_INTERVAL_S:
            self._measured_s = now_s
            shifts = self._drift.measure()
            worst = sorted(shifts.features, key=lambda shift: shift.psi, reverse=True)[:_MAX_COLUMNS]
            self._shifts = {
                "rows": shifts.score_rows,
                "retrain": shifts.retrain,
                "columns": [
                    {"name": shift.name, "psi": shift.psi, "state": shift.state}
                    for shift in ([shifts.score] if shifts.score else []) + worst
                ],
            }
        return self._shifts


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
