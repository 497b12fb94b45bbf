"""The plots that reports are made of, each drawn on axes that are handed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.quality import runs, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from datasentinel.quality import Quality
    from datasentinel.types import BoolArray, Float32Array, Float64Array, Int64Array

NORMAL, ANOMALY, HELD_OUT = "#3b6fb6", "#d1495b", "#e0a030"
# Wider than a plot has pixels: of more rows, the greatest and the least score of each stretch are drawn.
_MOST_STRETCHES = 1500
_MOST_BARS = 30
_BINS = 80


def draw_scores_over_rows(
    axes: Axes, numbers: Int64Array, scores: Float32Array, threshold: float, labels: BoolArray | None = None
) -> None:
    """Draw scores [N] over row numbers [N], with the threshold and, shaded, the runs of anomalies."""
    stretch = -(-len(scores) // _MOST_STRETCHES)
    starts = np.arange(0, len(scores), stretch)
    highest = np.maximum.reduceat(scores, starts).astype(np.float64)
    lowest = np.minimum.reduceat(scores, starts).astype(np.float64)
    axes.fill_between(numbers[starts], lowest, highest, color=NORMAL, alpha=0.3, linewidth=0)
    axes.plot(numbers[starts], highest, color=NORMAL, linewidth=0.7, label="score")
    axes.axhline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    if labels is not None:
        # Runs nearer to each other than can be told apart are one stripe.
        covered = np.maximum.reduceat(labels, starts)
        for i, (first, last) in enumerate(zip(*runs(covered), strict=True)):
            end = numbers[min(starts[last - 1] + stretch, len(numbers)) - 1]
            name = "labelled anomaly" if i == 0 else None
            axes.axvspan(numbers[starts[first]], end + 1, color=ANOMALY, alpha=0.25, linewidth=0, label=name)
    _score_axis(axes.set_yscale, scores, threshold)
    axes.set(xlabel="row", ylabel="score")
    axes.margins(x=0)


def draw_score_histogram(
    axes: Axes, groups: Sequence[tuple[str, Float32Array, str]], threshold: float
) -> None:
    """Draw the distributions of groups of scores: (name, scores, colour)."""
    everything = np.concatenate([scores for _, scores, _ in groups]).astype(np.float64)
    positive = everything[everything > 0]
    low, high = everything.min(), everything.max()
    if _score_axis(axes.set_xscale, everything, threshold):
        low = positive.min()
        bins = np.geomspace(low, max(high, 1.01 * low), _BINS)
    else:
        bins = np.linspace(low, high if high > low else low + 1, _BINS)
    for name, scores, colour in groups:
        # What is exactly 0 has no place on a logarithmic axis but the first.
        shown = np.maximum(scores.astype(np.float64), bins[0])
        axes.hist(shown, bins=bins.tolist(), alpha=0.55, color=colour, label=name)
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="score", ylabel="rows", yscale="log")


def draw_column_errors(axes: Axes, names: Sequence[str], errors: Float64Array) -> None:
    """Draw each column's reconstruction error, the greatest first."""
    order = np.argsort(-errors, kind="stable")[:_MOST_BARS]
    axes.barh(np.arange(len(order)), errors[order], color=NORMAL)
    axes.set_yticks(np.arange(len(order)), [names[i] for i in order], fontsize=7)
    axes.invert_yaxis()
    more = f", {len(order)} greatest of {len(errors)}" if len(errors) > len(order) else ""
    axes.set(xlabel=f"root mean square in standard deviations{more}")


def draw_roc(axes: Axes, scores: Float32Array, labels: BoolArray, quality: Quality) -> None:
    """Draw the receiver operating characteristic."""
    curve = sweep(scores, labels)
    axes.plot(
        np.append(0, curve.false_alarms) / (quality.rows - quality.anomalies),
        np.append(0, curve.hits) / quality.anomalies,
        color=ANOMALY,
        label=f"AUROC {quality.auroc:.4f}",
    )
    axes.plot([0, 1], [0, 1], ":", color="grey", label="chance")
    axes.plot(quality.false_positive_rate, quality.recall, "ko", label="at the threshold")
    axes.set(xlabel="false-positive rate", ylabel="recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def draw_precision_recall(axes: Axes, scores: Float32Array, labels: BoolArray, quality: Quality) -> None:
    """Draw precision over recall."""
    curve = sweep(scores, labels)
    axes.plot(
        curve.hits / quality.anomalies,
        curve.hits / (curve.hits + curve.false_alarms),
        drawstyle="steps-pre",
        color=ANOMALY,
        label=f"average precision {quality.average_precision:.4f}",
    )
    axes.axhline(quality.anomalies / quality.rows, linestyle=":", color="grey", label="chance")
    axes.plot(quality.recall, quality.precision, "ko", label="at the threshold")
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def draw_coverage(axes: Axes, p_values: Float64Array, calibration_rows: int) -> None:
    """Compare the share of normal rows with p <= a to a, within the sampling error of both samples."""
    least = 1 / (calibration_rows + 1)
    levels = np.geomspace(least, 1, 200)
    shares = np.searchsorted(np.sort(p_values), levels, side="right") / len(p_values)
    error = 1.96 * np.sqrt(levels * (1 - levels) * (1 / len(p_values) + 1 / calibration_rows))
    axes.fill_between(
        levels,
        np.maximum(levels - error, least / 10),
        levels + error,
        color="grey",
        alpha=0.25,
        label="sampling error (95 %)",
    )
    axes.plot(levels, levels, ":", color="grey", label="as promised")
    axes.plot(levels, np.maximum(shares, least / 10), color=NORMAL, label="achieved")
    axes.set(
        xlabel="target false-positive rate",
        ylabel="share of normal rows at most as likely",
        xscale="log",
        yscale="log",
    )


def _score_axis(
    set_scale: Callable[[str], None], scores: Float32Array | Float64Array, threshold: float
) -> bool:
    """Make the axis of scores logarithmic where all are positive and far apart; return whether it is."""
    positive = scores[scores > 0]
    logarithmic = threshold > 0 and scores.min() >= 0 and positive.size > 0
    logarithmic = bool(logarithmic and max(scores.max(), threshold) > 20 * positive.min())
    if logarithmic:
        set_scale("log")
    return logarithmic
