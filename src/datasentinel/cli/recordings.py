"""Options of `train` for recordings: the order of their rows, and how long a detector remembers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click
import numpy as np

from datasentinel.errors import DataError, SettingsError
from datasentinel.series import Chronology, known_times, require_times
from datasentinel.streams import StreamDetector

if TYPE_CHECKING:
    from datasentinel.detector import Detector
    from datasentinel.tables import Dataset
    from datasentinel.training import TrainingSettings
    from datasentinel.training.recording import Order
    from datasentinel.types import BoolArray, Float32Array

_HALF_LIFE = re.compile(r"(\d+(?:\.\d*)?)(ms|s|m|h|d)?")
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class HalfLives(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Rows such as 8,32 or times such as 30s,2m: numbers, and whether they are seconds."""

    name = "N[ms|s|m|h|d],.."

    def convert(
        self, value: object, _param: click.Parameter | None, _ctx: click.Context | None
    ) -> tuple[tuple[float, bool], ...]:
        """Read half-lives."""
        if isinstance(value, tuple):
            return value
        told = []
        for part in str(value).split(","):
            match = _HALF_LIFE.fullmatch(part.strip())
            if not match:
                self.fail(f"'{part}' is neither a number of rows, such as 32, nor a time, such as 30s or 5m")
            told.append((float(match[1]) * _UNITS_S.get(match[2], 1.0), match[2] is not None))
        return tuple(told)


def put_in_order(
    dataset: Dataset, settings: TrainingSettings, half_lives: tuple[tuple[float, bool], ...]
) -> tuple[Dataset, TrainingSettings, Order]:
    """Put the rows of each series together, and express half-lives in rows.

    Raises
    ------
    DataError
        The rows are a sample, not in order of time, or have no times where a half-life is one.
    """
    from datasentinel.training.context import LONG_CONTEXT
    from datasentinel.training.memory import warm_up_of
    from datasentinel.training.recording import Order

    if dataset.num_rows > len(dataset.values):
        raise DataError(
            f"a random sample of {dataset.num_rows:,} rows has no context: raise --max-rows, or train on a "
            "part of the recording"
        )
    times_s = dataset.times_s
    if times_s is not None and not np.isfinite(times_s).all():
        name = dataset.columns.name_of(dataset.columns.time)
        raise DataError(f"column '{name}', row {dataset.first_untimed}: some rows have no time")
    series = [""] * len(dataset.values) if dataset.series is None else dataset.series
    rows, order = Order.of_rows(series, times_s)
    in_rows = tuple(_in_rows(value, order.row_s) if timed else value for value, timed in half_lives)
    try:
        settings = replace(settings, half_lives=in_rows)
    except SettingsError as error:
        if not any(timed for _, timed in half_lives):
            raise
        apart = f"rows are usually {order.row_s:g} s apart (the median over all series)"
        raise SettingsError(f"{error}; {apart}") from None
    if times_s is not None and any(timed for _, timed in half_lives):
        order = replace(order, times_s=times_s[rows])
    if times_s is not None:
        order = order.split_at_gaps(times_s[rows], warm_up_of(in_rows or LONG_CONTEXT))
    labels = None if dataset.labels is None else dataset.labels[rows]
    return replace(dataset, values=dataset.values[rows], labels=labels), settings, order


def as_recordings(
    dataset: Dataset, settings: TrainingSettings
) -> tuple[Dataset, TrainingSettings, Order | None]:
    """Choose a detector with memory where "auto" is free to, and the rows of each series are alike.

    Rows that are a sample, or not in order of time, are taken for a table; the latter is said.
    """
    from datasentinel.training.recording import is_recording

    if not settings.may_have_memory or dataset.num_rows > len(dataset.values):
        return dataset, settings, None
    try:
        ordered, _, order = put_in_order(dataset, settings, ())
    except DataError as error:
        click.echo(f"warning     {error}; trained as a table, without memory", err=True)
        return dataset, settings, None
    normal = ordered.values if ordered.labels is None else ordered.values[~ordered.labels]
    if not is_recording(normal.astype(np.float32)):
        return dataset, settings, None
    return ordered, replace(settings, model="context"), order


@dataclass(frozen=True)
class ScoredRows:
    """Labelled or normal rows with their scores; of a model with memory, the rows of a series are together.

    Attributes
    ----------
    dataset : Dataset
    rows : float32 array, shape [N, D]
        As they were scored: with values for those that were missing, where the model carries them.
    scores : float32 array, shape [N]
    warming : bool array, shape [N]
        Which rows are too early in their stream to tell; none without a memory.
    streams : list of str, length N
    """

    dataset: Dataset
    rows: Float32Array
    scores: Float32Array
    warming: BoolArray
    streams: list[str]


def score_dataset(detector: Detector, dataset: Dataset) -> ScoredRows:
    """Score the rows of a table, each in the past of its own series where the model has a memory.

    Says where a series is not in order of time.
    """
    rows = np.ascontiguousarray(dataset.values, dtype=np.float32)
    streams = [""] * len(rows)
    if not detector.scorer.state_dim:
        return ScoredRows(dataset, rows, detector.score(rows), np.zeros(len(rows), bool), streams)
    if dataset.series is not None:
        streams = list(map(str, dataset.series))
    times_s = dataset.times_s
    require_times(detector, are_there=times_s is not None)
    places: dict[str, int] = {}
    order = np.argsort([places.setdefault(name, len(places)) for name in streams], kind="stable")
    rows, streams = rows[order], [streams[row] for row in order.tolist()]
    labels = None if dataset.labels is None else dataset.labels[order]
    times = None if times_s is None else known_times(times_s[order])
    if times is not None:
        chronology = Chronology()
        chronology.follow(streams, times)
        if chronology.problem:
            click.echo(f"warning     {chronology.problem}", err=True)
    scores, warming = StreamDetector(detector, max_streams=len(places)).update_many(
        rows, streams, times, filled=rows
    )
    ordered = replace(dataset, values=dataset.values[order], labels=labels)
    return ScoredRows(ordered, rows, scores, warming, streams)


def _in_rows(half_life_s: float, row_s: float | None) -> float:
    if row_s is None:
        raise SettingsError("a half-life in time needs the times of the rows; name their column with --time")
    return half_life_s / row_s
