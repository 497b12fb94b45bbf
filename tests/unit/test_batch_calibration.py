"""The threshold of all rows of an engine, as the driver finds it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from datasentinel import batch_calibration
from datasentinel.artifact import load_artifact
from datasentinel.batch_calibration import (
    BatchCounter,
    calibrate_by_counts,
    counts_of,
    require_no_memory,
    table_of,
)
from datasentinel.detector import Detector
from datasentinel.errors import DataError, InvalidInputError, UnsupportedModelError
from datasentinel.score_counts import ScoreCounts
from datasentinel.scoring import ScoringRequest, scoring_roles
from tests.networks import Network, write_artifact

D = 6


@pytest.fixture
def artifact(tmp_path):
    onnx = Network.random([D, 4, D]).to_onnx()
    return load_artifact(write_artifact(tmp_path, onnx, input_dim=D, threshold=4.0))


@pytest.fixture
def table():
    values = np.random.default_rng(0).normal(0, 2, (1000, D)).astype(np.float32)
    return pa.table({f"f{i}": values[:, i] for i in range(D)})


def calibrated(artifact, passes, trained_on, backend):
    """Calibrate on tables, one for each pass."""
    request = ScoringRequest(scoring_roles())
    detector = Detector(artifact, backend="fused")
    tables = iter(passes)

    def count(intervals):
        (batch,) = next(tables).combine_chunks().to_batches()
        return BatchCounter(detector, batch.schema, request, intervals).count(batch)

    return calibrate_by_counts(
        artifact, request, count, trained_on=trained_on, target_fpr=0.01, backend=backend
    )


def test_rows_that_change_between_the_passes_are_refused(artifact, table):
    before = (artifact.directory / "config.json").read_bytes()
    for trained_on in (None, table.slice(0, 100)):
        with pytest.raises(DataError, match="the data changed between the two passes"):
            calibrated(artifact, [table, table.slice(0, 900)], trained_on, "fused")
    assert (artifact.directory / "config.json").read_bytes() == before
    assert calibrated(artifact, [table, table], table.slice(0, 100), "fused").rows == 900


def test_rows_trained_on_are_scored_once(artifact, table, monkeypatch):
    detectors = []

    def load(*args, **kwargs):
        detectors.append(Detector(*args, **kwargs))
        return detectors[-1]

    monkeypatch.setattr(batch_calibration, "Detector", load)
    calibrated(artifact, [table, table], table.slice(0, 100), "fused")
    (detector,) = detectors
    assert detector.scorer.counts["rows"] == 100


def test_rows_are_not_taken_away_by_scores_of_a_backend_that_may_be_another(artifact, table):
    with pytest.raises(InvalidInputError, match='name one, such as "fused"'):
        calibrated(artifact, [], table.slice(0, 100), "auto")
    assert calibrated(artifact, [table, table], None, "auto").rows == 1000


def test_counts_of_many_workers_add_up_in_a_table():
    scores = np.random.default_rng(0).exponential(size=1000).astype(np.float32)
    parts = [table_of(ScoreCounts.coarse(part)) for part in np.array_split(scores, 7)]
    added, whole = counts_of(pa.concat_tables(parts)), ScoreCounts.coarse(scores)
    np.testing.assert_array_equal(added.keys, whole.keys)
    np.testing.assert_array_equal(added.counts, whole.counts)


def test_what_cannot_be_calibrated_by_counts_is_refused(artifact, table):
    with pytest.raises(DataError, match="target_fpr must be between 0 and 1, got 1"):
        calibrate_by_counts(
            artifact, ScoringRequest(scoring_roles()), None, trained_on=None, target_fpr=1.0, backend="fused"
        )
    require_no_memory(artifact)
    with_memory = replace(artifact, config=replace(artifact.config, state={"size": 1, "warm_up_rows": 0}))
    with pytest.raises(UnsupportedModelError, match="calibrated on recordings, in order"):
        require_no_memory(with_memory)
