"""A fitted model is seen to keep the promise of its threshold before anyone gets it, or is replaced."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calibration import Calibration, calibrate
from datasentinel.errors import DataError
from datasentinel.promise import broken, observe
from datasentinel.training.context import ContextModel
from datasentinel.training.fitting import FitOptions, Fitted, fit, fit_apart, score_in_order
from datasentinel.training.recording import independent_share
from datasentinel.training.subspace import can_span

if TYPE_CHECKING:
    from datasentinel.training.settings import TrainingSettings
    from datasentinel.types import Float32Array

# Rows that a model trained again on its held-out rows never sees: they are what it is checked on. With fewer
# rows than that there is too little to learn from and to check on at once.
_CONTROL_SHARE = 0.1
_LEAST_CONTROL, _MOST_CONTROL = 3, 250
_CONTROL_FROM = 20
# In units of what the columns make distances spread by.
_LEAST_ROWS_OF_SPREAD = 2.5
# Of the training rows, evenly spaced, the model is checked on no more.
_MOST_CHECKED = 20_000


@dataclass(frozen=True)
class Checked:
    """A model that was checked, its calibration, and why it is not the first choice where it is not."""

    fitted: Fitted
    calibration: Calibration
    repaired: str = ""


def fit_and_check(rows: Float32Array, options: FitOptions) -> Checked:
    """Fit a model, and another one if the first does not keep its promise; see `train`."""
    recording, settings, order = options.recording, options.settings, options.order
    kept, control = _split_control(rows, recording=recording, settings=settings)
    independent = independent_share(rows) if recording else 1.0

    checked = rows[:: -(-len(rows) // _MOST_CHECKED)]

    def check(fitted: Fitted, control: Float32Array) -> tuple[Checked, str]:
        """Return the calibrated model, and what is wrong with it or an empty string."""
        score, held_out_scores = fitted.model.score, fitted.held_out_scores
        calibration = _calibrate(held_out_scores, fitted, options, rows)
        if fitted.held_out is not None:
            # A model with memory needs rows that follow each other.
            scores = score_in_order(fitted.model, rows, order)
            seen, bound = {"training rows": scores}, {"held-out rows": scores[fitted.held_out]}
        elif recording:
            seen = {"training rows": score(checked)}
            # Its beginning may be less quiet than its end, which is what the promise is about.
            bound = {"held-out rows": score(rows[-len(held_out_scores) :])}
        else:
            seen = {"training rows": score(checked)}
            bound = seen | ({"control rows": score(control)} if len(control) else {})
        observed = {name: observe(calibration, some, independent) for name, some in bound.items()}
        fault = broken(calibration, observed)
        if len(control):
            # They are held out as well, and every one helps to place the threshold.
            held_out_scores = np.append(held_out_scores, bound["control rows"])
            calibration = _calibrate(held_out_scores, fitted, options, rows)
        observed = {name: observe(calibration, some, independent) for name, some in (seen | bound).items()}
        fitted = replace(fitted, held_out_scores=held_out_scores)
        return Checked(fitted, replace(calibration, observed=observed)), fault

    fault = _why_apart(rows, options)
    if not fault:
        fitted = fit(kept, options)
        first, fault = check(fitted, control)
        if not fault:
            return first
        if not fitted.saw_held_out_rows:
            raise DataError(f"{fault}: the scores do not depend on the rows alone")
    still = ""
    for simpler in _simpler(settings, rows):
        fitted = fit_apart(rows, replace(options, settings=simpler))
        second, still = check(fitted, rows[:0])
        if not still:
            return replace(second, repaired=fault)
    raise DataError(
        f"{still}; calibrated on rows that it had seen, {fault}: no threshold means anything here. More "
        "rows, or fewer columns, may help"
    )


def _why_apart(rows: Float32Array, options: FitOptions) -> str:
    """Return why rows cannot be held out from a model and be learnt from as well, or an empty string.

    Every row has a share of 1 / N in the medians and scales of the columns, by which it looks nearer than a
    new one. That is much beside the spread of distances in D columns, which is about 1 / sqrt(2 D) of them.
    """
    count, width = rows.shape
    if options.recording or options.settings.model not in ("auto", "ensemble"):
        return ""
    if count >= _LEAST_ROWS_OF_SPREAD * math.sqrt(2 * width):
        return ""
    return f"a model of {width} columns that learns from all of {count} rows knows those held out too well"


def _simpler(settings: TrainingSettings, rows: Float32Array) -> list[TrainingSettings]:
    """Return what to try next: the same model, then a subspace where the choice is ours."""
    if settings.model == "auto" and can_span(rows):
        return [settings, replace(settings, model="subspace", steps=None)]
    return [settings]


def _split_control(
    rows: Float32Array, *, recording: bool, settings: TrainingSettings
) -> tuple[Float32Array, Float32Array]:
    """Return the rows to learn from and the control rows; a recording has no rows that stand for others."""
    if recording or settings.model == "autoencoder" or len(rows) < _CONTROL_FROM:
        return rows, rows[:0]
    count = min(max(_LEAST_CONTROL, round(_CONTROL_SHARE * len(rows))), _MOST_CONTROL)
    return rows[count:], rows[:count]


def _calibrate(
    held_out_scores: Float32Array, fitted: Fitted, options: FitOptions, rows: Float32Array
) -> Calibration:
    return calibrate(
        held_out_scores,
        method=options.settings.threshold_method,
        target_fpr=options.settings.target_fpr,
        least=fitted.model.least_threshold,
        recording=options.recording,
        has_memory=isinstance(fitted.model, ContextModel),
        rows=rows,
        row_s=options.order.row_s,
    )
