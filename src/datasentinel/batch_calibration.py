"""Calibration on all rows of an engine: it counts scores, and the counts tell the threshold."""

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

    def rows(self, batch: Any) -> Float32Array:  # noqa: ANN401
        """Return the features of a batch's good rows, shape [n, D]."""
        values: Float32Array = self._layout.chunk(batch).values
        return values

    def count(self, batch: Any) -> ScoreCounts:  # noqa: ANN401
        """Count the scores of a pyarrow.RecordBatch."""
        scores = self._detector.score(self.rows(batch))
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
    backend : str
        That `count` scores on.

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
    detector = Detector(artifact, backend=backend)
    batches = [] if trained_on is None else trained_on.combine_chunks().to_batches()

    def left_out(intervals: Keys | None) -> ScoreCounts:
        if not batches:
            return ScoreCounts.total([])
        counter = BatchCounter(detector, trained_on.schema, request, intervals)
        return ScoreCounts.total(map(counter.count, batches))

    all_coarse = count(None)
    coarse = all_coarse.without(left_out(None))
    intervals = intervals_to_count(coarse, target_fpr)
    all_fine = count(intervals)
    require_same_rows(all_coarse, all_fine, intervals)
    fine = all_fine.without(left_out(intervals))
    rows = None
    if batches:
        counter = BatchCounter(detector, trained_on.schema, request)
        rows = np.concatenate([counter.rows(batch) for batch in batches])
    calibration = calibrate_counts(coarse, fine, target_fpr=target_fpr, rows=rows)
    config = dataclasses.replace(
        artifact.config, threshold=calibration.threshold, calibration=calibration.facts()
    )
    save_config(artifact.directory, config)
    return calibration
