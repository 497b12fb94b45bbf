"""`datasentinel evaluate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from datasentinel.calibration import ScoreTable
from datasentinel.cli.reading import ReadingOptions, data_argument, read_data, reading_options
from datasentinel.cli.recordings import score_dataset
from datasentinel.cli.writing import require_other_file
from datasentinel.detector import Detector
from datasentinel.drift import compare
from datasentinel.errors import DataError, UnsupportedModelError
from datasentinel.events import AlarmRule, FalseAlarms, find_events, judge_events
from datasentinel.moved import find_move
from datasentinel.quality import hit_segments, judge
from datasentinel.series import Alarms
from datasentinel.types import BACKEND_NAMES

if TYPE_CHECKING:
    from datasentinel.moved import Move
    from datasentinel.quality import Quality, Segments
    from datasentinel.types import BoolArray, Float32Array, Int64Array

_COVERAGE_TARGETS = (0.001, 0.01, 0.05, 0.1)
# Of a row's reasons, and of the columns that moved.
_REASONS, _COLUMNS = 3, 3


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@data_argument()
@reading_options
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="HTML file for tables and plots."
)
@click.option("--backend", type=click.Choice(BACKEND_NAMES), default="auto", show_default=True)
@click.option(
    "--alarm-rows",
    metavar="K/N",
    help="Group anomalies into events (K of N rows raise an alarm); report their precision and recall.",
)
@click.option(
    "--alarm-budget",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Call anomalies as `score --alarm-budget` does: for segments and events only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(  # noqa: PLR0917 - click passes them by name
    model: Path,
    data: tuple[str, ...],
    reading: ReadingOptions,
    report: Path | None,
    backend: str,
    alarm_rows: str | None,
    alarm_budget: float | None,
    as_json: bool,
) -> None:
    """Evaluate MODEL on the labelled rows of DATA.

    For rows in order of time, a segment is a run of consecutive anomalies; it is hit when at least one of its
    rows scores above the threshold. Coverage compares the false-positive rates that p-values promise with the
    shares of normal rows that they reach.
    """
    rule = None if alarm_rows is None else AlarmRule.parse(alarm_rows)
    detector = Detector.load(model, backend=backend)
    require_other_file(report, [*data, *detector.artifact.files])
    dataset = read_data(data, reading, detector.artifact.config)
    name = ", ".join(Path(path).name for path in data)
    scored = score_dataset(detector, dataset)
    dataset, values, scores = scored.dataset, scored.rows, scored.scores
    if dataset.labels is None:
        raise DataError(f"{name}: no label column; name it with --label")
    quality = judge(scores, dataset.labels, detector.threshold)
    if quality is None:
        raise DataError(f"{name}: the rows are all of one kind; judging needs normal rows and anomalies")
    if alarm_budget is not None and not detector.scorer.state_dim:
        raise DataError("--alarm-budget is for models with memory (train --model context)")
    anomalies = Alarms(detector.threshold, alarm_budget).decide(scores, scored.warming, scored.streams)
    segments = hit_segments(anomalies, dataset.labels)
    events = false_alarms = None
    if rule is not None or detector.scorer.state_dim:
        events = judge_events(find_events(scores, anomalies, rule), dataset.labels)
        normal = ~dataset.labels
        false_alarms = FalseAlarms(
            int(normal.sum()), int(anomalies[normal].sum()), events.events - events.true_events
        )
    table = ScoreTable.of_config(detector.artifact.config)
    p_values = detector.p_values_of_scores(scores) if table else None
    coverage = (
        {}
        if p_values is None
        else {target: float(np.mean(p_values[~dataset.labels] <= target)) for target in _COVERAGE_TARGETS}
    )
    move = None
    if table is not None and p_values is not None:
        move = find_move(np.flatnonzero(~dataset.labels), p_values[~dataset.labels], table.rows)
    if report is not None:
        from datasentinel.evaluation_report import write_report

        info = detector.info()
        write_report(
            report,
            title=f"{info['name'] or 'model'} {info['version']} on {name}",
            facts=[
                ("model", str(info["directory"])),
                ("score", str(info["score"])),
                ("threshold", f"{detector.threshold:.6g}"),
                ("data", f"{name}: {quality.rows} rows, {quality.anomalies} of them anomalies"),
                ("bad rows left out", str(dataset.problems.total)),
            ],
            quality=quality,
            segments=segments,
            scores=scores,
            labels=dataset.labels,
            threshold=detector.threshold,
            p_values=p_values,
            calibration_rows=table.rows if table else 0,
            move=move,
            reasons=lambda chosen: _reasons(detector, values, chosen),
        )
    if as_json:
        document = _document(detector, quality, segments, coverage, move)
        if events is not None and false_alarms is not None:
            document["events"] = dataclasses.asdict(events) | {
                "precision": events.precision,
                "recall": events.recall,
            }
            document["false_alarms"] = false_alarms.facts()
        click.echo(json.dumps(document, indent=2))
    else:
        _print(Console(), detector, quality, segments, coverage)
        if events is not None:
            click.echo(
                f"events: {events.events}, {events.true_events} of them true (precision "
                f"{events.precision:.4f}); {events.found} of {events.segments} segments found (recall "
                f"{events.recall:.4f})"
            )
            click.echo(f"normal rows: {false_alarms}")
        if move is not None:
            click.echo(_explain(detector, move, ~dataset.labels, values, scores))
        if report is not None:
            click.echo(f"report: {report}")


def _document(
    detector: Detector,
    quality: Quality,
    segments: Segments,
    coverage: dict[float, float],
    move: Move | None,
) -> dict[str, Any]:
    return dataclasses.asdict(quality) | {
        "threshold": detector.threshold,
        "segments": segments.count,
        "segments_hit": segments.hit,
        "segment_recall": segments.recall,
        "coverage": {str(target): share for target, share in coverage.items()},
        "moved": None if move is None else dataclasses.asdict(move),
    }


def _reasons(detector: Detector, values: Float32Array, chosen: Int64Array) -> list[str]:
    try:
        if detector.scorer.state_dim:
            # The chosen rows mean nothing without those before them.
            all_reasons = detector.explain(values, _REASONS)
            reasons = [all_reasons[row] for row in chosen]
        else:
            reasons = detector.explain(values[chosen], _REASONS)
    except UnsupportedModelError:
        return [""] * len(chosen)
    return ["; ".join(map(str, why)) for why in reasons]


def _explain(
    detector: Detector, move: Move, normal: BoolArray, values: Float32Array, scores: Float32Array
) -> str:
    """Report in which columns the data moved, and what to do."""
    after = normal & (np.arange(len(normal)) >= move.row)
    drift = compare(detector.artifact, values[after], scores[after])
    moved = sorted(drift.features, key=lambda shift: -shift.ks)[:_COLUMNS]
    names = ", ".join(shift.name for shift in moved if shift.state == "drifted")
    where = f", most of all in {names}" if names else ""
    return (
        f"{move}{where}. The threshold and p-values are for data as before; `datasentinel drift` has the "
        "details; `datasentinel recalibrate` with newer normal rows, or training on them, adapts the model."
    )


def _print(
    console: Console, detector: Detector, quality: Quality, segments: Segments, coverage: dict[float, float]
) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("rows", f"{quality.rows}, {quality.anomalies} of them anomalies")
    table.add_row("AUROC", f"{quality.auroc:.4f}")
    table.add_row("average precision", f"{quality.average_precision:.4f}")
    table.add_row("threshold", f"{detector.threshold:.6g}")
    table.add_row("precision", f"{quality.precision:.4f}")
    table.add_row("recall", f"{quality.recall:.4f}")
    table.add_row("F1", f"{quality.f1:.4f}")
    table.add_row("false-positive rate", f"{quality.false_positive_rate:.4f}")
    table.add_row("segments hit", f"{segments.hit} of {segments.count} ({segments.recall:.4f})")
    for target, share in coverage.items():
        table.add_row(f"coverage at {target:g}", f"{share:.4g} of the normal rows")
    console.print(table)
    confusion = Table("", "called normal", "called anomaly", title="Confusion at the threshold")
    confusion.add_row("normal", str(quality.true_negatives), str(quality.false_positives))
    confusion.add_row("anomaly", str(quality.false_negatives), str(quality.true_positives))
    console.print(confusion)
