"""Spark in local-cluster mode with two workers, beside one process."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time

import pyarrow as pa
import pytest

from datasentinel.errors import DataError
from tests.engines.kit import (
    assert_same,
    assert_same_calibration,
    calibrated_in_one_process,
    kill_one_of_ours,
    score_in_one_process,
)

pyspark = pytest.importorskip("pyspark", reason="Spark is not installed: make test-engines")
if shutil.which("java") is None:
    pytest.skip("java is not installed (Debian: openjdk-17-jre-headless)", allow_module_level=True)
from pyspark.sql import SparkSession  # noqa: E402

from datasentinel.spark import calibrate, sample, score  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # PySpark warns of pandas 3, which is not used here, and leaves sockets to the interpreter's end.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    work = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("SPARK_WORKER_DIR", str(work))
        session = (
            SparkSession.builder.master("local-cluster[2,1,1024]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.execution.arrow.maxRecordsPerBatch", "500")
            .config("spark.sql.files.maxPartitionBytes", str(64 << 10))
            .config("spark.sql.files.openCostInBytes", "0")
            .config("spark.sql.shuffle.partitions", "4")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.executorEnv.DATASENTINEL_CACHE_DIR", os.environ["DATASENTINEL_CACHE_DIR"])
            .getOrCreate()
        )
        yield session
        session.stop()


def test_rows_are_scored_as_in_one_process(spark, tables, model):
    expected = score_in_one_process(tables, model, "--keep", "key,host", "--explain", "2", "--p-values")
    rows = spark.read.parquet(str(tables))
    scored = score(rows, model, keep=["key", "ho*"], explain=2, p_values=True, backend="fused")
    assert_same(scored.toArrow(), expected)
    scored.createOrReplaceTempView("scored")
    counted = spark.sql("select count(*) from scored where anomaly").toArrow()
    assert counted[0][0].as_py() == expected["anomaly"].to_pylist().count(True)


def test_no_row_is_lost_or_doubled_when_a_worker_is_killed(spark, tables, model):
    expected = score_in_one_process(tables, model)
    rows = spark.read.parquet(str(tables))

    def pause(batches):
        for batch in batches:
            time.sleep(0.5)
            yield batch

    slow = rows.mapInArrow(pause, rows.schema)
    scored = score(slow, model, keep=["key"], backend="fused")
    results: list[pa.Table] = []
    thread = threading.Thread(target=lambda: results.append(scored.toArrow()))
    thread.start()
    tracker = spark.sparkContext.statusTracker()
    until = time.monotonic() + 300
    while not any(
        (stage := tracker.getStageInfo(number)) and 0 < stage.numCompletedTasks < stage.numTasks
        for number in tracker.getActiveStageIds()
    ):
        assert thread.is_alive(), "all was scored before a worker could be killed"
        assert time.monotonic() < until
        time.sleep(0.05)
    kill_one_of_ours("CoarseGrainedExecutorBackend")
    assert thread.is_alive()
    thread.join()
    assert_same(results[0], expected)


def test_series_are_scored_in_order_of_time(spark, recordings, model_with_memory):
    expected = score_in_one_process(recordings, model_with_memory)
    shuffled = spark.read.parquet(str(recordings)).orderBy("f0")
    scored = score(shuffled, model_with_memory, keep=["key"], backend="fused").toArrow()
    order = expected.schema.field("ts").type
    scored = scored.set_column(scored.column_names.index("ts"), "ts", scored["ts"].cast(order))
    assert_same(scored, expected)


def test_what_cannot_be_scored_is_refused_at_once(spark, tables, recordings, model, model_with_memory):
    with pytest.raises(DataError, match="lacks columns that the model needs: 'f7'"):
        score(spark.read.parquet(str(tables)).drop("f7"), model)
    rows = spark.read.parquet(str(recordings))
    with pytest.raises(DataError, match="it needs the column `id`"):
        score(rows.drop("host"), model_with_memory)
    with pytest.raises(DataError, match="column 'ts' holds string, whose order need not be that of time"):
        score(rows.withColumn("ts", rows["ts"].cast("string")), model_with_memory)


def test_the_threshold_is_found_on_all_rows_but_those_trained_on(spark, tables, model, tmp_path):
    rows = spark.read.parquet(str(tables))
    drawn = sample(rows, 3000, seed=1)
    assert 2500 < len(set(drawn["key"].to_pylist())) == len(drawn) < 3500
    expected = calibrated_in_one_process(tables, model, drawn, 0.01)
    copy = shutil.copytree(model, tmp_path / "models")
    found = calibrate(rows, copy, trained_on=drawn, backend="fused")
    assert_same_calibration(found, expected, copy)
