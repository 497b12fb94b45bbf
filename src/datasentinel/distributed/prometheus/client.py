"""Range queries, by the HTTP API that Prometheus and its like share."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np

from datasentinel.distributed.prometheus.http import HttpClient, RequestRefusedError, ServerUnreachableError
from datasentinel.errors import DataError
from datasentinel.serving.logs import RateLimitedLog

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from datasentinel.distributed.prometheus.config import Endpoint
    from datasentinel.types import Float64Array

# Prometheus returns at most 11,000 points of a series at once.
_MOST_STEPS = 10_000
_UNPROCESSABLE = 422

_warn = RateLimitedLog(logging.getLogger(__name__), logging.WARNING, "query_warning", interval_s=60.0)


@dataclass(frozen=True, slots=True)
class Grid:
    """Moments that are whole multiples of a step: the times of rows.

    Attributes
    ----------
    step_s : float
    first, count : int
        The number of the first moment since 1970, and how many follow each other.
    """

    step_s: float
    first: int
    count: int

    @property
    def times_s(self) -> Float64Array:
        """Seconds since 1970, shape [count]."""
        times_s: Float64Array = (self.first + np.arange(self.count, dtype=np.float64)) * self.step_s
        return times_s

    def part(self, first: int, count: int) -> Grid:
        """Return some of the moments, the first of which is `first` from the beginning."""
        return Grid(self.step_s, self.first + first, count)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer.

    Attributes
    ----------
    labels : mapping of str to str
    values : float64 array, shape [count]
        NaN where there is no sample.
    """

    labels: Mapping[str, str]
    values: Float64Array


class PrometheusClient:
    """Asks one server.

    Parameters
    ----------
    endpoint : Endpoint
    stop : threading.Event, optional
        Ends the waiting between attempts.
    """

    def __init__(self, endpoint: Endpoint, stop: threading.Event | None = None) -> None:
        self._http = HttpClient(endpoint, stop)

    def query_range(self, query: str, grid: Grid) -> list[Series]:
        """Evaluate a query at each moment.

        A range that is too long for the server is asked for in parts.

        Raises
        ------
        DataError
            The server refuses the query, or the answer is none of its API.
        ServerUnreachableError
            It does not answer.
        """
        if grid.count > _MOST_STEPS:
            return self._in_parts(query, grid, _MOST_STEPS)
        try:
            return self._ask(query, grid)
        except RequestRefusedError as error:
            if error.status == _UNPROCESSABLE and "too many samples" in str(error) and grid.count > 1:
                return self._in_parts(query, grid, -(-grid.count // 2))
            raise DataError(f"query {query}: {error}") from error

    def _in_parts(self, query: str, grid: Grid, count: int) -> list[Series]:
        whole: dict[frozenset[tuple[str, str]], Series] = {}
        for first in range(0, grid.count, count):
            part = grid.part(first, min(count, grid.count - first))
            for series in self.query_range(query, part):
                key = frozenset(series.labels.items())
                if key not in whole:
                    whole[key] = Series(series.labels, np.full(grid.count, np.nan))
                whole[key].values[first : first + part.count] = series.values
        return list(whole.values())

    def _ask(self, query: str, grid: Grid) -> list[Series]:
        last = grid.first + grid.count - 1
        form = {
            "query": query,
            "start": f"{grid.first * grid.step_s:.3f}",
            "end": f"{last * grid.step_s:.3f}",
            "step": f"{grid.step_s:.3f}",
        }
        body = self._http.post(
            "/api/v1/query_range",
            urlencode(form),
            {"Content-Type": "application/x-www-form-urlencoded", "Accept-Encoding": "gzip"},
        )
        try:
            answer = json.loads(body)
            if warnings := answer.get("warnings"):
                _warn(query=query, warnings="; ".join(warnings))
            return [_series(found, grid) for found in answer["data"]["result"]]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"query {query}: the answer is not that of a Prometheus-compatible server ({error!r}); "
                "source.url is the address before /api/v1/"
            ) from error


def _series(found: Mapping[str, Any], grid: Grid) -> Series:
    values = np.full(grid.count, np.nan)
    for time_s, value in found["values"]:
        values[round(time_s / grid.step_s) - grid.first] = float(value)
    return Series(found["metric"], values)


__all__ = ["Grid", "PrometheusClient", "Series", "ServerUnreachableError"]
