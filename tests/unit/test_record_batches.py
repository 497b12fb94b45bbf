"""Record batches are scored as the rows of a Parquet file are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from datasentinel.artifact import save_artifact
from datasentinel.cli import cli
from datasentinel.detector import Detector
from datasentinel.errors import DataError, InvalidInputError, UnsupportedModelError
from datasentinel.record_batches import BatchLayout, RecordBatchScorer
from datasentinel.scoring import ScoringRequest
from datasentinel.tables import Roles
from tests.networks import Network, write_artifact
from tests.parity.test_context import train_with
from tests.recordings import oscillations

D = 6
TABLE = {"rows": 40, "score_table": {"scores": [0.5, 1.0, 2.0, 4.0], "greater": [30, 20, 10, 0]}}


def request(num_reasons=0, p_values=False, alarm_budget=None, **roles):
    return ScoringRequest(Roles(needs_label=False, **roles), p_values, num_reasons, alarm_budget)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    onnx = Network.random([D, 4, D]).to_onnx(with_contributions=True)
    folder = tmp_path_factory.mktemp("model")
    return write_artifact(folder, onnx, input_dim=D, threshold=4.0, calibration=TABLE)


@pytest.fixture(scope="module")
def table():
    values = np.random.default_rng(0).normal(0, 2, (1000, D))
    values[3, 1], values[500, 2] = np.nan, 1e300
    columns = {f"f{i}": pa.array(values[:, i]) for i in reversed(range(D))}
    columns["f4"] = pa.array(values[:, 4], mask=np.arange(1000) == 700)
    columns["host"] = pa.array(["a", "b"] * 500).dictionary_encode()
    columns["score"] = pa.array(range(1000), pa.int16())
    return pa.table(columns)


def scored_by_command(table, model, folder, *options):
    pq.write_table(table, folder / "rows.parquet")
    arguments = ["score", folder / "rows.parquet", "--model", model, "--out", folder / "scores.parquet"]
    done = CliRunner().invoke(cli, [*map(str, arguments), "--backend", "fused", *options])
    assert done.exit_code == 0, done.output
    return pq.read_table(folder / "scores.parquet")


def scored_by_batches(table, model, asked, rows=300, *, with_rows=True):
    scorer = RecordBatchScorer(
        Detector.load(model, backend="fused"), table.schema, asked, with_rows=with_rows
    )
    batches = table.combine_chunks().to_batches(max_chunksize=rows)
    return pa.Table.from_batches([scorer.score(batch) for batch in batches], scorer.schema)


def test_batches_give_what_the_command_writes(table, model, tmp_path):
    options = ("--keep", "host,score", "--explain", "2", "--p-values")
    expected = scored_by_command(table, model, tmp_path, *options)
    scored = scored_by_batches(table, model, request(2, True, keep=("host", "score")))
    assert scored.equals(expected)
    errors = [text for text in scored["error"].to_pylist() if text]
    assert errors == [
        "row 3: column 'f1': nan is not finite",
        "row 500: column 'f2': 1e+300 does not fit float32",
        "row 700: column 'f4': is missing",
    ]


def test_rows_without_an_order_have_no_number(table, model):
    scored = scored_by_batches(table, model, request(), with_rows=False)
    assert scored.column_names == ["score", "anomaly", "error", "severity"]
    assert scored["error"][3].as_py() == "column 'f1': nan is not finite"


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (request(-1), InvalidInputError, "at least 0, got -1"),
        (request(alarm_budget=0.1), DataError, "for models with memory"),
        (request(keep=("nowhere",)), DataError, "no column 'nowhere'"),
        (request(features=("f1", "f2")), DataError, "2 feature columns, but the model takes 6"),
    ],
)
def test_what_cannot_be_done_is_known_before_a_row_is_scored(table, model, asked, error, message):
    config = Detector.load(model, backend="fused").artifact.config
    with pytest.raises(error, match=message):
        BatchLayout(config, table.schema, asked)
    with pytest.raises(UnsupportedModelError, match="score_table"):
        BatchLayout(dataclasses.replace(config, calibration={}), table.schema, request(p_values=True))


def test_text_where_numbers_belong_is_named(table, model):
    words = table.set_column(table.column_names.index("f3"), "f3", pa.array(["a word"] * len(table)))
    with pytest.raises(DataError, match="column 'f3' holds string, not numbers"):
        scored_by_batches(words, model, request())


@pytest.fixture(scope="module")
def model_with_memory(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        _, built = train_with(patch, 100.0, oscillations(1500))
    config = dataclasses.replace(
        built.config,
        feature_names=tuple(f"f{i}" for i in range(built.config.input_dim)),
        columns={"time": "ts", "id": "host"},
        state={**built.config.state, "gap_s": 60.0},
    )
    return save_artifact(tmp_path_factory.mktemp("memory"), built.onnx, config)


@pytest.fixture(scope="module")
def recordings():
    values = np.stack([oscillations(200, seed=seed) for seed in range(3)], axis=1).reshape(600, -1)
    time_us = np.repeat(np.arange(200) * 1_000_000 + (np.arange(200) >= 120) * 90_000_000, 3)
    columns = {f"f{i}": values[:, i] for i in range(values.shape[1])}
    columns["ts"] = pa.array(1_700_000_000_000_000 + time_us, pa.timestamp("us", tz="UTC"))
    return pa.table(columns | {"host": ["a", "b", "c"] * 200})


def test_series_go_on_from_batch_to_batch(recordings, model_with_memory, tmp_path):
    expected = scored_by_command(recordings, model_with_memory, tmp_path)
    assert 0 < expected["warming"].to_pylist().count(True) < 600
    assert scored_by_batches(recordings, model_with_memory, request(), rows=77).equals(expected)


def test_rows_that_lie_in_no_order_need_the_columns_that_order_them(recordings, model_with_memory):
    config = Detector.load(model_with_memory, backend="fused").artifact.config
    assert BatchLayout(config, recordings.schema, request()).series_order() == ("host", "ts")
    for column, asked in (("host", "id"), ("ts", "time")):
        kept = recordings.drop_columns([column]).schema
        with pytest.raises(DataError, match=f"needs the column `{asked}`"):
            BatchLayout(config, kept, request()).series_order()
    place = recordings.column_names.index("ts")
    written = recordings.set_column(place, "ts", recordings["ts"].cast(pa.string()))
    with pytest.raises(DataError, match="'ts' holds string, whose order need not be that of time"):
        BatchLayout(config, written.schema, request()).series_order()


def test_a_season_takes_the_last_column_from_the_times_of_the_rows(table, model):
    config = dataclasses.replace(
        Detector.load(model, backend="fused").artifact.config,
        calendar={"time_zone": "UTC"},
        feature_names=(*(f"f{i}" for i in range(D - 1)), "second_of_week"),
        columns={"time": "ts"},
    )
    rows = table.drop_columns([f"f{D - 1}"])
    with pytest.raises(DataError, match="a season needs the times of the rows"):
        BatchLayout(dataclasses.replace(config, columns={}), rows.schema, request())
    monday_s = 1_704_067_200
    times = pa.array([monday_s + 60 * i for i in range(1000)], pa.timestamp("s", tz="UTC"))
    timed = rows.append_column("ts", times)
    (batch,) = timed.combine_chunks().to_batches()
    values = BatchLayout(config, timed.schema, request()).chunk(batch).values
    assert values.shape[1] == D
    assert values[:3, -1].tolist() == [0.0, 60.0, 120.0]
    dates = rows.append_column("ts", pa.array(["02/01/2024 00:01"] * 1000))
    (batch,) = dates.combine_chunks().to_batches()
    for order, weekday in (("day", 1), ("month", 3)):
        trained = dataclasses.replace(config, text_format={"date_order": order})
        values = BatchLayout(trained, dates.schema, request()).chunk(batch).values
        assert set(values[:, -1].tolist()) == {weekday * 86_400 + 60}


def test_a_row_of_no_known_time_is_not_scored(recordings, model_with_memory):
    missing = pa.array(recordings["ts"].to_pylist(), recordings["ts"].type, mask=np.arange(600) == 33)
    place = recordings.column_names.index("ts")
    scored = scored_by_batches(recordings.set_column(place, "ts", missing), model_with_memory, request())
    assert scored["score"][33].as_py() is None
    assert scored["error"][33].as_py() == "row 33: column 'ts': 'None' is not a time"
    assert scored["score"].null_count == 1
