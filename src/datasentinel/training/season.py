"""What columns usually are at a time of the day or of the week."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from datasentinel.calendar_time import DAY_S, WEEK_S
from datasentinel.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from datasentinel.types import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array

SeasonKind: TypeAlias = Literal["auto", "day", "week"]
SEASONS: tuple[SeasonKind, ...] = get_args(SeasonKind)

# Half of what one slot takes to pass into the next, and how long before the next begins it is half way, in
# slots: where it begins, the next has taken over.
RAMP, LEAD = 0.1, 0.15
_LEAST_PERIODS = 3
# Seconds that a slot of the table may last, and how many rows of all periods together it takes at least.
_SLOTS_S = (900.0, 1800.0, 3600.0, 7200.0, 14_400.0)
_LEAST_ROWS_A_SLOT = 5
_QUARTERS = 4
# A column has a season where a table comes nearer to its held-out rows by this factor, and a week's table has
# to be nearer than a day's by that one.
_NEARER, _WEEK_NEARER = 0.9, 0.95
# Deviations count up to so many times the typical one.
_MOST_DEVIATION = 5.0
_USUAL = 0.9  # Quantile of the absolute deviations.
_LEAST_GAIN = 0.02


@dataclass(frozen=True)
class Season:
    """rows = (raw - baseline(t)) gain(t) + typical; baseline and gain are those of the slot that t is in.

    One slot passes into the next over the last fifth of itself, so that no row is on an edge that the float32
    arithmetic of a backend decides.

    Attributes
    ----------
    period_s : float
        A day or a week.
    slot_s : float
        Seconds of a slot; the first begins on Monday 00:00, the last a week later, for what is rounded up.
    baseline : float32 array, shape [K + 1, D]
        The median of each column in a slot, raw units; `typical` where a column has no season.
    gain : float32 array, shape [K + 1, D]
        Less than 1 where rows differ more from the baseline than usual, such as where it rises steeply.
    typical : float32 array, shape [D]
        Median of each column.
    seasonal : bool array, shape [D]
        Which columns have a season.
    """

    period_s: float
    slot_s: float
    baseline: Float32Array
    gain: Float32Array
    typical: Float32Array
    seasonal: BoolArray

    def apply(self, rows: FloatArray, second_of_week: Float64Array) -> FloatArray:
        """Subtract the season from raw rows [N, D], in their precision."""
        base, gain = self._at(second_of_week, rows.dtype)
        deseasoned: FloatArray = (rows - base) * gain + self.typical.astype(rows.dtype)
        return deseasoned

    def invert(self, deseasoned: FloatArray, second_of_week: Float64Array) -> FloatArray:
        """Put the season back."""
        base, gain = self._at(second_of_week, deseasoned.dtype)
        rows: FloatArray = (deseasoned - self.typical.astype(deseasoned.dtype)) / gain + base
        return rows

    def describe(self) -> str:
        """Return a description in words."""
        period = "day" if self.period_s == DAY_S else "week"
        return (
            f"{int(self.seasonal.sum())} of {len(self.typical)} columns by the time of the {period}, in "
            f"steps of {self.slot_s / 60:g} minutes"
        )

    def _at(self, second_of_week: Float64Array, dtype: npt.DTypeLike) -> tuple[FloatArray, FloatArray]:
        place = second_of_week / self.slot_s + LEAD
        slot = np.clip(np.floor(place), 0, len(self.baseline) - 1).astype(np.int64)
        within = place - slot
        before = np.clip((RAMP - within) / (2 * RAMP), 0, 0.5)[:, np.newaxis]
        after = np.clip((within - 1 + RAMP) / (2 * RAMP), 0, 0.5)[:, np.newaxis]
        previous, following = np.maximum(slot - 1, 0), np.minimum(slot + 1, len(self.baseline) - 1)
        base, gain = (
            (
                before * table[previous].astype(np.float64)
                + (1 - before - after) * table[slot]
                + after * table[following]
            ).astype(dtype)
            for table in (self.baseline, self.gain)
        )
        return base, gain


def fit_season(rows: Float32Array, second_of_week: Float64Array, kind: SeasonKind) -> Season:
    """Learn what columns usually are at a time of the day, or of the week.

    Both are learnt from the first three quarters of the recording and compared on the last: a column has a
    season where the table comes at least a tenth nearer to its rows than its median does, and "auto" takes
    the week where its table comes another twentieth nearer than the day's.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Raw rows in order of time.
    second_of_week : float64 array, shape [N]
        See `datasentinel.calendar_time.second_of_week`.
    kind : str
        "day", "week", or "auto".

    Raises
    ------
    DataError
        The rows are not in order of time, the recording is too short, or nothing repeats.
    """
    wide = rows.astype(np.float64)
    elapsed = _elapsed(second_of_week)
    lasted = float(elapsed[-1])
    periods = {"day": DAY_S, "week": WEEK_S}
    wanted = periods if kind == "auto" else {kind: periods[kind]}
    possible = [period for period in wanted.values() if lasted >= _LEAST_PERIODS * period]
    if not possible:
        least = min(wanted.values())
        raise DataError(
            f"the recording lasts {lasted / DAY_S:.3g} days: too short a history for a season, "
            f"{_LEAST_PERIODS * least / DAY_S:g} days are needed"
        )
    early = elapsed <= (1 - 1 / _QUARTERS) * lasted
    nearer: dict[float, Float64Array] = {}
    for period in possible:
        season = _tabulate(wide[early], second_of_week[early], period)
        nearer[period] = _nearness(season, wide[~early], second_of_week[~early])
    chosen = possible[0]
    if len(possible) > 1 and nearer[WEEK_S].mean() < _WEEK_NEARER * nearer[DAY_S].mean():
        chosen = WEEK_S
    seasonal = nearer[chosen] < _NEARER
    if not seasonal.any():
        raise DataError(
            "no column repeats by the time of the day or of the week: on the last quarter of the recording "
            "the earlier ones predict no better than the median does; train without a season"
        )
    return _of_columns(_tabulate(wide, second_of_week, chosen), seasonal)


def deseason_apart(rows: Float32Array, second_of_week: Float64Array, season: Season) -> Float32Array:
    """Subtract a season from the rows it was learnt from, each quarter by the season of the other three.

    So the rows look as new ones will, to a model and to its threshold.
    """
    elapsed = _elapsed(second_of_week)
    quarter = np.minimum(elapsed / max(float(elapsed[-1]), 1.0) * _QUARTERS, _QUARTERS - 1).astype(np.int64)
    deseasoned = np.empty_like(rows)
    for number in range(_QUARTERS):
        here, others = quarter == number, quarter != number
        wide = rows[others].astype(np.float64)
        part = _tabulate(wide, second_of_week[others], season.period_s)
        deseasoned[here] = _of_columns(part, season.seasonal).apply(rows[here], second_of_week[here])
    return deseasoned


def _of_columns(season: Season, seasonal: BoolArray) -> Season:
    """Return a season of those columns only."""
    return replace(
        season,
        baseline=np.where(seasonal, season.baseline, season.typical),
        gain=np.where(seasonal, season.gain, np.float32(1)),
        seasonal=seasonal,
    )


def _elapsed(second_of_week: Float64Array) -> Float64Array:
    """Return the seconds since the first row, gaps being shorter than a week."""
    steps = np.diff(second_of_week) % WEEK_S
    if np.count_nonzero(steps > WEEK_S / 2) > 0.01 * len(steps):
        raise DataError("a season is learnt from rows in order of time, which these are not")
    return np.concatenate([[0.0], np.cumsum(np.where(steps > WEEK_S / 2, 0.0, steps))])


def _tabulate(rows: Float64Array, second_of_week: Float64Array, period_s: float) -> Season:
    slot_s = _slot(len(rows), period_s)
    count = round(period_s / slot_s)
    slots = np.floor(second_of_week / slot_s).astype(np.int64)
    typical = np.median(rows, axis=0)
    baseline = _by_slot(rows, slots % count, count, lambda values: np.median(values, axis=0), typical)
    week = np.arange(round(WEEK_S / slot_s) + 1)
    flat = np.ones((len(week), rows.shape[1]), np.float32)
    season = Season(
        period_s,
        slot_s,
        baseline[week % count].astype(np.float32),
        flat,
        typical.astype(np.float32),
        np.ones(rows.shape[1], bool),
    )
    # The usual distance from the baseline is estimated by time of day, for which there are more rows.
    residuals = np.abs(rows - season.invert(np.broadcast_to(typical, rows.shape), second_of_week))
    usual = np.quantile(residuals, _USUAL, axis=0)
    daily = round(DAY_S / slot_s)
    spread = _by_slot(
        residuals, slots % daily, daily, lambda values: np.quantile(values, _USUAL, axis=0), usual
    )
    gain = np.clip(np.where(spread > usual, usual / np.maximum(spread, 1e-300), 1.0), _LEAST_GAIN, 1.0)
    return replace(season, gain=gain[week % daily].astype(np.float32))


def _slot(rows: int, period_s: float) -> float:
    """Return the shortest slot that all periods together have enough rows for."""
    for slot_s in _SLOTS_S:
        if rows * slot_s / period_s >= _LEAST_ROWS_A_SLOT:
            return slot_s
    return _SLOTS_S[-1]


def _by_slot(
    rows: Float64Array,
    slots: Int64Array,
    count: int,
    summarise: Callable[[Float64Array], Float64Array],
    otherwise: Float64Array,
) -> Float64Array:
    """Summarise the rows of each slot, shape [count, D]."""
    order = np.argsort(slots, kind="stable")
    bounds = np.searchsorted(slots[order], np.arange(count + 1))
    table = np.tile(otherwise, (count, 1))
    for slot in range(count):
        inside = rows[order[bounds[slot] : bounds[slot + 1]]]
        if len(inside):
            table[slot] = summarise(inside)
    return table


def _nearness(season: Season, rows: Float64Array, second_of_week: Float64Array) -> Float64Array:
    """Return how far rows are from the baseline as a share of how far they are from the median, [D]."""
    typical = np.broadcast_to(season.typical.astype(np.float64), rows.shape)
    beside = np.abs(rows - typical)
    unit = np.maximum(np.quantile(beside, _USUAL, axis=0), np.finfo(np.float32).tiny)
    from_baseline = np.abs(rows - season.invert(typical, second_of_week))
    means = [np.minimum(d / unit, _MOST_DEVIATION).mean(axis=0) for d in (from_baseline, beside)]
    nearness: Float64Array = np.where(means[1] > 0, means[0] / np.maximum(means[1], 1e-30), 1.0)
    return nearness
