"""How steady a score is on normal rows, and which of several scores to trust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasentinel.types import FloatArray

    _Name = TypeVar("_Name")

# A score counts as no less than this share of the typical one: below, a logarithm would see differences
# that mean nothing.
_LEAST_SHARE = 1e-3
_HIGH_QUANTILE = 0.99
# Scores whose spreads differ by less are equally steady.
_AS_STEADY = 1.1
# Spreads below this are all the same.
_LEAST_WIDTH = 0.3


@dataclass(frozen=True)
class Spread:
    """What the logarithm of a score usually is.

    Attributes
    ----------
    floor : float
        The least score that counts.
    usual : float
        The score's median on normal rows.
    width : float
        Logarithm of how many times the median the 99 % quantile is.
    """

    floor: float
    usual: float
    width: float

    def log_ratio(self, scores: FloatArray) -> FloatArray:
        """Return the logarithms of scores in units of the usual one."""
        ratios: FloatArray = np.log(np.maximum(scores, self.floor) / self.usual)
        return ratios


def spread_of(held_out: FloatArray, seen: FloatArray) -> Spread:
    """Measure a score on rows that its model has not seen, and on those it was learnt from.

    The greater median and the greater spread of the two count: what is erratic on either is not to be
    trusted.
    """
    positive = seen[seen > 0]
    floor = _LEAST_SHARE * float(np.median(positive)) if positive.size else 1.0
    logs = [np.log(np.maximum(scores, floor)) for scores in (held_out, seen)]
    middles = [float(np.median(values)) for values in logs]
    widths = [float(np.quantile(values, _HIGH_QUANTILE)) - m for values, m in zip(logs, middles, strict=True)]
    return Spread(floor, float(np.exp(max(middles))), max(*widths, _LEAST_WIDTH))


def steadiest(spreads: Mapping[_Name, Spread]) -> list[_Name]:
    """Return the names of the scores with the least spread, within a tenth."""
    least = min(spread.width for spread in spreads.values())
    return [name for name, spread in spreads.items() if spread.width <= _AS_STEADY * least]
