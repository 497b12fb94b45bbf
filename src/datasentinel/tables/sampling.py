"""A uniform sample of rows that pass by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from datasentinel.types import Float64Array


class Reservoir:
    """Keeps all rows up to `max_rows` and, of more, a uniform sample, in the order in which they came.

    Every row draws a random key, and the rows with the smallest keys stay: the same as reservoir sampling,
    but whole blocks at a time. Memory is for `max_rows` rows and a half.

    Parameters
    ----------
    width : int
        Number of values in a row, D.
    max_rows : int or None
        Most rows to keep; None for all.
    seed : int
        Of the random keys.
    with_labels : bool
        Whether rows carry labels.
    """

    def __init__(self, width: int, max_rows: int | None, seed: int, *, with_labels: bool) -> None:
        self.seen = 0
        self._max_rows = max_rows
        self._random = np.random.default_rng(seed)
        self._width = width
        self._values: list[npt.NDArray[Any]] = []
        self._labels: list[str | float] | None = [] if with_labels else None
        self._keys = np.empty(0)

    def add(self, values: npt.NDArray[Any], labels: list[str | float] | None) -> None:
        """Offer rows [n, D] and their labels to the sample."""
        self.seen += len(values)
        self._values.append(values)
        if self._labels is not None and labels is not None:
            self._labels.extend(labels)
        if self._max_rows is not None:
            self._keys = np.concatenate([self._keys, self._random.random(len(values))])
            if len(self._keys) > self._max_rows + self._max_rows // 2:
                self._shrink()

    def result(self) -> tuple[Float64Array, list[str | float] | None]:
        """Return the rows kept [N, D] and their labels."""
        if self._max_rows is not None and len(self._keys) > self._max_rows:
            self._shrink()
        return self._joined(), self._labels

    def _joined(self) -> Float64Array:
        return np.concatenate([np.empty((0, self._width)), *self._values])

    def _shrink(self) -> None:
        assert self._max_rows is not None  # noqa: S101
        stay = np.sort(np.argpartition(self._keys, self._max_rows - 1)[: self._max_rows])
        self._keys = self._keys[stay]
        self._values = [self._joined()[stay]]
        if self._labels is not None:
            self._labels = [self._labels[i] for i in stay.tolist()]
