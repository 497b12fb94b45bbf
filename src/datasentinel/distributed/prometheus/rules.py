"""Recording and alert rules for the scores of a configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from datasentinel.distributed.prometheus.config import OWN_LABELS
from datasentinel.distributed.prometheus.durations import format_duration
from datasentinel.distributed.prometheus.publishing import ANOMALY, SCORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from datasentinel.distributed.prometheus.config import Model, WatchConfig

SHARE = "series:anomaly:avg"
RATIO = "model:anomaly:ratio"
# A series is remembered for five minutes by Prometheus itself.
_LEAST_SILENCE_S = 600.0
_SILENT_LOOKS = 5


def write_rules(config: WatchConfig) -> str:
    """Return a rules file for Prometheus, in YAML."""
    lines = ["groups:"]
    for model in config.models:
        lines += [
            f"  - name: {_text(f'datasentinel-watch-{model.name}')}",
            f"    interval: {format_duration(model.infer_every)}",
            "    rules:",
        ]
        for rule in _rules(model, is_scraped=config.exposition.enabled):
            lines += _in_yaml(rule)
    return "\n".join(lines) + "\n"


def _rules(model: Model, *, is_scraped: bool) -> Iterator[dict[str, str | dict[str, str]]]:
    of_model = f'{{model="{model.name}"}}'
    window = format_duration(model.alert_window)
    yield {"record": SHARE, "expr": f"avg_over_time({ANOMALY}{of_model}[{window}])"}
    yield {"record": RATIO, "expr": f"avg by (model) ({ANOMALY}{of_model})"}
    names = [f"exported_{label}" if label in OWN_LABELS else label for label in model.by]
    series = " ".join(f"{name}={{{{ $labels.{name} }}}}" for name in names) or "a series"
    yield {
        "alert": "SeriesAnomalous",
        "expr": f"{SHARE}{of_model} >= {model.alert_share:g}",
        "labels": {"severity": "warning"},
        "annotations": {
            "summary": f"{model.name}: {series} is unlike its past",
            "description": f"{{{{ $value | humanizePercentage }}}} of its moments in {window} were "
            "anomalies. anomaly_reason says which queries, anomaly_expected what they would usually say.",
        },
    }
    silence = format_duration(max(_LEAST_SILENCE_S, _SILENT_LOOKS * model.infer_every + model.offset))
    yield {
        "alert": "WatchSilent",
        "expr": f"absent_over_time({SCORE}{of_model}[{silence}])",
        "labels": {"severity": "critical"},
        "annotations": {
            "summary": f"{model.name}: no series has a score",
            "description": f"None since {silence}: datasentinel watch does not run, cannot read or cannot "
            "write, or no series has a sample of every query. Its log says which.",
        },
    }
    if is_scraped:
        yield {
            "alert": "WatchLeavesOutSeries",
            "expr": "datasentinel_watch_series_left_out"
            f'{{model="{model.name}",reason=~"ambiguous|too_many"}} > 0',
            "for": "10m",
            "labels": {"severity": "warning"},
            "annotations": {
                "summary": f"{model.name}: {{{{ $value }}}} series have no score ({{{{ $labels.reason }}}})",
                "description": "ambiguous: a query has several series for the same labels; aggregate it. "
                "too_many: raise max_series.",
            },
        }


def _in_yaml(rule: Mapping[str, str | Mapping[str, str]]) -> Iterator[str]:
    mark = "- "
    for key, value in rule.items():
        if isinstance(value, str):
            yield f"      {mark}{key}: {_text(value)}"
        else:
            yield f"      {mark}{key}:"
            yield from (f"          {name}: {_text(text)}" for name, text in value.items())
        mark = "  "


def _text(value: str) -> str:
    # What JSON quotes, YAML reads alike.
    return json.dumps(value)
