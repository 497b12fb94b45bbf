"""A Grafana dashboard for the scores of a configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from datasentinel.distributed.prometheus.config import OWN_LABELS
from datasentinel.distributed.prometheus.durations import format_duration
from datasentinel.distributed.prometheus.publishing import ANOMALY, EXPECTED, REASON, SCORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasentinel.distributed.prometheus.config import Model, WatchConfig

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
_WORST = 5


def write_dashboard(config: WatchConfig) -> str:
    """Return the dashboard in JSON, as Grafana imports and provisions it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for model in config.models:
        panels.append(
            {
                "type": "row",
                "title": model.name,
                "id": len(panels) + 1,
                "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
            }
        )
        y += 1
        x = 0
        for panel in _panels(model):
            width = panel.pop("width")
            if x + width > _WIDTH:
                x, y = 0, y + 8
            place = {"x": x, "y": y, "w": width, "h": 8}
            panels.append({**panel, "id": len(panels) + 1, "gridPos": place, "datasource": _SOURCE})
            x += width
        y += 8
    dashboard = {
        "uid": "datasentinel-watch",
        "title": "DataSentinel watch",
        "tags": ["datasentinel"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": format_duration(min(model.infer_every for model in config.models)),
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": panels,
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _panels(model: Model) -> Iterator[dict[str, Any]]:
    of_model = f'model="{model.name}"'
    worst = f"topk({_WORST}, {SCORE}{{{of_model}}})"
    yield _panel(
        "stat",
        "Anomalous series",
        "How many series are anomalies now.",
        {"": f"sum({ANOMALY}{{{of_model}}}) or vector(0)"},
        width=6,
    )
    yield _panel(
        "timeseries",
        "Share of anomalous series",
        "Anomalies among all series with a score.",
        {"": f"avg({ANOMALY}{{{of_model}}})"},
        width=6,
        unit="percentunit",
    )
    yield _panel(
        "timeseries",
        "Worst scores",
        f"The {_WORST} series that score highest; above 1 is an anomaly.",
        {"": worst},
        width=12,
        threshold=1.0,
    )
    yield _panel(
        "timeseries",
        "Reasons",
        "In how many series a query is a reason of an anomaly.",
        {"{{reason}}": f"count by (reason) ({REASON}{{{of_model}}})"},
        width=12,
    )
    labels = [f"exported_{label}" if label in OWN_LABELS else label for label in model.by]
    for column, query in model.queries.items():
        targets = {"expected": f'{EXPECTED}{{{of_model},query="{column}"}} and ignoring (query) {worst}'}
        # A query's labels are the scores' own where none is renamed.
        if labels and labels == list(model.by):
            targets["observed"] = f"({query}) and on ({', '.join(labels)}) {worst}"
        yield _panel(
            "timeseries",
            column,
            f"What the {_WORST} worst series should say, and what they do.",
            {f"{name} {_legend(labels)}".strip(): text for name, text in targets.items()},
            width=12,
        )


def _legend(labels: list[str]) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in labels)


def _panel(
    kind: str,
    title: str,
    description: str,
    targets: dict[str, str],
    *,
    width: int,
    unit: str = "short",
    threshold: float | None = None,
) -> dict[str, Any]:
    """Return a panel; `targets` are its expressions by legend, an empty one leaving it to Grafana."""
    defaults: dict[str, Any] = {"unit": unit, "min": 0 if unit == "percentunit" else None}
    if threshold is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": threshold}]
        defaults |= {
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": {"thresholdsStyle": {"mode": "line"}},
        }
    return {
        "type": kind,
        "title": title,
        "description": description,
        "width": width,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "expr": text,
                "legendFormat": legend or "__auto",
                "datasource": _SOURCE,
            }
            for place, (legend, text) in enumerate(targets.items())
        ],
    }
