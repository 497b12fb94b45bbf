"""Thresholds from the scores of held-out normal rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import DataError

if TYPE_CHECKING:
    from datasentinel.artifact import Json
    from datasentinel.training.settings import ThresholdMethod
    from datasentinel.types import Float32Array, Float64Array

# Dense where p-values of anomalies lie.
_PROBABILITIES = (*(i / 100 for i in range(100)), 0.995, 0.999, 0.9995, 0.9999, 1.0)
# Room for the rounding in which backends differ, where there is no greater score to stay below.
_ROUNDING_ROOM = 1e-5


@dataclass(frozen=True)
class Calibration:
    """A threshold and how it was found.

    Attributes
    ----------
    threshold : float
        A row is an anomaly iff its score is greater.
    method : str
        "quantile" or "mean+3std".
    target_fpr : float or None
        Share of normal rows that may be called anomalies, for "quantile".
    rows : int
        Number of held-out normal rows.
    probabilities, quantiles : sequence of float
        Quantiles of their scores.
    """

    threshold: float
    method: ThresholdMethod
    target_fpr: float | None
    rows: int
    probabilities: tuple[float, ...]
    quantiles: tuple[float, ...]

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `calibration`."""
        return {
            "method": self.method,
            "target_fpr": self.target_fpr,
            "rows": self.rows,
            "score_quantiles": {"probabilities": list(self.probabilities), "scores": list(self.quantiles)},
        }


def calibrate(scores: Float32Array, *, method: ThresholdMethod, target_fpr: float) -> Calibration:
    """Choose a threshold.

    Parameters
    ----------
    scores : float32 array, shape [N]
        Scores of normal rows that the model was not trained on.
    method : str
        "mean+3std", or "quantile": the conformal quantile, the k-th smallest score with
        k = ceil((N + 1)(1 - target_fpr)). For exchangeable rows at most a share `target_fpr` of new normal
        rows then scores higher (Vovk et al., "Algorithmic Learning in a Random World", 2005). With fewer than
        1 / target_fpr - 1 rows there is no such score, and the greatest one has to do.
    target_fpr : float
        For "quantile".

    Raises
    ------
    DataError
        There is no score, or one is not finite.
    """
    if scores.size == 0 or not np.isfinite(scores).all():
        raise DataError(
            "the held-out rows have no finite scores: a value is too far from all others for float32"
        )
    ordered = np.sort(scores.astype(np.float64))
    threshold = (
        _conformal_quantile(ordered, target_fpr)
        if method == "quantile"
        else float(ordered.mean() + 3 * ordered.std())
    )
    return Calibration(
        threshold=threshold,
        method=method,
        target_fpr=target_fpr if method == "quantile" else None,
        rows=len(ordered),
        probabilities=_PROBABILITIES,
        quantiles=tuple(np.quantile(ordered, _PROBABILITIES).tolist()),
    )


def _conformal_quantile(ordered: Float64Array, target_fpr: float) -> float:
    # Without the small deduction 0.99 * 100 rounds up to 100.
    k = min(math.ceil((len(ordered) + 1) * (1 - target_fpr) - 1e-9), len(ordered))
    score = float(ordered[k - 1])
    above = ordered[ordered > score]
    if above.size:
        return (score + float(above[0])) / 2
    # A score may be 0 or negative; its own size, or that of the others' spread, says what rounding is.
    return score + _ROUNDING_ROOM * max(abs(score), float(np.ptp(ordered)))
