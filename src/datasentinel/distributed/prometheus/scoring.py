"""Scores the rows of many series, moment by moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.distributed.prometheus.fitting import with_calendar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasentinel.detector import Detector
    from datasentinel.distributed.prometheus.config import Model
    from datasentinel.distributed.prometheus.samples import Key, Samples
    from datasentinel.distributed.prometheus.states import SeriesStates
    from datasentinel.types import BoolArray, Float32Array, Int64Array


@dataclass(frozen=True)
class Moment:
    """What a model says of its series at a moment.

    Attributes
    ----------
    time_s : float
        Seconds since 1970.
    keys : list of Key
        Of the N series that are scored.
    severity : float32 array, shape [N]
        Score over threshold.
    anomaly : bool array, shape [N]
    expected : float32 array, shape [N, D]
        Raw units.
    shares : float32 array, shape [N, D]
        Of each column in the score of an anomaly that it is a reason of; 0 elsewhere.
    ended : list of Key
        Series that were scored a moment before, and are not now.
    ended_reasons : list of (Key, int)
        Series and columns that were a reason a moment before, and are not now.
    left_out : dict of str to int
        How many series are not scored, and why.
    """

    time_s: float
    keys: list[Key]
    severity: Float32Array
    anomaly: BoolArray
    expected: Float32Array
    shares: Float32Array
    ended: list[Key]
    ended_reasons: list[tuple[Key, int]]
    left_out: dict[str, int]


class SeriesScorer:
    """Scores by one trained model.

    Parameters
    ----------
    detector : Detector
    model : Model
    """

    def __init__(self, detector: Detector, model: Model) -> None:
        self.detector = detector
        self._model = model
        config = detector.artifact.config
        self.warm_up_steps = config.warm_up_rows
        gap_s = config.gap_s
        # Across a longer gap nothing is remembered; without memory, there is nothing to forget.
        self._gap_steps = max(1, self.warm_up_steps if gap_s is None else round(gap_s / model.step))

    def advance(self, states: SeriesStates, samples: Samples) -> Iterator[Moment]:
        """Score the moments of samples one after the other, bringing the states up to date.

        Parameters
        ----------
        states : SeriesStates
            Up to the moment before the first one.
        samples : Samples
        """
        complete = samples.complete
        rows = with_calendar_column(samples, self._model)
        for step in range(samples.grid.count):
            number = samples.grid.first + step
            states.forget(number - self._gap_steps)
            present = np.flatnonzero(complete[:, step])
            keys = [samples.keys[place] for place in present.tolist()]
            new = [key for key in keys if key not in states.places]
            room = max(0, self._model.max_series - len(states.keys))
            beyond = set(new[room:])
            states.add(new[:room])
            if beyond:
                kept = [i for i, key in enumerate(keys) if key not in beyond]
                present, keys = present[kept], [keys[i] for i in kept]
            places = np.array([states.places[key] for key in keys], np.int64)
            left_out = {
                "incomplete": int(len(samples.keys) - complete[:, step].sum()),
                "ambiguous": samples.ambiguous,
                "too_many": len(beyond),
            }
            yield self._score(states, places, rows[present, step], number, left_out)

    def _score(
        self,
        states: SeriesStates,
        places: Int64Array,
        rows: Float32Array,
        number: int,
        left_out: dict[str, int],
    ) -> Moment:
        width = states.reasons.shape[1]
        was_scored = states.seen == number - 1
        if self.detector.scorer.state_dim:
            was_scored &= states.states[:, -1] > self.warm_up_steps
        scores, expected, contributions, warming = self._run(states, places, rows)
        shares = contributions / np.maximum(
            contributions.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny
        )
        severity = self.detector.severity_of_scores(scores)
        anomaly = (scores.astype(np.float64) > self.detector.threshold) & ~warming
        reasons = _reasons(shares[:, :width], anomaly, self._model.reasons)
        before = states.reasons.copy()
        states.reasons[:] = False
        states.reasons[places] = reasons
        states.seen[places] = number
        states.last = number
        told = np.flatnonzero(~warming)
        was_scored[places[told]] = False
        gone = np.argwhere(before & ~states.reasons)
        return Moment(
            number * self._model.step,
            [states.keys[place] for place in places[told].tolist()],
            severity[told],
            anomaly[told],
            expected[told, :width],
            np.where(reasons, shares[:, :width], 0)[told],
            [states.keys[place] for place in np.flatnonzero(was_scored).tolist()],
            [(states.keys[place], column) for place, column in gone.tolist()],
            left_out | {"warming": int(warming.sum())},
        )

    def _run(
        self, states: SeriesStates, places: Int64Array, rows: Float32Array
    ) -> tuple[Float32Array, Float32Array, Float32Array, BoolArray]:
        """Return scores [N], expected values and contributions [N, D], and which rows are warming."""
        rows = np.ascontiguousarray(rows)
        if not self.detector.scorer.state_dim or not len(rows):
            return (
                self.detector.score(rows) if len(rows) else np.empty(0, np.float32),
                self.detector.reconstruct(rows) if len(rows) else rows,
                self.detector.contributions(rows) if len(rows) else rows,
                np.zeros(len(rows), bool),
            )
        scores = np.empty(len(rows), np.float32)
        expected, contributions = np.empty_like(rows), np.empty_like(rows)
        current = np.ascontiguousarray(states.states[places])
        self.detector.scorer.step(rows, current, scores, expected, contributions)
        states.states[places] = current
        # The last value of a state is the number of rows seen.
        return scores, expected, contributions, current[:, -1] <= self.warm_up_steps


def with_calendar_column(samples: Samples, model: Model) -> Float32Array:
    """Return the rows of samples as the model takes them, float32 [N, T, D or D + 1]."""
    count, steps, width = samples.values.shape
    times_s = np.tile(samples.grid.times_s, count)
    rows = with_calendar(samples.values.reshape(-1, width), times_s, model)
    return rows.reshape(count, steps, -1).astype(np.float32)


def _reasons(shares: Float32Array, anomaly: BoolArray, most: int) -> BoolArray:
    """Mark the greatest contributions of each anomaly, bool [N, D]."""
    reasons = np.zeros(shares.shape, bool)
    rows = np.flatnonzero(anomaly)
    greatest = np.argsort(-shares[rows], axis=1, kind="stable")[:, :most]
    reasons[rows[:, np.newaxis], greatest] = shares[rows[:, np.newaxis], greatest] > 0
    return reasons
