"""The HTML report of `datasentinel evaluate`: one file, with its style and plots inside."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import InvalidInputError, MissingDependencyError
from datasentinel.quality import sweep

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from datasentinel.quality import Quality, Segments
    from datasentinel.types import BoolArray, Float32Array, Float64Array

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2330; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .5rem 2rem .5rem 0; }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #dde3ea; text-align: left; }
td + td { text-align: right; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
.plots img { width: 100%; } .tables { display: flex; flex-wrap: wrap; align-items: flex-start; }
"""
_NORMAL, _ANOMALY = "#3b6fb6", "#d1495b"


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

    Raises
    ------
    InvalidInputError
        The file cannot be written.
    MissingDependencyError
        matplotlib is not installed.
    """
    plots = [
        _plot("ROC curve", lambda axes: _draw_roc(axes, scores, labels, quality)),
        _plot("Precision and recall", lambda axes: _draw_precision(axes, scores, labels, quality)),
        _plot("Scores", lambda axes: _draw_scores(axes, scores, labels, threshold)),
    ]
    if p_values is not None:
        normal = p_values[~labels]
        plots.append(_plot("Calibration", lambda axes: _draw_coverage(axes, normal, calibration_rows)))
    shown = [
        ("AUROC", f"{quality.auroc:.4f}"),
        ("average precision", f"{quality.average_precision:.4f}"),
        ("precision", f"{quality.precision:.4f}"),
        ("recall", f"{quality.recall:.4f}"),
        ("F1", f"{quality.f1:.4f}"),
        ("false-positive rate", f"{quality.false_positive_rate:.4f}"),
        ("anomalous segments hit", f"{segments.hit} of {segments.count} ({segments.recall:.1%})"),
    ]
    confusion = (
        "<table><tr><th></th><th>called normal</th><th>called anomaly</th></tr>"
        f"<tr><td>normal</td><td>{quality.true_negatives}</td><td>{quality.false_positives}</td></tr>"
        f"<tr><td>anomaly</td><td>{quality.false_negatives}</td><td>{quality.true_positives}</td></tr></table>"
    )
    document = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{_table(facts)}"
        f'<h2>Quality</h2><div class="tables">{_table(shown)}{confusion}</div>'
        f'<h2>Plots</h2><div class="plots">{"".join(plots)}</div></body></html>\n'
    )
    try:
        Path(path).write_text(document, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _plot(title: str, draw: Callable[[Axes], None]) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'the report needs matplotlib: pip install "datasentinel[train]"'
        ) from error
    # A figure of its own, without pyplot: no global state, no display.
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_title(title)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    data = base64.b64encode(image.getvalue()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _draw_roc(axes: Axes, scores: Float32Array, labels: BoolArray, quality: Quality) -> None:
    curve = sweep(scores, labels)
    axes.plot(
        np.append(0, curve.false_alarms) / (quality.rows - quality.anomalies),
        np.append(0, curve.hits) / quality.anomalies,
        color=_ANOMALY,
        label=f"AUROC {quality.auroc:.4f}",
    )
    axes.plot([0, 1], [0, 1], ":", color="grey", label="chance")
    axes.plot(quality.false_positive_rate, quality.recall, "ko", label="at the threshold")
    axes.set(xlabel="false-positive rate", ylabel="recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _draw_precision(axes: Axes, scores: Float32Array, labels: BoolArray, quality: Quality) -> None:
    curve = sweep(scores, labels)
    axes.plot(
        curve.hits / quality.anomalies,
        curve.hits / (curve.hits + curve.false_alarms),
        drawstyle="steps-pre",
        color=_ANOMALY,
        label=f"average precision {quality.average_precision:.4f}",
    )
    axes.axhline(quality.anomalies / quality.rows, linestyle=":", color="grey", label="chance")
    axes.plot(quality.recall, quality.precision, "ko", label="at the threshold")
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _draw_scores(axes: Axes, scores: Float32Array, labels: BoolArray, threshold: float) -> None:
    shown = scores.astype(np.float64)
    low, high = shown.min(), shown.max()
    logarithmic = low > 0 and threshold > 0 and high > 100 * low
    if logarithmic:
        bins = np.geomspace(low, high, 80)
    else:
        bins = np.linspace(low, high if high > low else low + 1, 80)
    for value, name, colour in ((False, "normal", _NORMAL), (True, "anomaly", _ANOMALY)):
        axes.hist(shown[labels == value], bins=bins.tolist(), alpha=0.6, color=colour, label=name)
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="score", ylabel="rows", yscale="log", xscale="log" if logarithmic else "linear")


def _draw_coverage(axes: Axes, p_values: Float64Array, calibration_rows: int) -> None:
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
    axes.plot(levels, np.maximum(shares, least / 10), color=_NORMAL, label="achieved")
    axes.set(
        xlabel="target false-positive rate",
        ylabel="share of normal rows at most as likely",
        xscale="log",
        yscale="log",
    )
