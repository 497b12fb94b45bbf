"""Rows that were scored, and which columns their output has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datasentinel.reasons import Reason
    from datasentinel.tables.chunk import Chunk
    from datasentinel.types import BoolArray, Float32Array, Float64Array


@dataclass(frozen=True)
class Scored:
    """A chunk's rows, good and bad, with what the model says of the good ones.

    Attributes
    ----------
    chunk : Chunk
        The rows.
    scores : float32 array, shape [n]
    anomalies : bool array, shape [n]
    severities : float32 array, shape [n], or None
    p_values : float64 array, shape [n], or None
    reasons : list of list of Reason, or None
        For the n good rows.
    warming : bool array, shape [n], or None
        Of a model with memory: which rows are too early in their stream to tell.
    """

    chunk: Chunk
    scores: Float32Array
    anomalies: BoolArray
    severities: Float32Array | None = None
    p_values: Float64Array | None = None
    reasons: list[list[Reason]] | None = None
    warming: BoolArray | None = None

    @property
    def is_good(self) -> BoolArray:
        """Which of the chunk's rows are good."""
        if len(self.chunk.rows) == self.chunk.num_rows:
            return np.ones(self.chunk.num_rows, bool)
        good = np.zeros(self.chunk.num_rows, bool)
        good[self.chunk.rows - self.chunk.first_row] = True
        return good

    def spread(self, values: Sequence[Any], *, bad: Any = None) -> list[Any]:  # noqa: ANN401
        """Return the good rows' values at their places, and `bad` at the places of bad rows."""
        if len(values) == self.chunk.num_rows:
            return list(values)
        column = [bad] * self.chunk.num_rows
        for row, value in zip((self.chunk.rows - self.chunk.first_row).tolist(), values, strict=True):
            column[row] = value
        return column

    def errors(self, *, good: str | None, with_place: bool = True) -> list[str | None]:
        """Return what is wrong with each row, and where it lies; `good` for those with which nothing is."""
        column = [good] * self.chunk.num_rows
        for bad in self.chunk.bad:
            column[bad.row - self.chunk.first_row] = str(bad) if with_place else bad.reason
        return column

    @property
    def row_numbers(self) -> range:
        """Positions of the rows among the table's data rows."""
        return range(self.chunk.first_row, self.chunk.first_row + self.chunk.num_rows)


@dataclass(frozen=True)
class OutputColumns:
    """The columns of the output: row, those handed through, score, anomaly, error, and those that follow."""

    kept: tuple[str, ...] = ()
    severity: bool = False
    p_value: bool = False
    num_reasons: int = 0
    warming: bool = False

    @property
    def kept_as(self) -> Mapping[str, str]:
        """Names in the output of the columns handed through, by their names in the input."""
        taken = {"row", "score", "anomaly", "error", "severity", "p_value", "reasons", "warming"}
        return {name: f"input_{name}" if name in taken else name for name in self.kept}


def reasons_as_data(reasons: Sequence[Reason]) -> list[dict[str, object]]:
    """Return a row's reasons as objects; `share` is the feature's part in the score."""
    return [
        {
            "feature": reason.feature,
            "value": reason.value,
            "expected": reason.expected,
            "share": reason.contribution,
        }
        for reason in reasons
    ]
