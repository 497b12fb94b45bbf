"""Plots of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

    from datasentinel.training.pipeline import TrainingResult
    from datasentinel.types import BoolArray, Float32Array


def write_report(result: TrainingResult, directory: str | os.PathLike[str]) -> list[Path]:
    """Plot the loss, where there was one, and the scores and precision of labelled test rows, if given.

    Parameters
    ----------
    result : TrainingResult
        What `train` returned.
    directory : path-like
        Made if it does not exist.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    InvalidInputError
        The files cannot be written.
    MissingDependencyError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'the report needs matplotlib: pip install "datasentinel[train]"'
        ) from error
    directory = Path(directory)
    plots = ["loss"] if result.history else []
    if result.quality:
        plots += ["scores", "precision_recall"]
    written = []
    for plot in plots:
        # A figure of its own, without pyplot: no global state, no display.
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        if plot == "loss":
            _plot_loss(axes, result)
        elif result.test_scores is not None and result.test_labels is not None:
            draw = _plot_scores if plot == "scores" else _plot_precision_recall
            draw(axes, result.test_scores, result.test_labels, result.calibration.threshold)
        written.append(directory / f"{plot}.png")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            figure.savefig(written[-1], dpi=120)
        except OSError as error:
            raise InvalidInputError(f"{written[-1]}: cannot be written: {error.strerror or error}") from error
    return written


def _plot_loss(axes: Axes, result: TrainingResult) -> None:
    epochs = [epoch.number for epoch in result.history]
    axes.plot(epochs, [epoch.loss for epoch in result.history], label="training rows")
    axes.plot(epochs, [epoch.held_out_loss for epoch in result.history], label="held-out rows")
    axes.set(
        title="Reconstruction error while training", xlabel="epoch", ylabel="mean squared error", yscale="log"
    )
    axes.legend()


def _plot_scores(axes: Axes, scores: Float32Array, labels: BoolArray, threshold: float) -> None:
    # A score may be exactly 0, which has no place on a logarithmic axis.
    shown = np.maximum(scores.astype(np.float64), 1e-12)
    bins = np.geomspace(shown.min(), max(shown.max(), shown.min() * 1.01), 80)
    for value, name in ((False, "normal"), (True, "anomaly")):
        axes.hist(shown[labels == value], bins=bins.tolist(), alpha=0.6, label=name)
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(title="Scores of the test rows", xlabel="score", ylabel="rows", xscale="log", yscale="log")
    axes.legend()


def _plot_precision_recall(axes: Axes, scores: Float32Array, labels: BoolArray, threshold: float) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    average = average_precision_score(labels, scores)
    axes.plot(recall, precision, drawstyle="steps-post", label=f"average precision {average:.3f}")
    called = scores > threshold
    if called.any():
        hits = np.count_nonzero(called & labels)
        axes.plot(
            hits / np.count_nonzero(labels), hits / np.count_nonzero(called), "ko", label="at the threshold"
        )
    axes.set(
        title="Precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02)
    )
    axes.legend()
