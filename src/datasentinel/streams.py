"""Many streams, one detector with memory: the state of each is kept here between its rows."""

from __future__ import annotations

import math
import sys
import threading
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.backend import StateStore, StreamRules, WallClock
from datasentinel.calendar_time import second_of_week, seconds, utc_offsets
from datasentinel.detector import Detector
from datasentinel.errors import InvalidInputError, UnsupportedModelError
from datasentinel.input_rows import as_float32_rows
from datasentinel.reasons import feature_name, rank_reasons
from datasentinel.stream_snapshot import restore_states, save_states

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from datasentinel.artifact import Config
    from datasentinel.reasons import Reason
    from datasentinel.types import BoolArray, Float32Array, Float64Array

MAX_STREAMS = 100_000


class Decision(Enum):
    """What a row of a stream is."""

    OK = "OK"
    ANOMALY = "ANOMALY"
    WARMING = "WARMING"  # Too early in its stream to tell.


class StreamDetector:
    """Scores rows of many streams, each in the context of its own past.

    Thread-safe: one call at a time.

    Parameters
    ----------
    detector : Detector
        With memory: trained with `model="context"`.
    max_streams : int
        How many streams are remembered; beyond, the one heard of least recently starts over.
    store : StateStore, optional
        The states to go on with, in place of a store of its own.

    Raises
    ------
    UnsupportedModelError
        The detector has no memory.

    Examples
    --------
    >>> streams = StreamDetector.load("models/")                  # doctest: +SKIP
    >>> streams.update([0.1, 0.2, 0.3], stream="pump-7")          # doctest: +SKIP
    (0.83, <Decision.WARMING: 'WARMING'>)
    """

    def __init__(
        self, detector: Detector, *, max_streams: int = MAX_STREAMS, store: StateStore | None = None
    ) -> None:
        if not detector.scorer.state_dim:
            raise UnsupportedModelError(
                f"{detector.artifact.directory}: the model has no memory; train one with --model context"
            )
        self.detector = detector
        if max_streams < 1:
            raise InvalidInputError(f"max_streams must be at least 1, got {max_streams}")
        self._rules = rules_of(detector.artifact.config)
        self._store = store_for(detector, max_streams=max_streams) if store is None else store
        self._carries = bool(detector.artifact.config.first_values)
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, backend: str = "auto", max_streams: int = MAX_STREAMS
    ) -> StreamDetector:
        """Load the artifact at `path`; see `Detector.load`."""
        return cls(Detector.load(path, backend=backend), max_streams=max_streams)

    def __len__(self) -> int:
        """Return the number of streams that are remembered."""
        return len(self._store)

    @property
    def evicted(self) -> int:
        """How many streams were forgotten to make room for others."""
        return self._store.evicted

    @property
    def stale(self) -> int:
        """How many streams have a column that is stale: see `stale_columns`."""
        return self._store.stale

    @property
    def stale_rows(self) -> int:
        """How many rows were scored with such a column."""
        return self._store.stale_rows

    def stale_columns(self, stream: str | int = "") -> list[str]:
        """Name the columns of a stream that have had no value for longer than the model remembers.

        Only of a model that carries missing values; their bound is `stale_rows` in config.json's `state`.
        """
        return [
            feature_name(self.detector.feature_names, column)
            for column in self._store.stale_columns(_text(stream), self._rules)
        ]

    @property
    def warm_up_rows(self) -> int:
        """Number of rows at the beginning of a stream that are WARMING and never anomalies."""
        return self.detector.artifact.config.warm_up_rows

    def update(self, row: object, stream: str | int = "", timestamp: object = None) -> tuple[float, Decision]:
        """Score the next row of a stream.

        Parameters
        ----------
        row : array_like of real numbers, shape [D], raw units
            NaN is a missing value; a model that was trained to do so carries it from the stream's last row.
        stream : str or int
            Its id; a number is the same as its digits.
        timestamp : datetime, numpy.datetime64, str or number, optional
            When the row was taken, as `calendar_time.second_of_week` takes it. After a gap longer than
            the `gap_s` in config.json's `state` the stream starts over. Of a model with a season, the row may
            lack its last value then, the second of the week.

        Returns
        -------
        score : float
            Higher is more anomalous.
        decision : Decision

        Raises
        ------
        InvalidInputError
            Wrong shape, a non-finite value, or what is not a time; the stream is as it was before.
        """
        values = as_float32_rows(row)
        if values.ndim != 1:
            raise InvalidInputError(f"row must have shape [D], got {values.shape}")
        timestamps = None if timestamp is None else [timestamp]
        scores, warming = self.update_many(values[np.newaxis], [stream], timestamps)
        score = float(scores[0])
        if warming[0]:
            return score, Decision.WARMING
        return score, Decision.ANOMALY if score > self.detector.threshold else Decision.OK

    def scan(
        self, rows: object, stream: str | int = "", timestamps: Sequence[object] | None = None
    ) -> tuple[Float32Array, BoolArray]:
        """Score the next rows of one stream, one after the other, inside the engine.

        Parameters
        ----------
        rows : array_like of real numbers, shape [N, D], raw units
        stream : str or int
        timestamps : sequence, length N, optional
            As for `update`.

        Returns
        -------
        scores : float32 array, shape [N]
        warming : bool array, shape [N]
            True for the stream's first `warm_up_rows`.
        """
        values = np.atleast_2d(as_float32_rows(rows))
        return self.update_many(values, [stream] * len(values), timestamps)

    def update_many(
        self,
        rows: object,
        streams: Sequence[str | int],
        timestamps: Sequence[object] | None = None,
        *,
        filled: Float32Array | None = None,
        leader: StreamDetector | None = None,
    ) -> tuple[Float32Array, BoolArray]:
        """Score rows of many streams; those of one stream follow each other in the order given.

        Parameters
        ----------
        rows : array_like of real numbers, shape [N, D], raw units
        streams : sequence of str or int, length N
            The stream of each row.
        timestamps : sequence, length N, optional
            As for `update`; None for a row whose time is not known.
        filled : float32 array, shape [N, D], optional
            Where to write the rows as they were scored: with values for those that were missing.
        leader : StreamDetector, optional
            What has just scored the same rows and filled them in: it knows how long values are carried.

        Returns
        -------
        scores, warming
            As for `scan`, in the order of the rows.

        Raises
        ------
        InvalidInputError
            As for `update`, and where N differs; all streams are as they were before.
        """
        scores, warming, _ = self._score(rows, streams, timestamps, filled=filled, leader=leader)
        return scores, warming

    def explain_many(
        self,
        rows: object,
        streams: Sequence[str | int],
        timestamps: Sequence[object] | None = None,
        top: int = 5,
        *,
        filled: Float32Array | None = None,
    ) -> tuple[Float32Array, BoolArray, list[list[Reason]]]:
        """Score rows as `update_many`, and name the features that contributed most to each score.

        Parameters
        ----------
        rows : array_like of real numbers, shape [N, D], raw units
        streams : sequence of str or int, length N
        timestamps : sequence, length N, optional
        top : int
            How many reasons a row, at least 1; all features where D is smaller.
        filled : float32 array, shape [N, D], optional
            As for `update_many`.

        Returns
        -------
        scores : float32 array, shape [N]
        warming : bool array, shape [N]
        reasons : list of list of Reason
            One list a row, as of `Detector.explain`: of the row in its stream.

        Raises
        ------
        InvalidInputError
            As for `update_many`, and for a `top` below 1.
        UnsupportedModelError
            The model scores without saying why; all streams are as they were before.
        """
        if top < 1:
            raise InvalidInputError(f"top must be at least 1, got {top}")
        return self._score(rows, streams, timestamps, filled=filled, top=top)

    def _score(
        self,
        rows: object,
        streams: Sequence[str | int],
        timestamps: Sequence[object] | None,
        *,
        filled: Float32Array | None,
        leader: StreamDetector | None = None,
        top: int = 0,
    ) -> tuple[Float32Array, BoolArray, list[list[Reason]]]:
        """Score rows, with `top` reasons for each: the only way to the states."""
        values, ids, times_s = self._read(rows, streams, timestamps)
        contributions = np.empty_like(values) if top else None
        expected = np.empty_like(values) if top and self._reconstructs else None
        with self._lock:
            scores, warming = self._store.score(
                self.detector.scorer,
                self._rules,
                values,
                ids,
                times_s,
                reconstructions=expected,
                contributions=contributions,
                leader=None if leader is None else leader._store,
            )
        if filled is not None:
            filled[:] = values
        if contributions is None:
            return scores, warming, []
        names = self.detector.feature_names
        return scores, warming, rank_reasons(contributions, values, expected, names=names, top=top)

    @cached_property
    def _reconstructs(self) -> bool:
        try:
            self.detector.reconstruct(np.zeros((1, self.detector.input_dim), np.float32))
        except UnsupportedModelError:
            return False
        return True

    def forget(self, stream: str | int) -> bool:
        """Restart a stream with its next row; return whether it was known."""
        return self._store.forget(str(stream))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the states of all streams to a file, atomically.

        Raises
        ------
        InvalidInputError
            The file cannot be written.
        """
        save_states(self._store, self.detector.artifact.sha256, Path(path))

    def restore(self, path: str | os.PathLike[str]) -> int:
        """Restore the states that `save` wrote; return their number.

        Streams that are known already keep the state they have.

        Raises
        ------
        ArtifactError
            The file is not a snapshot of streams of this model.
        """
        return restore_states(self._store, self._rules, self.detector.artifact.sha256, Path(path))

    def _read(
        self, rows: object, streams: Sequence[str | int], timestamps: Sequence[object] | None
    ) -> tuple[Float32Array, list[str], Float64Array | None]:
        """Return values [N, D], ids, and times in seconds where there are some."""
        values = np.atleast_2d(as_float32_rows(rows))
        if self._carries:
            values = values.copy()  # What is missing is filled in.
        if not len(streams) and not values.size:
            values = np.empty((0, self.detector.input_dim), np.float32)
        if len(values) != len(streams):
            raise InvalidInputError(f"{len(values)} rows, but {len(streams)} stream ids")
        ids = [_text(stream) for stream in streams]
        if timestamps is None:
            return values, ids, None
        if len(timestamps) != len(values):
            raise InvalidInputError(f"{len(values)} rows, but {len(timestamps)} timestamps")
        times_s = seconds(timestamps, self.detector.artifact.config.date_order)
        for row in np.flatnonzero(~np.isfinite(times_s)).tolist():
            if timestamps[row] is not None:
                raise InvalidInputError(f"the timestamp of row {row}, {timestamps[row]!r}, is not a time")
        return self._with_second_of_week(values, timestamps), ids, times_s

    def _with_second_of_week(self, rows: Float32Array, timestamps: Sequence[object]) -> Float32Array:
        """Add the last column of a model with a season where it is not there."""
        config = self.detector.artifact.config
        if config.time_zone is None or rows.shape[1] != self.detector.input_dim - 1:
            return rows
        of_week = second_of_week(timestamps, config.time_zone, config.date_order)
        return np.column_stack([rows, of_week.astype(np.float32)])


def store_for(detector: Detector, *, max_streams: int, max_bytes: int = sys.maxsize) -> StateStore:
    """Make an empty store for the streams of a detector with memory.

    Parameters
    ----------
    detector : Detector
    max_streams : int
    max_bytes : int
        Of memory for all of them.
    """
    rules = rules_of(detector.artifact.config)
    return StateStore(detector.scorer.state_dim, rules, max_streams=max_streams, max_bytes=max_bytes)


def rules_of(config: Config) -> StreamRules:
    """Return the rules by which a model with memory keeps its streams."""
    return StreamRules(
        warm_up_rows=config.warm_up_rows,
        gap_s=config.gap_s or math.inf,
        row_s=config.row_s or 0.0,
        first_values=config.first_values,
        stale_rows=config.stale_rows,
    )


def clock_of(config: Config) -> WallClock | None:
    """Return the clock that sets the last column of a model with a season; None for one without."""
    return WallClock(*utc_offsets(config.time_zone)) if config.time_zone is not None else None


def _text(stream: object) -> str:
    if isinstance(stream, str):
        return stream
    if isinstance(stream, int | np.integer):
        return str(int(stream))
    raise InvalidInputError(f"a stream's id is a text or a whole number, got {stream!r}")
