"""Whether a served model keeps the promise of its threshold on normal rows.

A threshold promises that of new normal rows at most some share is called anomalies. Rows that are there
before a model is served can put that to the test. How many of n rows lie above a threshold that was itself
found on N others is beta-binomially distributed, whatever the model, as long as all are exchangeable (Vovk,
"Conditional validity of inductive conformal predictors", 2012); a count that this makes all but impossible
means that the model that is served is not the one that was calibrated.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calibration import Calibration, ThresholdMethod, calibrate
from datasentinel.errors import DataError
from datasentinel.observed import Observed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datasentinel.types import Float32Array

# By Cantelli's inequality no more than 1 / (1 + 3^2) lies above mean + 3 standard deviations.
_BEYOND_THREE_DEVIATIONS = 0.1
# Rows that are scored one by one too, to see that a score is the row's own.
_SCORED_ALONE = 64
# By which scores may differ, as a share of their size or of the range of all.
_ROUNDING = 1e-3


def calibrate_served(
    score: Callable[[Float32Array], Float32Array],
    rows: Float32Array,
    *,
    method: ThresholdMethod,
    target_fpr: float,
    recording: bool,
) -> Calibration:
    """Calibrate a model that is served already, and see that it can be.

    Parameters
    ----------
    score : callable
        From rows [N, D] to scores [N].
    rows : float32 array, shape [N, D]
        Normal rows that the model was not made of.
    method, target_fpr, recording
        As for `datasentinel.calibration.calibrate`.

    Raises
    ------
    DataError
        Some rows have no finite score, the score of a row depends on the rows it is scored with or on chance,
        or the promise is broken all the same.
    """
    scores = score(rows)
    calibration = calibrate(scores, method=method, target_fpr=target_fpr, rows=rows, recording=recording)
    _require_own_scores(score, rows, scores)
    observed = {"calibration rows": observe(calibration, scores)}
    if fault := broken(calibration, observed):
        raise DataError(fault)
    return replace(calibration, observed=observed)


def _require_own_scores(
    score: Callable[[Float32Array], Float32Array], rows: Float32Array, scores: Float32Array
) -> None:
    chosen = np.unique(np.linspace(0, len(rows) - 1, _SCORED_ALONE).astype(int))
    some, expected = rows[chosen], scores[chosen].astype(np.float64)
    tolerated = _ROUNDING * np.maximum(np.abs(expected), float(np.ptp(scores.astype(np.float64))))
    again = {
        "by itself": np.concatenate([score(row[np.newaxis]) for row in some]),
        "among other rows": score(some[::-1])[::-1],
    }
    for how, others in again.items():
        wrong = np.flatnonzero(~(np.abs(others - expected) <= tolerated))
        if wrong.size:
            row = wrong[0]
            raise DataError(
                f"row {chosen[row]} scores {expected[row]:g} in the batch of all {len(rows)} rows, but "
                f"{others[row]:g} {how}: the model's scores depend on the rest of the batch, or on chance; "
                "export it in inference mode, with every row scored for itself"
            )


def observe(calibration: Calibration, scores: Float32Array, independent: float = 1.0) -> Observed:
    """Count normal rows above the threshold, and return how likely so many are.

    Parameters
    ----------
    calibration : Calibration
        Threshold and promise.
    scores : float32 array, shape [N]
        Scores of normal rows by the model that is served.
    independent : float
        How many independent rows a row stands for, at most 1: less in a recording, whose neighbours resemble
        each other.
    """
    above = int(np.count_nonzero(~(scores.astype(np.float64) <= calibration.threshold)))
    rows, counted = (math.floor(independent * count) for count in (len(scores), above))
    return Observed(
        len(scores), above, tail_probability(counted, rows, promised_share(calibration), calibration.rows)
    )


def promised_share(calibration: Calibration) -> float:
    """Return the share of new normal rows that a threshold promises not to exceed."""
    if calibration.fpr_bound is not None:
        return calibration.fpr_bound
    return _BEYOND_THREE_DEVIATIONS if calibration.target_fpr is None else calibration.target_fpr


def broken(calibration: Calibration, observed: Mapping[str, Observed]) -> str:
    """Return a description of the rows that break the promise, or an empty string."""
    told = [
        f"{seen.above} of {seen.rows} {name} ({seen.share:.2%})"
        for name, seen in observed.items()
        if not seen.kept
    ]
    if not told:
        return ""
    return (
        f"the served model calls {' and '.join(told)} anomalies, where at most "
        f"{promised_share(calibration):.2%} is promised"
    )


def tail_probability(above: int, rows: int, share: float, calibration_rows: int) -> float:
    """Return the probability of `above` or more new rows beyond a quantile of calibration rows.

    Parameters
    ----------
    above, rows : int
        How many of how many.
    share : float
        The quantile's share, on average.
    calibration_rows : int
        How many scores the quantile was taken from.

    Returns
    -------
    float
        P(X >= above) for X ~ BetaBinomial(rows, a, b), a = share (N + 1) and b = (1 - share) (N + 1).
    """
    if above <= 0 or share >= 1:
        return 1.0
    a, b = share * (calibration_rows + 1), (1 - share) * (calibration_rows + 1)
    lgamma = math.lgamma

    def log_probability(i: int) -> float:
        ways = lgamma(rows + 1) - lgamma(i + 1) - lgamma(rows - i + 1)
        return ways + lgamma(i + a) + lgamma(rows - i + b) - lgamma(rows + a + b)

    log_beta = lgamma(a) + lgamma(b) - lgamma(a + b)
    return min(1.0, math.fsum(math.exp(log_probability(i) - log_beta) for i in range(above, rows + 1)))
