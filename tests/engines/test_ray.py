"""Ray Data on a local cluster with two workers, beside one process."""

from __future__ import annotations

import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from datasentinel.cli import cli
from datasentinel.errors import DataError, UnsupportedModelError
from tests.engines.kit import (
    assert_same,
    assert_same_calibration,
    calibrated_in_one_process,
    kill_one_of_ours,
    score_in_one_process,
)

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-engines")
from datasentinel.ray import calibrate_dataset, sample_dataset, score_dataset  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Ray and what it brings along warn of one another, and leave their own files to the interpreter's end.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def collected(ds):
    return pa.concat_tables(ray.get(ds.to_arrow_refs()), promote_options="default")


def test_rows_are_scored_as_in_one_process(tables, model):
    expected = score_in_one_process(tables, model, "--keep", "key,host", "--explain", "2", "--p-values")
    scored = score_dataset(
        ray.data.read_parquet(str(tables)), model, keep=["key", "ho*"], explain=2, p_values=True,
        backend="fused", concurrency=2, batch_rows=500,
    )  # fmt: skip
    assert_same(collected(scored), expected)


def test_no_row_is_lost_or_doubled_when_a_worker_is_killed(tables, model):
    expected = score_in_one_process(tables, model)

    def pause(table):
        time.sleep(0.3)
        return table

    rows = ray.data.read_parquet(str(tables)).repartition(24)
    slow = rows.map_batches(pause, batch_size=None, batch_format="pyarrow")
    scored = score_dataset(slow, model, keep=["key"], backend="fused", concurrency=2, batch_rows=500)
    parts = []
    for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        parts.append(batch)
        if len(parts) == 1:
            kill_one_of_ours("_Worker")
    assert len(parts) > 4
    assert_same(pa.concat_tables(parts), expected)


def test_series_are_scored_in_order_of_time(recordings, model_with_memory):
    expected = score_in_one_process(recordings, model_with_memory)
    shuffled = ray.data.read_parquet(str(recordings)).random_shuffle(seed=0)
    scored = score_dataset(shuffled, model_with_memory, keep=["key"], backend="fused", concurrency=2)
    assert_same(collected(scored), expected)


def test_what_cannot_be_scored_is_refused_at_once(tables, recordings, model, model_with_memory):
    rows = ray.data.read_parquet(str(tables))
    with pytest.raises(DataError, match="lacks columns that the model needs: 'f7'"):
        score_dataset(rows.drop_columns(["f7"]), model)
    with pytest.raises(DataError, match="it needs the column `id`"):
        score_dataset(ray.data.read_parquet(str(recordings)).drop_columns(["host"]), model_with_memory)


def test_the_command_scores_on_ray(tables, model, tmp_path):
    expected = score_in_one_process(tables, model)
    out = tmp_path / "scores"
    arguments = [
        "score",
        str(tables / "*.parquet"),
        "--model",
        str(model),
        "--backend",
        "fused",
        "--keep",
        "key",
    ]
    done = CliRunner().invoke(cli, [*arguments, "--engine", "ray", "--workers", "2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    scored = pq.read_table(out)
    assert_same(scored, expected)
    bad = scored["error"].is_valid().to_pylist().count(True)
    anomalies = scored["anomaly"].to_pylist().count(True)
    assert f"{len(scored)} rows, {anomalies} anomalies, {bad} bad rows" in done.output
    again = CliRunner().invoke(cli, [*arguments, "--engine", "ray", "--out", str(out)])
    assert isinstance(again.exception, DataError)
    assert "is there already" in str(again.exception)


def test_a_fault_in_a_worker_is_told_in_its_own_words(tables, model, tmp_path):
    broken = tmp_path / "rows"
    broken.mkdir()
    table = pq.read_table(tables / "00.parquet")
    words = pa.array(["a word"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("f1"), "f1", words), broken / "0.parquet")
    done = CliRunner().invoke(
        cli, ["score", str(broken), "--model", str(model), "--engine", "ray", "--out", str(tmp_path / "out")]
    )
    assert isinstance(done.exception, DataError)
    assert "column 'f1' holds string, not numbers" in str(done.exception)


def test_the_threshold_is_found_on_all_rows_but_those_trained_on(tables, model, tmp_path):
    rows = ray.data.read_parquet(str(tables))
    sample = sample_dataset(rows, 3000, seed=1)
    again = sample_dataset(rows, 3000, seed=1)
    assert set(again["key"].to_pylist()) == set(sample["key"].to_pylist())
    assert 2500 < len(set(sample["key"].to_pylist())) == len(sample) < 3500
    expected = calibrated_in_one_process(tables, model, sample, 0.01)
    copy = shutil.copytree(model, tmp_path / "models")
    found = calibrate_dataset(rows, copy, trained_on=sample, backend="fused", concurrency=2, batch_rows=500)
    assert_same_calibration(found, expected, copy)


def test_models_with_memory_are_not_calibrated_on_rows_in_no_order(recordings, model_with_memory):
    with pytest.raises(UnsupportedModelError, match="datasentinel recalibrate"):
        calibrate_dataset(ray.data.read_parquet(str(recordings)), model_with_memory)
