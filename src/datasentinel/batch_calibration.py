"""Calibration on all rows of an engine: it counts scores, and the threshold follows from the counts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.artifact import Artifact, save_config
from datasentinel.detector import Detector
from datasentinel.errors import DataError, InvalidInputError, UnsupportedModelError
from datasentinel.record_batches import BatchLayout
from datasentinel.score_counts import (
    ScoreCounts,
    calibrate_counts,
    intervals_to_count,
    require_same_rows,
)
from datasentinel.tables.arrow import import_pyarrow

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.artifact import Config
    from datasentinel.calibration import Calibration
    from datasentinel.score_counts import Keys
    from datasentinel.scoring import ScoringRequest
    from datasentinel.types import Float32Array


class BatchCounter:
    """Counts the scores of Arrow record batches of one schema; rows that cannot be scored are left out.

    Parameters
    ----------
    detector : Detector
    schema : pyarrow.Schema
        Of the batches.
    request : ScoringRequest
        Its roles say what the columns are.
    intervals : uint32 array, optional
        Where to count by number; by intervals without.
    """

    def __init__(
        self,
        detector: Detector,
        schema: Any,  # noqa: ANN401
        request: ScoringRequest,
        intervals: Keys | None = None,
    ) -> None:
        self._detector = detector
        self._layout = BatchLayout(detector.artifact.config, schema, request)
        self._intervals = intervals

    def count(self, batch: Any) -> ScoreCounts:  # noqa: ANN401
        """Count the scores of a pyarrow.RecordBatch."""
        scores = self._detector.score(self._layout.chunk(batch).values)
        if self._intervals is None:
            return ScoreCounts.coarse(scores)
        return ScoreCounts.fine(scores, self._intervals)


def table_of(counts: ScoreCounts) -> Any:  # noqa: ANN401
    """Return counts as a pyarrow.Table of `key` and `count`, both int64, as engines pass them on."""
    pa = import_pyarrow()
    return pa.table({"key": pa.array(counts.keys.astype(np.int64)), "count": pa.array(counts.counts)})


def counts_of(table: Any) -> ScoreCounts:  # noqa: ANN401
    """Return what `table_of` made a table of, or several that were put together."""
    keys, places = np.unique(table["key"].to_numpy(), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, places, table["count"].to_numpy())
    return ScoreCounts(keys.astype(np.uint32), counts)


def require_no_memory(artifact: Artifact) -> None:
    """Raise an UnsupportedModelError for a model whose scores depend on the rows before."""
    if artifact.config.state:
        raise UnsupportedModelError(
            f"{artifact.directory}: a model with memory is calibrated on recordings, in order: use "
            "`datasentinel recalibrate`"
        )


def calibrate_by_counts(
    artifact: Artifact,
    request: ScoringRequest,
    count: Callable[[Keys | None], ScoreCounts],
    *,
    trained_on: Any,  # noqa: ANN401
    target_fpr: float,
    backend: str,
) -> Calibration:
    """Find the conformal threshold of all rows but those trained on, and write it into the artifact.

    Parameters
    ----------
    artifact : Artifact
    request : ScoringRequest
    count : callable
        Counts the scores of all rows: by intervals for None, and by number in the intervals given.
    trained_on : pyarrow.Table or None
        Rows among them that the model was trained on.
    target_fpr : float
        Share of normal rows that may be called anomalies.
    backend : str
        That `count` scores on; with `trained_on` not "auto": rows are taken away by their scores, which must
        be the same everywhere.

    Raises
    ------
    DataError
        `target_fpr` is not between 0 and 1, the rows to leave out are not among those counted, the rows
        changed between the passes over them, or one has no finite score.
    InvalidInputError
        The backend is "auto" and there are rows to leave out.
    """
    if not 0 < target_fpr < 1:
        raise DataError(f"target_fpr must be between 0 and 1, got {target_fpr}")
    if backend == "auto" and trained_on is not None:
        raise InvalidInputError(
            'backend "auto" may choose another one here than on a worker, with scores that differ in the '
            "last bits, and then the rows trained on are not found among the others: name one, such as "
            '"fused"'
        )
    rows = None if trained_on is None else _rows_of(trained_on, artifact.config, request)
    left_out = np.empty(0, np.float32) if rows is None else Detector(artifact, backend=backend).score(rows)
    all_coarse = count(None)
    coarse = all_coarse.without(ScoreCounts.coarse(left_out))
    intervals = intervals_to_count(coarse, target_fpr)
    all_fine = count(intervals)
    require_same_rows(all_coarse, all_fine, intervals)
    fine = all_fine.without(ScoreCounts.fine(left_out, intervals))
    calibration = calibrate_counts(coarse, fine, target_fpr=target_fpr, rows=rows)
    config = dataclasses.replace(
        artifact.config, threshold=calibration.threshold, calibration=calibration.facts()
    )
    save_config(artifact.directory, config)
    return calibration


def _rows_of(table: Any, config: Config, request: ScoringRequest) -> Float32Array | None:  # noqa: ANN401
    """Return the features of a pyarrow.Table's good rows, shape [n, D]; None where there are none."""
    layout = BatchLayout(config, table.schema, request)
    rows = [layout.chunk(batch).values for batch in table.to_batches()]
    return np.concatenate(rows) if rows else None
