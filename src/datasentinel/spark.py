"""Scoring of Spark data frames: the model travels once to each worker, and rows stay Arrow batches.

>>> from datasentinel.spark import score                                      # doctest: +SKIP
>>> scored = score(spark.table("telemetry"), "models/", keep=["host"])        # doctest: +SKIP
>>> scored.where("anomaly").createOrReplaceTempView("anomalies")              # doctest: +SKIP
"""

from __future__ import annotations

import atexit
import hashlib
import pickle
import shutil
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasentinel.artifact import load_artifact
from datasentinel.batch_calibration import (
    BatchCounter,
    calibrate_by_counts,
    counts_of,
    require_no_memory,
    table_of,
)
from datasentinel.detector import Detector
from datasentinel.errors import MissingDependencyError
from datasentinel.record_batches import BatchLayout, RecordBatchScorer
from datasentinel.score_counts import ScoreCounts
from datasentinel.scoring import scoring_request

try:
    from pyspark import SparkFiles
except ImportError as error:
    raise MissingDependencyError('Spark is needed: pip install "datasentinel[spark]"') from error

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from datasentinel.artifact import Artifact
    from datasentinel.calibration import Calibration
    from datasentinel.score_counts import Keys
    from datasentinel.scoring import ScoringRequest

# Of the columns that scoring adds, in Spark's words.
_TYPES = {
    "score": "float",
    "anomaly": "boolean",
    "error": "string",
    "severity": "float",
    "p_value": "double",
    "reasons": "array<struct<feature: string, value: float, expected: float, share: float>>",
    "warming": "boolean",
}


def score(
    df: Any,  # noqa: ANN401
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
) -> Any:  # noqa: ANN401
    """Score the rows of a data frame on the workers of a Spark cluster, as `datasentinel score` does.

    Nothing is computed until an action asks for rows. The artifact is shipped with `SparkContext.addFile`,
    and a Python worker loads it once; datasentinel must be installed where they run.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
    model : path-like
        The artifact, on the driver's machine.
    features, ignore, time, id, keep, p_values, explain, alarm_budget
        As for `datasentinel.scoring.scoring_request`. For a model with memory the rows are partitioned by
        `id` and sorted by `time` within, and a series of any length is scored in bounded memory.
    backend : str
        As for `Detector.load`; with "fused" a row's score has the same bits on all workers of one CPU type.

    Returns
    -------
    pyspark.sql.DataFrame
        A row for each, with the columns that `scoring_request` describes.

    Raises
    ------
    DataError
        The data frame lacks columns, or those that a model with memory needs are not named.
    InvalidInputError, UnsupportedModelError
        As for `ScoringRequest.outputs`.
    ModelNotFoundError, ArtifactError
        As for `Detector.load`.
    """
    request = scoring_request(
        features, ignore, time, id, keep, p_values=p_values, explain=explain, alarm_budget=alarm_budget
    )
    artifact = load_artifact(model)
    layout = BatchLayout(artifact.config, _schema_of(df), request)
    if layout.has_memory:
        series, order = layout.series_order()
        df = df.repartition(_quoted(series)).sortWithinPartitions(_quoted(series), _quoted(order))
    file = _ship(df.sparkSession.sparkContext, artifact)
    work = partial(_score_partition, file=file, request=request, backend=backend)
    return df.mapInArrow(work, _output_type(df.schema, layout))


def sample(df: Any, rows: int, *, seed: int) -> Any:  # noqa: ANN401
    """Draw about so many rows, each with the same chance, and bring them here to train on.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
    rows : int
        At least 1; all rows of a smaller data frame.
    seed : int
        The same partitions give the same sample.

    Returns
    -------
    pyarrow.Table
    """
    share = rows / max(rows, df.count())
    return (df if share == 1 else df.sample(fraction=share, seed=seed)).toArrow()


def calibrate(
    df: Any,  # noqa: ANN401
    model: str | os.PathLike[str],
    *,
    trained_on: Any = None,  # noqa: ANN401
    target_fpr: float = 0.01,
    features: Sequence[str] = (),
    ignore: Sequence[str] = (),
    time: str | None = None,
    backend: str = "fused",
) -> Calibration:
    """Move a model's threshold to suit all normal rows of a data frame.

    The rows are scored twice, and only counts travel (`datasentinel.score_counts`): the threshold is the one
    that `datasentinel.calibration.calibrate` would find among all scores by the method "conformal", and
    p-values are at most 4 % greater.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
        Normal rows; leave out what is labelled as an anomaly.
    model : path-like
        The artifact; its config.json is written.
    trained_on : pyarrow.Table, optional
        Rows of `df` that the model was trained on, as `sample` returned them: they do not count.
    target_fpr, backend
        As for `datasentinel.batch_calibration.calibrate_by_counts`.
    features, ignore, time
        As for `score`.

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
    BatchLayout(artifact.config, _schema_of(df), request)
    file = _ship(df.sparkSession.sparkContext, artifact)

    def count(intervals: Keys | None) -> ScoreCounts:
        work = partial(_count_partition, file=file, request=request, backend=backend, intervals=intervals)
        counted = df.mapInArrow(work, "key long, count long")
        return counts_of(counted.groupBy("key").sum("count").toDF("key", "count").toArrow())

    return calibrate_by_counts(
        artifact, request, count, trained_on=trained_on, target_fpr=target_fpr, backend=backend
    )


def _schema_of(df: Any) -> Any:  # noqa: ANN401
    return df.limit(0).toArrow().schema


def _output_type(schema: Any, layout: BatchLayout) -> str:  # noqa: ANN401
    """Return the output's columns in Spark's words; those handed through keep the type that they have."""
    kept = {told: schema[name].dataType.simpleString() for name, told in layout.outputs.kept_as.items()}
    return ", ".join(f"{_quoted(name)} {kept.get(name) or _TYPES[name]}" for name in layout.schema.names)


def _quoted(name: str) -> str:
    """Return a column's name as Spark's expressions take it, whatever is in it."""
    return "`" + name.replace("`", "``") + "`"


def _ship(context: Any, artifact: Artifact) -> str:  # noqa: ANN401
    """Send an artifact to all workers, those to come too; return its name for `SparkFiles`."""
    content = pickle.dumps(artifact)
    name = f"datasentinel-{hashlib.sha256(content).hexdigest()[:32]}.pickle"
    if not any(path.endswith(name) for path in context.listFiles):
        # Workers that come later ask for the file, too, so it stays while the driver runs.
        file = Path(tempfile.mkdtemp(prefix="datasentinel-")) / name
        file.write_bytes(content)
        atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
        context.addFile(str(file))
    return name


def _score_partition(
    batches: Iterable[Any], file: str, request: ScoringRequest, backend: str
) -> Iterator[Any]:
    scorer: RecordBatchScorer | None = None
    for batch in batches:
        if scorer is None:
            scorer = RecordBatchScorer(_detector(SparkFiles.get(file), backend), batch.schema, request)
        yield scorer.score(batch)


def _count_partition(
    batches: Iterable[Any], file: str, request: ScoringRequest, backend: str, intervals: Keys | None
) -> Iterator[Any]:
    detector = _detector(SparkFiles.get(file), backend)
    counts = ScoreCounts.total(
        BatchCounter(detector, batch.schema, request, intervals).count(batch) for batch in batches
    )
    yield from table_of(counts).to_batches()


@lru_cache(maxsize=4)
def _detector(path: str, backend: str) -> Detector:
    """Load a model once for all partitions that this worker's process sees."""
    # The driver wrote it, as it wrote the function that is running.
    artifact: Artifact = pickle.loads(Path(path).read_bytes())  # noqa: S301
    return Detector(artifact, backend=backend)
