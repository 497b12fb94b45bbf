"""A piece of a table, as it goes from reading to scoring."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.tables.number_marks import POINT, Marks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from datasentinel.tables.problems import BadRow
    from datasentinel.types import Int64Array


@dataclass(frozen=True)
class Chunk:
    """A run of consecutive rows of a table.

    Attributes
    ----------
    num_rows : int
        How many rows these are, good and bad.
    first_row : int
        Position of the first one among the table's data rows, from 0.
    rows : int64 array, shape [n]
        Positions of the good rows.
    values : float32 or float64 array, shape [n, D]
        The good rows' features, finite also as float32.
    kept : mapping of str to sequence
        The columns handed through, by name, all `num_rows` values: a list, or an Arrow array.
    label_values : list of (str or float), or None
        The good rows' labels, not yet decoded.
    bad : sequence of BadRow
        The rows in between that cannot be used.
    num_lines : int
        Lines of text that were read for it.
    share_read : float
        How much of the table has been read after this chunk, between 0 and 1.
    marks : Marks
        Which ones numbers have in what is handed through as text.
    """

    num_rows: int
    rows: Int64Array
    values: npt.NDArray[Any]
    bad: Sequence[BadRow] = ()
    kept: dict[str, Any] = field(default_factory=dict)
    label_values: list[str | float] | None = None
    first_row: int = 0
    num_lines: int = 0
    share_read: float = 0.0
    marks: Marks = POINT

    def good_values(self, column: str) -> list[Any]:
        """Return what the good rows have in a column that is handed through."""
        kept = self.kept[column]
        values = kept if isinstance(kept, list) else kept.to_pylist()
        return [values[row] for row in (self.rows - self.first_row).tolist()]

    def good_texts(self, column: str) -> list[str]:
        """Return the same as text."""
        return list(map(str, self.good_values(column)))

    def plain_values(self, column: str) -> list[Any]:
        """Return what `good_values` does, numbers in text with a decimal point and no other marks."""
        values = self.good_values(column)
        return values if self.marks == POINT else list(map(self.marks.plain, values))

    def without(self, wrong: Sequence[BadRow]) -> Chunk:
        """Return the chunk with some of its good rows as bad ones."""
        if not wrong:
            return self
        stays = ~np.isin(self.rows, [bad.row for bad in wrong])
        labels = self.label_values
        if labels is not None:
            labels = [label for label, good in zip(labels, stays.tolist(), strict=True) if good]
        return replace(
            self,
            values=self.values[stays],
            rows=self.rows[stays],
            bad=sorted([*self.bad, *wrong], key=lambda bad: bad.row),
            label_values=labels,
        )
