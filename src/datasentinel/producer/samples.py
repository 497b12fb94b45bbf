"""What the producer sends: synthetic telemetry or rows of a file, and invalid samples in between."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datasentinel.errors import DataError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from datasentinel.tables import Table
    from datasentinel.types import Float32Array, Float64Array

_BLOCK_ROWS = 256
_SHIFT_SHARE = 0.2  # of all anomalous events; the others are spikes of one row
_SHIFT_ROWS = (4, 13)  # shortest length of a level shift, and one more than the longest
_MEAN_EVENT_ROWS = (1 - _SHIFT_SHARE) + _SHIFT_SHARE * (_SHIFT_ROWS[0] + _SHIFT_ROWS[1] - 1) / 2


class Fault(Enum):
    """What is wrong with an invalid sample."""

    WRONG_COUNT = "wrong count"
    NOT_A_NUMBER = "not a number"  # text instead of a number: only the line protocol can say it
    NAN = "nan"
    INFINITE = "infinite"


class Row(NamedTuple):
    """A row, whether it is an anomaly and when it was taken, where that is known, and its stream, if any."""

    values: Float32Array
    label: bool | None = None
    stream: str = ""
    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One vector to send.

    Attributes
    ----------
    index : int
        Position in the stream, from 0.
    values : float32 array, shape [D]
        In raw units; one value too many for `Fault.WRONG_COUNT`. For the other faults one value is NaN or
        infinite (`Fault.NOT_A_NUMBER`: NaN, which `clients.encode_line` spells as a word).
    label : bool or None
        Whether it is an anomaly, where that is known.
    fault : Fault or None
        Why the server must refuse it; None for a sample that it must score.
    stream : str
        The stream that it belongs to; empty for none.
    time_s : float or None
        When it was taken, in seconds since 1970, where that is known.
    """

    index: int
    values: Float32Array
    label: bool | None
    fault: Fault | None
    stream: str = ""
    time_s: float | None = None


class Telemetry:
    """An endless stream of made-up machine telemetry, the same for the same seed.

    Every signal mixes a few slow sinusoids that all signals share (hence their correlation) and some noise,
    on its own offset and scale. An anomaly is a spike (one row) or a level shift (4 to 12 rows) of a quarter
    of the signals by 6 to 12 times their scale.

    Parameters
    ----------
    dim : int
        Number of signals, D.
    anomaly_share : float
        Expected share of anomalous rows, between 0 and 1.
    seed : int
        Seed of the random numbers.
    """

    def __init__(self, dim: int, *, anomaly_share: float = 0.05, seed: int = 0) -> None:
        if dim < 1:
            raise InvalidInputError(f"dim must be at least 1, got {dim}")
        if not 0 <= anomaly_share <= 1:
            raise InvalidInputError(f"anomaly_share must be between 0 and 1, got {anomaly_share}")
        self.dim = dim
        # An event starts in a row outside events with probability s; events last m rows on average. The
        # share m / (m + (1 - s) / s) is the one asked for with this s:
        normal = _MEAN_EVENT_ROWS * (1 - anomaly_share)
        self._event_probability = anomaly_share / (anomaly_share + normal)
        self._rng = np.random.default_rng(seed)
        sources = max(1, min(4, dim // 2))
        self._omega = 2 * np.pi / self._rng.uniform(50, 500, sources)
        self._phase = self._rng.uniform(0, 2 * np.pi, sources)
        self._mixing = self._rng.normal(0, 1, (sources, dim)) / np.sqrt(sources)
        self._offset = self._rng.normal(0, 2, dim)
        self._scale = self._rng.uniform(0.5, 2, dim)

    def __iter__(self) -> Iterator[Row]:
        shift, remaining = np.zeros(self.dim), 0
        for block in itertools.count():
            rows = self._normal_rows(block * _BLOCK_ROWS)
            starts = self._rng.random(_BLOCK_ROWS) < self._event_probability
            for row, start in zip(rows, starts, strict=True):
                if start and not remaining:
                    shift, remaining = self._event()
                abnormal = remaining > 0
                if abnormal:
                    row += shift  # noqa: PLW2901  # in place, in this block's own memory
                    remaining -= 1
                yield Row(row.astype(np.float32), abnormal)

    def _normal_rows(self, first: int) -> Float64Array:
        time = np.arange(first, first + _BLOCK_ROWS)[:, None]
        signals = np.sin(time * self._omega + self._phase) @ self._mixing
        noise = self._rng.normal(0, 0.1, signals.shape)
        rows: np.ndarray[tuple[int, int], np.dtype[np.float64]] = self._offset + self._scale * (
            signals + noise
        )
        return rows

    def _event(self) -> tuple[Float64Array, int]:
        hit = self._rng.choice(self.dim, max(1, self.dim // 4), replace=False)
        shift = np.zeros(self.dim)
        shift[hit] = (
            self._scale[hit] * self._rng.uniform(6, 12, hit.size) * self._rng.choice([-1, 1], hit.size)
        )
        length = int(self._rng.integers(*_SHIFT_ROWS)) if self._rng.random() < _SHIFT_SHARE else 1
        return shift, length


class Fleet:
    """Telemetry of several machines in turns, each a stream of its own.

    Parameters
    ----------
    machines : int
        How many, at least 1; their streams are machine-0, machine-1 ...
    dim, anomaly_share, seed
        As for `Telemetry`; each machine has a seed of its own, the first one this.
    """

    def __init__(self, machines: int, dim: int, *, anomaly_share: float = 0.05, seed: int = 0) -> None:
        if machines < 1:
            raise InvalidInputError(f"machines must be at least 1, got {machines}")
        self._machines = [Telemetry(dim, anomaly_share=anomaly_share, seed=seed + i) for i in range(machines)]

    def __iter__(self) -> Iterator[Row]:
        for rows in zip(*self._machines):  # noqa: B905  # none of them ends
            for i, row in enumerate(rows):
                yield row._replace(stream=f"machine-{i}")


class FileRows:
    """The good rows of a data file, in order, with their labels, streams and times where the file has some.

    Parameters
    ----------
    table : Table
        What `tables.open_table` returns; it is read into memory when the first row is asked for.
    repeat : bool
        Start again at the end, without end. Times go on: a repeat is as much later as the file is long.
    with_times : bool
        Whether rows have the times of the table's column of times.

    Attributes
    ----------
    names : tuple of str
        Those of the columns, where the file has some.
    skipped : int
        Bad rows of the file.
    first_problem : str
        What was wrong with the first of them.
    """

    def __init__(self, table: Table, *, repeat: bool = False, with_times: bool = False) -> None:
        self.dim = table.num_features
        self.names = table.columns.feature_names
        self.skipped = 0
        self.first_problem = ""
        self._table = table
        self._repeat = repeat
        self._with_times = with_times

    def __iter__(self) -> Iterator[Row]:
        data = self._table.read(with_times=self._with_times, with_series=True)
        self.skipped = data.problems.total
        self.first_problem = str(data.bad[0]) if data.bad else ""
        if not len(data.values):
            problem = f"; the first bad one is {self.first_problem}" if self.skipped else ""
            raise DataError(f"{self._table.name}: no usable rows{problem}")
        values = data.values.astype(np.float32)
        labels = [None] * len(values) if data.labels is None else data.labels.tolist()
        streams = [""] * len(values) if data.series is None else list(map(str, data.series))
        if data.times_s is None:
            yield from map(Row, values, labels, streams)
            while self._repeat:
                yield from map(Row, values, labels, streams)
            return
        times_s = data.times_s
        if not np.isfinite(times_s).all():
            name = self._table.columns.name_of(self._table.columns.time)
            raise DataError(
                f"{self._table.name}: column '{name}', row {data.first_untimed}: some rows have no time"
            )
        # As long as its rows, the last of which lasts as long as the usual one.
        steps = np.diff(np.unique(times_s))
        length_s = float(np.ptp(times_s)) + (float(np.median(steps)) if steps.size else 1.0)
        yield from map(Row, values, labels, streams, times_s.tolist())
        while self._repeat:
            times_s = times_s + length_s
            yield from map(Row, values, labels, streams, times_s.tolist())


def stream(
    rows: Iterable[Row], *, invalid_every: int, faults: Sequence[Fault], seed: int = 0
) -> Iterator[Sample]:
    """Make samples of the rows and put invalid samples between them.

    Parameters
    ----------
    rows : iterable of Row
        None of them is left out or replaced.
    invalid_every : int
        The samples number N, 2N, 3N, ... of the stream (counted from 1) are invalid; 0 for none.
    faults : sequence of Fault
        What is wrong with them, in turns.
    seed : int
        Seed for which value of a sample is spoilt.
    """
    if invalid_every < 0 or invalid_every == 1:
        raise InvalidInputError(f"invalid_every must be 0 (none) or at least 2, got {invalid_every}")
    return _with_invalid(rows, invalid_every, faults, seed)


def _with_invalid(
    rows: Iterable[Row], invalid_every: int, faults: Sequence[Fault], seed: int
) -> Iterator[Sample]:
    rng = np.random.default_rng(seed)
    turns = itertools.cycle(faults)
    index = 0
    for values, label, name, time_s in rows:
        yield Sample(index, values, label, None, name, time_s)
        index += 1
        if invalid_every and (index + 1) % invalid_every == 0:
            fault = next(turns)
            yield Sample(index, _spoil(values, fault, rng, time_s), None, fault, name, time_s)
            index += 1


def _spoil(
    values: Float32Array, fault: Fault, rng: np.random.Generator, time_s: float | None
) -> Float32Array:
    if fault is Fault.WRONG_COUNT:
        return np.append(values, values[-1])
    spoilt = values.copy()
    # The last column may be a season's own, which the server fills in where it is told the time.
    last = max(1, values.size - (time_s is not None))
    spoilt[rng.integers(last)] = np.inf if fault is Fault.INFINITE else np.nan
    return spoilt
