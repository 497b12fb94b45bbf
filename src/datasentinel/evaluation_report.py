"""The HTML report of `datasentinel evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.charts import (
    ANOMALY,
    NORMAL,
    draw_coverage,
    draw_precision_recall,
    draw_roc,
    draw_score_histogram,
    draw_scores_over_rows,
)
from datasentinel.page import plot, section, table, text, write_page

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from datasentinel.moved import Move
    from datasentinel.quality import Quality, Segments
    from datasentinel.types import BoolArray, Float32Array, Float64Array, Int64Array

_ROWS_SHOWN = 10


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    quality: Quality,
    segments: Segments,
    scores: Float32Array,
    labels: BoolArray,
    threshold: float,
    p_values: Float64Array | None,
    calibration_rows: int,
    move: Move | None,
    reasons: Callable[[Int64Array], Sequence[str]],
) -> None:
    """Write the report.

    Parameters
    ----------
    path : path-like
        The HTML file.
    title : str
        Its heading.
    facts : sequence of (str, str)
        About model and data.
    quality, segments
        What the tables say.
    scores, labels : array, shape [N]
        What the plots show.
    threshold : float
    p_values : float64 array, shape [N], or None
        For the plot of coverage, where the model has p-values.
    calibration_rows : int
        How many rows the p-values rest on.
    move : Move or None
        Where the data moved away from the calibration.
    reasons : callable
        From row numbers to what to say of each row.

    Raises
    ------
    InvalidInputError
        The file cannot be written.
    MissingDependencyError
        matplotlib is not installed.
    """
    numbers = np.arange(len(scores))
    groups = [("normal", scores[~labels], NORMAL), ("anomaly", scores[labels], ANOMALY)]
    plots = [
        plot("ROC curve", lambda axes: draw_roc(axes, scores, labels, quality)),
        plot("Precision and recall", lambda axes: draw_precision_recall(axes, scores, labels, quality)),
        plot("Scores", lambda axes: draw_score_histogram(axes, groups, threshold)),
    ]
    if p_values is not None:
        normal = p_values[~labels]
        plots.append(plot("Calibration", lambda axes: draw_coverage(axes, normal, calibration_rows)))
    over_rows = plot(
        "Scores over the rows",
        lambda axes: draw_scores_over_rows(axes, numbers, scores, threshold, labels),
        wide=True,
    )
    shown = [
        ("AUROC", f"{quality.auroc:.4f}"),
        ("average precision", f"{quality.average_precision:.4f}"),
        ("precision", f"{quality.precision:.4f}"),
        ("recall", f"{quality.recall:.4f}"),
        ("F1", f"{quality.f1:.4f}"),
        ("false-positive rate", f"{quality.false_positive_rate:.4f}"),
        ("anomalous segments hit", f"{segments.hit} of {segments.count} ({segments.recall:.1%})"),
    ]
    confusion = table(
        [
            ("normal", f"{quality.true_negatives}", f"{quality.false_positives}"),
            ("anomaly", f"{quality.false_negatives}", f"{quality.true_positives}"),
        ],
        header=("", "called normal", "called anomaly"),
    )

    def rows_table(chosen: Int64Array) -> str:
        return table(
            [
                (str(row), f"{scores[row]:.4g}", why)
                for row, why in zip(chosen.tolist(), reasons(chosen), strict=True)
            ],
            header=("row", "score", "greatest contributions: observed (expected)"),
        )

    called = scores.astype(np.float64) > threshold
    misses, alarms = np.flatnonzero(labels & ~called), np.flatnonzero(~labels & called)
    write_page(
        path,
        title,
        table(facts, align=False),
        section("Quality", table(shown), confusion),
        section("Scores", *([text(f"{move}.".capitalize())] if move else []), over_rows),
        section("Plots", *plots),
        section(
            f"Worst misses ({min(_ROWS_SHOWN, len(misses))} of {len(misses)})",
            rows_table(misses[np.argsort(scores[misses], kind="stable")[:_ROWS_SHOWN]]),
        )
        if len(misses)
        else "",
        section(
            f"Worst false alarms ({min(_ROWS_SHOWN, len(alarms))} of {len(alarms)})",
            rows_table(alarms[np.argsort(-scores[alarms], kind="stable")[:_ROWS_SHOWN]]),
        )
        if len(alarms)
        else "",
    )
