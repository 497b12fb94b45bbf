"""The report of a training run: an HTML page, and its plots as PNG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.charts import (
    ANOMALY,
    HELD_OUT,
    NORMAL,
    draw_column_errors,
    draw_precision_recall,
    draw_roc,
    draw_score_histogram,
    draw_scores_over_rows,
)
from datasentinel.drift import critical_value
from datasentinel.errors import InvalidInputError
from datasentinel.histogram import Histogram, ks
from datasentinel.page import plot, section, table, text, write_file, write_page
from datasentinel.reasons import feature_name, rank_reasons

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from datasentinel.page import Plot
    from datasentinel.training.pipeline import TrainingResult
    from datasentinel.types import BoolArray, Float32Array, Float64Array, Int64Array

PAGE = "report.html"
# Of more rows, so many evenly spaced ones are scored for the plots.
_MOST_ROWS = 50_000
_ROWS_SHOWN, _REASONS, _COLUMNS_SHOWN = 10, 3, 10
# Standard deviations.
_LARGE_OFFSET = 1000.0
_OF_QUALITY = ("roc", "precision_recall")
# All that a report may consist of.
FILES = (PAGE, *(f"{name}.png" for name in ("scores_over_rows", "scores", "columns", "loss", *_OF_QUALITY)))
# Of the rows at the beginning and at the end, which are compared.
_PART = 0.25


def write_report(
    result: TrainingResult,
    directory: str | os.PathLike[str],
    *,
    rows: Float32Array,
    labels: BoolArray | None = None,
    feature_names: Sequence[str] = (),
    title: str = "Training",
    facts: Sequence[tuple[str, str]] = (),
) -> list[Path]:
    """Write `report.html`, which holds everything, and its plots as PNG files.

    Parameters
    ----------
    result : TrainingResult
        What `train` returned.
    directory : path-like
        Made if it does not exist.
    rows : float32 array, shape [N, D]
        The rows that `train` was given, in their order.
    labels : bool array, shape [N], optional
        Which of them are anomalies.
    feature_names : sequence of str, optional
        One a column.
    title : str
        The page's heading.
    facts : sequence of (str, str)
        What else to say at the top.

    Returns
    -------
    list of Path
        The files written, the page first.

    Raises
    ------
    InvalidInputError
        The files cannot be written.
    MissingDependencyError
        matplotlib is not installed.
    """
    normal = np.ones(len(rows), bool) if labels is None else ~labels
    names = [feature_name(feature_names, i) for i in range(rows.shape[1])]
    shown = _Shown.of(result, rows, normal, names)
    plots = _plots(result, shown)
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    write_page(
        directory / PAGE,
        title,
        table([*facts, *_facts(result)], align=False),
        section("Data", *_data(result, rows[normal], names)),
        section("Scores", *(plots[name] for name in ("scores_over_rows", "scores", "columns"))),
        section("Most anomalous normal rows", _strangest(result, shown)),
        section("Quality", *_quality(result), *(plots[name] for name in _OF_QUALITY if name in plots)),
        section("Training", plots["loss"]) if "loss" in plots else "",
    )
    written = [directory / PAGE]
    for name, drawn in plots.items():
        written.append(directory / f"{name}.png")
        write_file(written[-1], drawn.png)
    return written


@dataclass(frozen=True)
class _Shown:
    """The rows that are shown, by their numbers, with scores and reconstructions."""

    numbers: Int64Array
    rows: Float32Array
    normal: BoolArray
    scores: Float32Array
    rebuilt: Float32Array
    names: Sequence[str]

    @classmethod
    def of(
        cls, result: TrainingResult, rows: Float32Array, normal: BoolArray, names: Sequence[str]
    ) -> _Shown:
        numbers = np.arange(0, len(rows), max(1, -(-len(rows) // _MOST_ROWS)))
        scores, rebuilt = result.model.evaluate(rows[numbers])
        return cls(numbers, rows[numbers], normal[numbers], scores, rebuilt, names)


def _facts(result: TrainingResult) -> list[tuple[str, str]]:
    calibration = result.calibration
    kind = "a recording: held out are the last rows" if result.recording else "rows in any order"
    return [
        ("model", result.model.summary()),
        ("score", result.model.definition),
        ("rows", f"{result.rows_trained} trained on, {result.rows_held_out} held out; {kind}"),
        ("threshold", f"{calibration.threshold:.6g}: {calibration.describe()}"),
        *(
            (f"checked on {name}", f"{seen.above} of {seen.rows} above the threshold ({seen.share:.2%})")
            for name, seen in calibration.observed.items()
        ),
    ]


def _data(result: TrainingResult, rows: Float32Array, names: Sequence[str]) -> list[str]:
    told = [text(f"{warning}.") for warning in result.warnings]
    distinct = len(np.unique(rows, axis=0))
    lines = [("normal rows", str(len(rows))), ("of them distinct", str(distinct))]
    constant = [finding.name for finding in result.findings if finding.kind == "constant"]
    if constant:
        lines.append(("constant columns", f"{len(constant)}: {', '.join(constant)}"))
    shift = result.model.scaling.shift
    far = np.flatnonzero(np.abs(shift) > _LARGE_OFFSET * result.model.scaling.scale).tolist()
    if far:
        offsets = ", ".join(f"{names[i]} ({shift[i]:.7g})" for i in far)
        lines.append(("columns with a large offset", offsets))
    parts = [*told, table(lines)]
    moved = _moved(rows, names)
    if moved:
        first, last = f"first {_PART:.0%}", f"last {_PART:.0%}"
        parts.append(
            table(moved, header=("column that moved", f"median, {first}", f"median, {last}", "KS statistic"))
        )
    else:
        parts.append(text(f"No column differs between the first and the last {_PART:.0%} of the rows."))
    return parts


def _moved(rows: Float32Array, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return the columns whose first and last part differ beyond chance, the most different first."""
    count = int(_PART * len(rows))
    if count < 2:
        return []
    first, last = rows[:count], rows[-count:]
    critical = critical_value(count, count, comparisons=rows.shape[1])
    found = []
    for i in range(len(names)):
        before = Histogram.of_deciles(first[:, i])
        distance = ks(before.counts, Histogram.count(last[:, i], before.edges).counts)
        if distance > critical:
            found.append((distance, i))
    return [
        (names[i], f"{np.median(first[:, i]):.5g}", f"{np.median(last[:, i]):.5g}", f"{distance:.3f}")
        for distance, i in sorted(found, reverse=True)[:_COLUMNS_SHOWN]
    ]


def _plots(result: TrainingResult, shown: _Shown) -> dict[str, Plot]:
    threshold, scores, normal = result.calibration.threshold, shown.scores, shown.normal
    labels = None if normal.all() else ~normal
    groups = [
        ("training rows", scores[normal], NORMAL),
        ("held-out rows, as calibrated", result.held_out_scores, HELD_OUT),
    ]
    if labels is not None:
        groups.append(("anomalies", scores[labels], ANOMALY))
    errors = _column_errors(result, shown.rows[normal], shown.rebuilt[normal])
    plots = {
        "scores_over_rows": plot(
            "Scores over the rows",
            lambda axes: draw_scores_over_rows(axes, shown.numbers, scores, threshold, labels),
            wide=True,
        ),
        "scores": plot("Scores", lambda axes: draw_score_histogram(axes, groups, threshold)),
        "columns": plot("Reconstruction error", lambda axes: draw_column_errors(axes, shown.names, errors)),
    }
    if result.history:
        plots["loss"] = plot("Reconstruction error while training", lambda axes: _draw_loss(axes, result))
    quality, test_scores, test_labels = result.quality, result.test_scores, result.test_labels
    if quality is not None and test_scores is not None and test_labels is not None:
        plots["roc"] = plot("ROC curve", lambda axes: draw_roc(axes, test_scores, test_labels, quality))
        plots["precision_recall"] = plot(
            "Precision and recall",
            lambda axes: draw_precision_recall(axes, test_scores, test_labels, quality),
        )
    return plots


def _column_errors(result: TrainingResult, rows: Float32Array, rebuilt: Float32Array) -> Float64Array:
    with np.errstate(over="ignore"):
        errors = (rows.astype(np.float64) - rebuilt) / result.model.scaling.scale
        rms: Float64Array = np.sqrt(np.square(np.minimum(np.abs(errors), 1e100)).mean(axis=0))
    return rms


def _strangest(result: TrainingResult, shown: _Shown) -> str:
    normal = np.flatnonzero(shown.normal)
    chosen = normal[np.argsort(-shown.scores[normal], kind="stable")[:_ROWS_SHOWN]]
    values = shown.rows[chosen]
    why = rank_reasons(
        result.model.contributions(values),
        values,
        shown.rebuilt[chosen],
        names=shown.names,
        top=min(_REASONS, values.shape[1]),
    )
    return table(
        [
            (str(shown.numbers[i]), f"{shown.scores[i]:.4g}", "; ".join(map(str, reasons)))
            for i, reasons in zip(chosen.tolist(), why, strict=True)
        ],
        header=("row", "score", "greatest contributions: observed (expected)"),
    )


def _quality(result: TrainingResult) -> list[str]:
    if result.quality is None:
        return [text("Not measured: there are no labelled test rows of both kinds.")]
    quality = result.quality
    return [
        table(
            [
                ("test rows", str(quality.rows)),
                ("of them anomalies", str(quality.anomalies)),
                ("AUROC", f"{quality.auroc:.4f}"),
                ("average precision", f"{quality.average_precision:.4f}"),
                ("precision", f"{quality.precision:.4f}"),
                ("recall", f"{quality.recall:.4f}"),
                ("F1", f"{quality.f1:.4f}"),
                ("false-positive rate", f"{quality.false_positive_rate:.4f}"),
            ]
        )
    ]


def _draw_loss(axes: Axes, result: TrainingResult) -> None:
    epochs = [epoch.number for epoch in result.history]
    axes.plot(epochs, [epoch.loss for epoch in result.history], label="training rows")
    axes.plot(epochs, [epoch.held_out_loss for epoch in result.history], label="held-out rows")
    axes.set(xlabel="epoch", ylabel="mean squared error", yscale="log")
