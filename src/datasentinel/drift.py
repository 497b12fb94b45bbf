"""Whether data has moved away from what a model was calibrated on.

Rows are compared with the distributions that calibration left in `config.json`, column by column and for the
score. Two measures say how far and how surely:

- the population stability index, with the usual thresholds: below 0.1 stable, from 0.1 shifting, from 0.25
  drifted (Siddiqi, "Credit Risk Scorecards", 2006);
- the Kolmogorov-Smirnov statistic, which has to exceed its critical value before a PSI counts, since the PSI
  of few rows is large by chance. The level is 1 % over all comparisons together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from datasentinel.calibration import ScoreTable, feature_histograms
from datasentinel.errors import DataError, UnsupportedModelError
from datasentinel.histogram import Histogram, ks, ks_critical_value, psi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.artifact import Artifact
    from datasentinel.types import Float32Array

PSI_SHIFTING = 0.1
PSI_DRIFTED = 0.25
_SIGNIFICANCE = 0.01

State: TypeAlias = Literal["stable", "shifting", "drifted"]


@dataclass(frozen=True)
class Shift:
    """How far one distribution has moved.

    Attributes
    ----------
    name : str
        Of the column, or "score".
    psi, ks : float
        Population stability index and Kolmogorov-Smirnov statistic (at the bins' edges, so a lower bound).
    state : str
        "stable", "shifting" or "drifted".
    """

    name: str
    psi: float
    ks: float
    state: State

    @classmethod
    def judged(cls, name: str, psi: float, ks: float, critical: float) -> Shift:
        """Return the state for the two measures and the critical value of the KS statistic."""
        state: State = "stable"
        if ks > critical and psi >= PSI_SHIFTING:
            state = "drifted" if psi >= PSI_DRIFTED else "shifting"
        return cls(name, psi, ks, state)


@dataclass(frozen=True)
class Drift:
    """The comparison of rows with the calibration rows.

    Attributes
    ----------
    rows, calibration_rows : int
        How many rows were compared, and with how many.
    ks_critical_value : float
        A KS statistic up to this may be chance.
    score : Shift
    features : tuple of Shift
        One a column; empty where the artifact has no columns' distributions.
    """

    rows: int
    calibration_rows: int
    ks_critical_value: float
    score: Shift
    features: tuple[Shift, ...]

    @property
    def retrain(self) -> bool:
        """Whether the model should be retrained: the score or a column has drifted."""
        return any(shift.state == "drifted" for shift in (self.score, *self.features))


def critical_value(n: int, m: int, *, comparisons: int) -> float:
    """Return the KS statistic that counts, for n and m rows and so many comparisons at once."""
    return ks_critical_value(n, m, alpha=_SIGNIFICANCE / comparisons)


def column_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Return names of `count` columns: those given, or numbers where names do not distinguish the columns."""
    if len(set(names)) == count:
        return tuple(names)
    return tuple(f"column {i}" for i in range(count))


def compare(artifact: Artifact, rows: Float32Array, scores: Float32Array) -> Drift:
    """Compare rows [N, D] and their scores [N] with the calibration of an artifact.

    Raises
    ------
    UnsupportedModelError
        The artifact has no calibration scores.
    DataError
        There are no rows.
    """
    table = ScoreTable.of_config(artifact.config)
    if table is None:
        raise UnsupportedModelError(
            f"{artifact.directory}: config.json has no 'calibration.score_table' to compare with; run "
            "`datasentinel recalibrate` with normal rows"
        )
    if not len(rows):
        raise DataError("no rows to compare with the calibration")
    columns = feature_histograms(artifact.config)
    names = column_names(artifact.config.feature_names, len(columns))
    critical = critical_value(table.rows, len(rows), comparisons=1 + len(columns))

    def shift(name: str, values: Float32Array, coarse: Histogram, fine: Histogram) -> Shift:
        index = psi(coarse.counts, Histogram.count(values, coarse.edges).counts)
        distance = ks(fine.counts, Histogram.count(values, fine.edges).counts)
        return Shift.judged(name, index, distance, critical)

    return Drift(
        rows=len(rows),
        calibration_rows=table.rows,
        ks_critical_value=critical,
        score=shift("score", scores, table.histogram(), table.histogram(bins=None)),
        features=tuple(
            shift(name, values, column, column)
            for name, values, column in zip(names, rows.T, columns, strict=False)
        ),
    )
