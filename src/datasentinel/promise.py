"""Whether a served model keeps the promise of its threshold on normal rows.

A threshold promises that of new normal rows at most some share is called anomalies. Rows that are there
before a model is served can put that to the test. How many of n rows lie above a threshold that was itself
found on N others is beta-binomially distributed, whatever the model, as long as all are exchangeable (Vovk,
"Conditional validity of inductive conformal predictors", 2012); a count that this makes all but impossible
means that the model that is served is not the one that was calibrated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasentinel.artifact import Json
    from datasentinel.calibration import Calibration
    from datasentinel.types import Float32Array

# A count less likely than this is no chance.
LEVEL = 1e-3
# By Cantelli's inequality no more than 1 / (1 + 3^2) lies above mean + 3 standard deviations.
_BEYOND_THREE_DEVIATIONS = 0.1


@dataclass(frozen=True)
class Observed:
    """What a model was seen to do on some normal rows.

    Attributes
    ----------
    rows, above : int
        How many rows there were, and how many of them score above the threshold.
    chance : float
        Probability of so many or more, if the promise holds.
    """

    rows: int
    above: int
    chance: float

    @property
    def share(self) -> float:
        """Share of the rows above the threshold."""
        return self.above / self.rows if self.rows else 0.0

    @property
    def kept(self) -> bool:
        """Whether the promise may hold."""
        return self.chance >= LEVEL

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `calibration.observed`."""
        return {"rows": self.rows, "above": self.above, "chance": float(f"{self.chance:.3g}")}


def observe(calibration: Calibration, scores: Float32Array, independent: float = 1.0) -> Observed:
    """Count normal rows above the threshold, and tell how likely so many are.

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
    return Observed(len(scores), above, _chance(counted, rows, promised_share(calibration), calibration.rows))


def promised_share(calibration: Calibration) -> float:
    """Return the share of new normal rows that a threshold promises not to exceed."""
    if calibration.fpr_bound is not None:
        return calibration.fpr_bound
    return _BEYOND_THREE_DEVIATIONS if calibration.target_fpr is None else calibration.target_fpr


def broken(calibration: Calibration, observed: Mapping[str, Observed]) -> str:
    """Say which rows the promise fails on, or return an empty string."""
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


def _chance(above: int, rows: int, share: float, calibration_rows: int) -> float:
    """Return P(X >= above) for X ~ BetaBinomial(rows, a, b), the share's distribution over calibrations."""
    if above <= 0 or share >= 1:
        return 1.0
    a, b = share * (calibration_rows + 1), (1 - share) * (calibration_rows + 1)
    lgamma = math.lgamma

    def log_probability(i: int) -> float:
        ways = lgamma(rows + 1) - lgamma(i + 1) - lgamma(rows - i + 1)
        return ways + lgamma(i + a) + lgamma(rows - i + b) - lgamma(rows + a + b)

    log_beta = lgamma(a) + lgamma(b) - lgamma(a + b)
    return min(1.0, math.fsum(math.exp(log_probability(i) - log_beta) for i in range(above, rows + 1)))
