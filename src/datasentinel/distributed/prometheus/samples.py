"""The answers of a group of queries, joined to rows by the labels that they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from datasentinel.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datasentinel.distributed.prometheus.client import Grid, PrometheusClient, Series
    from datasentinel.types import BoolArray, Float64Array

# The values of the labels that distinguish series, in their order.
Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """What a group of queries says about its series, moment by moment.

    Attributes
    ----------
    grid : Grid
        The moments, T.
    labels : tuple of str
        The labels that distinguish series.
    keys : list of Key
        Their values, of each series, N.
    values : float64 array, shape [N, T, D]
        NaN where a query has no sample, or one that is not finite as float32.
    ambiguous : int
        Series that are left out since a query has several for the same labels.
    """

    grid: Grid
    labels: tuple[str, ...]
    keys: list[Key]
    values: Float64Array
    ambiguous: int = 0

    @property
    def complete(self) -> BoolArray:
        """Which rows have a value of every query, bool [N, T]."""
        return np.asarray(np.isfinite(self.values).all(axis=2))


def fetch(
    client: PrometheusClient, queries: Mapping[str, str], grid: Grid, labels: tuple[str, ...]
) -> Samples:
    """Ask all queries of a group.

    Parameters
    ----------
    client : PrometheusClient
    queries : mapping of str to str
        PromQL by column, D.
    grid : Grid
    labels : tuple of str
        That distinguish series; empty: those that every series of every query has.

    Raises
    ------
    DataError
        The server refuses a query.
    ServerUnreachableError
        It does not answer.
    """
    return join([client.query_range(query, grid) for query in queries.values()], grid, labels)


def join(answers: Sequence[Sequence[Series]], grid: Grid, labels: tuple[str, ...]) -> Samples:
    """Join the answers of D queries; see `fetch`."""
    labels = labels or _common_labels(answers)
    places: dict[Key, int] = {}
    keyed = [[(_key(series, labels), series) for series in answer] for answer in answers]
    for answer in keyed:
        for key, _ in answer:
            places.setdefault(key, len(places))
    values = np.full((len(places), grid.count, len(answers)), np.nan)
    ambiguous: set[int] = set()
    for column, answer in enumerate(keyed):
        seen: set[int] = set()
        for key, series in answer:
            place = places[key]
            if place in seen:
                # Label sets that differ elsewhere may follow each other, as when a scrape's target moves.
                present = np.isfinite(series.values)
                if (present & np.isfinite(values[place, :, column])).any():
                    ambiguous.add(place)
                values[place, present, column] = series.values[present]
                continue
            seen.add(place)
            values[place, :, column] = series.values
    with np.errstate(over="ignore"):
        values[np.isinf(values.astype(np.float32))] = np.nan
    kept = [place for place in range(len(places)) if place not in ambiguous]
    keys = list(places)
    return Samples(grid, labels, [keys[place] for place in kept], values[kept], len(ambiguous))


def refuse_ambiguous(samples: Samples, by: str) -> None:
    """Raise DataError where labels do not distinguish series; `by` says what to change."""
    if samples.ambiguous:
        raise DataError(
            f"{samples.ambiguous} series cannot be told apart by their labels "
            f"({', '.join(samples.labels) or 'none is common to all'}): a query has several series for the "
            f"same values; {by}"
        )


def _common_labels(answers: Sequence[Sequence[Series]]) -> tuple[str, ...]:
    sets = [series.labels.keys() for answer in answers for series in answer]
    if not sets:
        return ()
    return tuple(sorted(set(sets[0]).intersection(*sets[1:]) - {"__name__"}))


def _key(series: Series, labels: tuple[str, ...]) -> Key:
    return tuple(series.labels.get(label, "") for label in labels)
