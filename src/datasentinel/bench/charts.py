"""Draws a report as PNG charts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from datasentinel.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes

    from datasentinel.bench.report import Measurement, Report

CHARTS = ("latency", "throughput", "share-of-peak")
_LEVEL_STYLES = {"python": "-", "c++": "--"}


def chart_file(model: str, chart: str) -> str:
    """Return the name of the file for one of the `CHARTS` of a model."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', model)}-{chart}.png"


def draw_charts(report: Report, folder: Path) -> list[Path]:
    """Draw latency, throughput and share of peak by batch size, one file each for each model.

    There is no chart of the share of peak where the model's arithmetic is unknown.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    MissingDependencyError
        Matplotlib is not installed.
    DataError
        The folder cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "charts need matplotlib; run `pip install 'datasentinel[bench]'`"
        ) from error

    drawn: tuple[tuple[str, Callable[[Measurement], float | None]], ...] = (
        ("median latency, µs", lambda measurement: measurement.p50_us),
        ("rows/s", lambda measurement: measurement.rows_per_s),
        ("share of the core's multiply-add peak", lambda measurement: measurement.share_of_peak),
    )
    written = []
    for model in dict.fromkeys(measurement.model for measurement in report.measurements):
        for name, (label, value) in zip(CHARTS, drawn, strict=True):
            lines = _lines(report, model, value)
            if not lines:
                continue
            figure = Figure(figsize=(8, 5), layout="constrained")
            FigureCanvasAgg(figure)
            _plot(figure.add_subplot(), lines, title=f"{model}: {label}", log_y=name != "share-of-peak")
            path = folder / chart_file(model, name)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, dpi=120)
            except OSError as error:
                raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
            written.append(path)
    return written


def _lines(
    report: Report, model: str, value: Callable[[Measurement], float | None]
) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Points by level and contender."""
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for measurement in report.measurements:
        y = value(measurement)
        if measurement.model == model and y is not None:
            lines.setdefault((measurement.level, measurement.contender), []).append((measurement.batch, y))
    return lines


def _plot(
    axes: Axes, lines: dict[tuple[str, str], list[tuple[int, float]]], *, title: str, log_y: bool
) -> None:
    for (level, contender), points in lines.items():
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, _LEVEL_STYLES.get(level, ":"), marker="o", label=f"{contender} ({level})")
    axes.set_xscale("log", base=2)
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("rows in a call")
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
