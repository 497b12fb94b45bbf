"""A detector of what is left of rows once their season is taken out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calendar_time import WEEK_S
from datasentinel.errors import InvalidInputError
from datasentinel.histogram import Histogram

if TYPE_CHECKING:
    from datasentinel.artifact import Json
    from datasentinel.calibration import Calibration
    from datasentinel.training.fitting import Model
    from datasentinel.training.season import Season
    from datasentinel.training.standardise import Scaling
    from datasentinel.types import Float32Array, Float64Array

# A feature, and the time.
_LEAST_COLUMNS = 2


@dataclass(frozen=True)
class SeasonalModel:
    """Any other model, fed rows without their season; the last column of its rows is the second of the week.

    Attributes
    ----------
    season : Season
    inner : Ensemble, Subspace, ContextModel or PlainAutoencoder
    """

    season: Season
    inner: Model

    @property
    def definition(self) -> str:
        """The score in words."""
        return f"{self.inner.definition}; of rows less what they usually are at that time"

    @property
    def least_threshold(self) -> float | None:
        """As of the inner model."""
        return self.inner.least_threshold

    @property
    def input_dim(self) -> int:
        """Number of features and one, D + 1."""
        return self.inner.input_dim + 1

    @property
    def latent_dim(self) -> int:
        """As of the inner model."""
        return self.inner.latent_dim

    @property
    def scaling(self) -> Scaling:
        """The inner model's, and a week for the time."""
        inner = self.inner.scaling
        return replace(
            inner,
            shift=np.append(inner.shift, np.float32(0)),
            scale=np.append(inner.scale, np.float32(WEEK_S)),
            inverse_scale=np.append(inner.inverse_scale, np.float32(1 / WEEK_S)),
            varying=np.append(inner.varying, True),
        )

    def score(self, rows: Float32Array) -> Float32Array:
        """Score rows [N, D + 1]."""
        return self.inner.score(self.deseason(rows))

    def evaluate(self, rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return scores [N] and reconstructions [N, D + 1], the time being as it is."""
        scores, rebuilt = self.inner.evaluate(self.deseason(rows))
        return scores, np.column_stack([self.season.invert(rebuilt, split_time(rows)[1]), rows[:, -1]])

    def contributions(self, rows: Float32Array) -> Float32Array:
        """Return each column's part in the scores, shape [N, D + 1]; the time has none."""
        inner = self.inner.contributions(self.deseason(rows))
        return np.column_stack([inner, np.zeros(len(rows), inner.dtype)])

    def tolerable(self, scores: Float32Array) -> Float32Array:
        """As of the inner model."""
        return self.inner.tolerable(scores)

    def rounding(self, rows: Float32Array) -> float:
        """Return how far float32 arithmetic is from float64 on these rows, in units of `tolerable`."""
        scores = self.inner.score(self.deseason(rows.astype(np.float64)).astype(np.float32))
        narrow = self.score(rows)
        difference = float((np.abs(narrow.astype(np.float64) - scores) / self.tolerable(scores)).max())
        return difference + self.inner.rounding(self.deseason(rows))

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `training`."""
        season: dict[str, Json] = {
            "period_s": self.season.period_s,
            "slot_s": self.season.slot_s,
            "columns": list(np.flatnonzero(self.season.seasonal).tolist()),
        }
        return {**self.inner.facts(), "season": season}

    def summary(self) -> str:
        """Describe the model in a line."""
        return f"{self.inner.summary()}; {self.season.describe()}"

    def deseason(self, rows: Float32Array) -> Float32Array:
        """Return rows [N, D] without their season, in the precision of `rows`."""
        return self.season.apply(*split_time(rows))

    def calibration_of(self, calibration: Calibration, rows: Float32Array) -> Calibration:
        """Wrap a calibration of the inner model so that it describes raw rows [N, D + 1].

        All of a week is one bin: at what time rows arrive is no drift.
        """
        week = Histogram.count(rows[:, -1], np.array([-1, WEEK_S], np.float32))
        columns = (Histogram.of_deciles(column) for column in rows[:, :-1].T)
        return replace(calibration, features=(*columns, week))


def split_time(rows: Float32Array) -> tuple[Float32Array, Float64Array]:
    """Return the features [N, D] of rows [N, D + 1], and the seconds of the week.

    Raises
    ------
    InvalidInputError
        There is no feature, or the last column holds no seconds of a week.
    """
    seconds = rows[:, -1].astype(np.float64)
    if rows.shape[1] < _LEAST_COLUMNS or not ((seconds >= 0) & (seconds <= WEEK_S)).all():
        raise InvalidInputError(
            "with a season, the column behind the features is the second of the week, 0 to 604800; see "
            "datasentinel.calendar_time.second_of_week"
        )
    return rows[:, :-1], seconds


def without_season(model: Model | SeasonalModel) -> Model:
    """Return the model that scores rows once their season is gone."""
    return model.inner if isinstance(model, SeasonalModel) else model
