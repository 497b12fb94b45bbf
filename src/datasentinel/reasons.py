"""Why a row has its score: the features that contributed most, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.types import Float32Array


@dataclass(frozen=True, slots=True)
class Reason:
    """One feature's part in the score of a row.

    Attributes
    ----------
    feature : str
        The feature's name; "x0", "x1", ... where the model has no names.
    contribution : float
        Its part in the score, not negative. The contributions of all features add up to the score of a plain
        autoencoder and to 1 for other models.
    value : float
        What was observed, in raw units.
    expected : float or None
        What the model would have expected, in raw units; None where it does not reconstruct.
    """

    feature: str
    contribution: float
    value: float
    expected: float | None

    def __str__(self) -> str:
        if self.expected is None:
            return f"{self.feature}={self.value:.6g}"
        # Nine digits tell all float32 values apart.
        digits = 6 if f"{self.value:.6g}" != f"{self.expected:.6g}" else 9
        return f"{self.feature}={self.value:.{digits}g} (expected {self.expected:.{digits}g})"


def feature_name(names: Sequence[str], column: int) -> str:
    """Name a column, also where the model has no names."""
    return names[column] if names else f"x{column}"


def rank_reasons(
    contributions: Float32Array,
    values: Float32Array,
    expected: Float32Array | None,
    *,
    names: Sequence[str],
    top: int,
) -> list[list[Reason]]:
    """Pick the greatest contributions of each row.

    Parameters
    ----------
    contributions, values : ndarray of float32, shape [N, D]
    expected : ndarray of float32, shape [N, D], or None
    names : sequence of str
        One a column, or none.
    top : int
        Reasons a row, at most D.

    Returns
    -------
    list of list of Reason
        One list a row, greatest contribution first; equal ones in the order of the columns.
    """
    columns = np.argsort(-contributions, axis=1, kind="stable")[:, :top]
    parts, observed = (np.take_along_axis(a, columns, axis=1).tolist() for a in (contributions, values))
    wanted = (
        [[None] * columns.shape[1]] * len(columns)
        if expected is None
        else np.take_along_axis(expected, columns, axis=1).tolist()
    )
    return [
        [Reason(feature_name(names, column), *numbers) for column, *numbers in zip(*row, strict=True)]
        for row in zip(columns.tolist(), parts, observed, wanted, strict=True)
    ]
