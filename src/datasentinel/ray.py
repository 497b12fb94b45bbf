"""Scoring of Ray datasets: each worker loads the model once, and rows stay Arrow batches throughout.

>>> import ray                                                                # doctest: +SKIP
>>> from datasentinel.ray import score_dataset                                # doctest: +SKIP
>>> rows = ray.data.read_parquet("s3://bucket/telemetry/")                    # doctest: +SKIP
>>> score_dataset(rows, "models/", keep=["host"]).write_parquet("s3://bucket/scores/")    # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.artifact import load_artifact
from datasentinel.batch_calibration import (
    BatchCounter,
    calibrate_by_counts,
    counts_of,
    require_no_memory,
    table_of,
)
from datasentinel.detector import Detector
from datasentinel.errors import DataError, MissingDependencyError
from datasentinel.record_batches import BatchLayout, RecordBatchScorer
from datasentinel.score_counts import ScoreCounts
from datasentinel.scoring import scoring_request
from datasentinel.tables.arrow import nested_type

try:
    import pyarrow as pa
    import ray
    import ray.data
except ImportError as error:
    raise MissingDependencyError('Ray Data is needed: pip install "datasentinel[ray]"') from error

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from datasentinel.artifact import Artifact
    from datasentinel.calibration import Calibration
    from datasentinel.score_counts import Keys
    from datasentinel.scoring import ScoringRequest

# Rows of a batch: 2 MiB of 8 float32 columns, for which the calls around it cost little.
BATCH_ROWS = 65_536
_COUNTS_AT_ONCE = 1 << 21
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def score_dataset(
    ds: Any,  # noqa: ANN401
    model: str | os.PathLike[str],
    *,
    features: Sequence[str] = (),
    ignore: Sequence[str] = (),
    time: str | None = None,
    id: str | None = None,  # noqa: A002 - as `datasentinel score` names it
    keep: Sequence[str] = (),
    p_values: bool = False,
    explain: int = 0,
    alarm_budget: float | None = None,
    backend: str = "auto",
    concurrency: int | tuple[int, int] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Any:  # noqa: ANN401
    """Score the rows of a dataset on the workers of a Ray cluster, as `datasentinel score` does.

    Nothing is computed until the result is written or iterated over. A worker that dies is replaced, and its
    batches are scored again.

    Parameters
    ----------
    ds : ray.data.Dataset
    model : path-like
        The artifact, on this machine; its content travels to the workers.
    features, ignore, time, id, keep, p_values, explain, alarm_budget
        As for `datasentinel.scoring.scoring_request`. Of a model with memory the rows of a series are put
        together and in order of time, so a series must fit into a worker's memory.
    backend : str
        As for `Detector.load`; with "fused" a row's score has the same bits on all workers of one CPU type.
    concurrency : int or tuple of int, optional
        How many workers, or the least and the most; Ray decides otherwise.
    batch_rows : int
        Rows to score at a time.

    Returns
    -------
    ray.data.Dataset
        A row for each, with the columns that `scoring_request` describes.

    Raises
    ------
    DataError
        The dataset is empty or lacks columns, or those that a model with memory needs are not named.
    InvalidInputError, UnsupportedModelError
        As for `ScoringRequest.outputs`.
    ModelNotFoundError, ArtifactError
        As for `Detector.load`.
    """
    request = scoring_request(
        features, ignore, time, id, keep, p_values=p_values, explain=explain, alarm_budget=alarm_budget
    )
    artifact = load_artifact(model)
    layout = BatchLayout(artifact.config, _schema_of(ds), request)
    common: dict[str, Any] = {"batch_format": "pyarrow", "compute": _pool(concurrency)}
    if layout.has_memory:
        series, order = layout.series_order()
        arguments = (artifact, request, backend, order)
        return ds.groupby(series).map_groups(_Worker, fn_constructor_args=arguments, **common)
    return ds.map_batches(
        _Worker,
        batch_size=batch_rows,
        fn_constructor_args=(artifact, request, backend),
        **common,
    )


def sample_dataset(ds: Any, rows: int, *, seed: int) -> Any:  # noqa: ANN401
    """Draw about so many rows, each with the same chance, and bring them here to train on.

    Parameters
    ----------
    ds : ray.data.Dataset
    rows : int
        At least 1; all rows of a smaller dataset.
    seed : int
        Rows are drawn by what they hold and the seed, wherever they lie: the same rows give the same sample,
        in some order.

    Returns
    -------
    pyarrow.Table
    """
    share = rows / max(rows, ds.count())
    drawn = ds.map_batches(
        _draw, batch_size=None, batch_format="pyarrow", fn_kwargs={"share": share, "seed": seed}
    )
    return pa.concat_tables(ray.get(drawn.to_arrow_refs()))


def calibrate_dataset(
    ds: Any,  # noqa: ANN401
    model: str | os.PathLike[str],
    *,
    trained_on: Any = None,  # noqa: ANN401
    target_fpr: float = 0.01,
    features: Sequence[str] = (),
    ignore: Sequence[str] = (),
    time: str | None = None,
    backend: str = "fused",
    concurrency: int | tuple[int, int] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Calibration:
    """Move a model's threshold to suit all normal rows of a dataset.

    The rows are scored twice, and only counts travel (`datasentinel.score_counts`): the threshold is the one
    that `datasentinel.calibration.calibrate` would find among all scores by the method "conformal", and
    p-values are at most 4 % greater.

    Parameters
    ----------
    ds : ray.data.Dataset
        Normal rows; leave out what is labelled as an anomaly.
    model : path-like
        The artifact; its config.json is written.
    trained_on : pyarrow.Table, optional
        Rows of `ds` that the model was trained on, as `sample_dataset` returned them: they do not count.
    target_fpr, backend
        As for `datasentinel.batch_calibration.calibrate_by_counts`.
    features, ignore, time, concurrency, batch_rows
        As for `score_dataset`.

    Raises
    ------
    DataError, InvalidInputError
        As for `calibrate_by_counts`.
    UnsupportedModelError
        The model has a memory.
    """
    artifact = load_artifact(model)
    require_no_memory(artifact)
    request = scoring_request(features, ignore, time)
    BatchLayout(artifact.config, _schema_of(ds), request)

    def count(intervals: Keys | None) -> ScoreCounts:
        counted = ds.map_batches(
            _CountingWorker,
            batch_size=batch_rows,
            batch_format="pyarrow",
            compute=_pool(concurrency),
            fn_constructor_args=(artifact, request, backend, intervals),
        )
        # So that what comes here are the counts of many batches.
        together = counted.map_batches(_add_up, batch_size=_COUNTS_AT_ONCE, batch_format="pyarrow")
        return ScoreCounts.total(
            map(counts_of, together.iter_batches(batch_size=None, batch_format="pyarrow"))
        )

    return calibrate_by_counts(
        artifact, request, count, trained_on=trained_on, target_fpr=target_fpr, backend=backend
    )


def _draw(table: Any, share: float, seed: int) -> Any:  # noqa: ANN401
    import pandas as pd

    plain = table.select([field.name for field in table.schema if not nested_type(field.type)])
    hashes = pd.util.hash_pandas_object(plain.to_pandas(), index=False)
    # Rows that are alike in every column are drawn each for itself.
    repeats = hashes.groupby(hashes).cumcount().to_numpy()
    numbers = hashes.to_numpy() ^ np.random.SeedSequence(seed).generate_state(1, np.uint64)
    numbers += repeats.astype(np.uint64) * _GOLDEN
    # Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: the mix of SplitMix64.
    for shift, factor in _MIX:
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return table.filter(pa.array((numbers ^ (numbers >> np.uint64(31))) * 2.0**-64 < share))


def _pool(concurrency: int | tuple[int, int] | None) -> Any:  # noqa: ANN401
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    return ray.data.ActorPoolStrategy(min_size=least, max_size=most)


def _schema_of(ds: Any) -> Any:  # noqa: ANN401
    schema = ds.schema()
    if schema is None:
        raise DataError("the data: the dataset is empty")
    return pa.schema(list(zip(schema.names, schema.types, strict=True)))


class _CountingWorker:
    """Counts the scores of batches in a process of Ray; the parameters are those of `BatchCounter`."""

    def __init__(
        self, artifact: Artifact, request: ScoringRequest, backend: str, intervals: Keys | None
    ) -> None:
        self._detector = Detector(artifact, backend=backend)
        self._request = request
        self._intervals = intervals

    def __call__(self, table: Any) -> Any:  # noqa: ANN401
        """Count the rows of a pyarrow.Table."""
        counter = BatchCounter(self._detector, table.schema, self._request, self._intervals)
        return table_of(ScoreCounts.total(map(counter.count, table.combine_chunks().to_batches())))


def _add_up(table: Any) -> Any:  # noqa: ANN401
    return table_of(counts_of(table))


class _Worker:
    """Scores batches in a process of Ray; of a model with memory, a series at a time.

    Parameters
    ----------
    artifact : Artifact
    request : ScoringRequest
    backend : str
    order : str, optional
        Column by which the rows of a batch, a whole series, are put in order.
    """

    def __init__(
        self, artifact: Artifact, request: ScoringRequest, backend: str, order: str | None = None
    ) -> None:
        self._detector = Detector(artifact, backend=backend)
        self._request = request
        self._order = order

    def __call__(self, table: Any) -> Any:  # noqa: ANN401
        """Score a pyarrow.Table."""
        if self._order is not None:
            table = table.sort_by(self._order)
        scorer = RecordBatchScorer(self._detector, table.schema, self._request)
        scored = [scorer.score(batch) for batch in table.combine_chunks().to_batches()]
        return pa.Table.from_batches(scored, scorer.schema)
