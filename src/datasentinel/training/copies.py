"""Rows that are in a table several times, as where an export was appended to another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from datasentinel.types import BoolArray, Float32Array, Int64Array

# With fewer distinct rows, chance may repeat each about as often.
_LEAST_DISTINCT = 50
# Of the distinct rows, a column has to tell so many apart: few states may well recur.
_LEAST_TOLD_APART = 0.5
# Rows drawn from states repeat with a variance of at least about their mean; copies with less.
_MOST_DISPERSION = 0.5
_HASHED_ROWS = 65_536


@dataclass(frozen=True)
class Copies:
    """Rows of which most are there several times.

    Attributes
    ----------
    kept : bool array, shape [N]
        Rows without the copies; all of them where chance or a cycle may have repeated the rows.
    text : str
        The message to the user.
    """

    kept: BoolArray
    text: str


def find_copies(rows: Float32Array, *, recording: bool = False) -> Copies | None:
    """Find rows that are copies rather than states that recur, or return None.

    Copies on both sides of a split make a model look better than it is: it has seen what it is calibrated on.
    Rows drawn independently from some states repeat with a variance that is no less than their mean (they are
    multinomial); where most rows are there at least twice, and much more evenly than that, they were copied.
    Then each is kept so many times less as is usual. Copies that follow each other are a recording's.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Raw rows, in the order in which they were read.
    recording : bool
        Whether neighbours are alike: then a cycle may have come again, as it will in new rows.
    """
    # Of one column, the values are states however fine their steps are.
    if len(rows) < 2 * _LEAST_DISTINCT or np.count_nonzero((rows != rows[0]).any(axis=0)) < 2:
        return None
    keys = _keys(rows)
    _, first, of, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    usual = int(np.median(counts))
    if usual < 2 or len(first) < _LEAST_DISTINCT or np.mean(of[1:] == of[:-1]) > (usual - 1) / usual / 2:
        return None
    told_apart = max(len(np.unique(column)) for column in rows[first].T)
    if told_apart < _LEAST_TOLD_APART * len(first):
        return None
    text = f"{len(rows)} normal rows are {len(first)} distinct ones, most of them at least {usual} times"
    if recording or counts.var() > _MOST_DISPERSION * counts.mean():
        advice = "if they are copies, what the threshold promises holds for these rows only: leave copies out"
        return Copies(np.ones(len(rows), bool), f"{text}; {advice}")
    kept = _place_among_equals(of) < np.maximum(1, np.round(counts / usual))[of]
    return Copies(kept, f"{text}: trained as {int(kept.sum())} rows, without the copies")


def _keys(rows: Float32Array) -> npt.NDArray[np.uint64]:
    """Return numbers that are the same for equal rows and, but by a chance of 2^-64, for no others."""
    words = rows.view(np.uint32)
    factors = np.random.default_rng(0).integers(1 << 63, size=words.shape[1], dtype=np.uint64) * 2 + 1
    parts = [
        ((chunk + np.uint64(0x9E3779B9)) * factors).sum(axis=1, dtype=np.uint64)
        for first in range(0, len(words), _HASHED_ROWS)
        for chunk in [words[first : first + _HASHED_ROWS].astype(np.uint64)]
    ]
    return np.concatenate(parts)


def _place_among_equals(of: Int64Array) -> Int64Array:
    """Return for each row how many equal ones are before it."""
    order = np.argsort(of, kind="stable")
    ordered = of[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    place = np.empty_like(of)
    place[order] = np.arange(len(of)) - np.repeat(starts, np.diff(starts, append=len(of)))
    return place
