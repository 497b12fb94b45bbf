"""A detector and what carries names or masks: data frames, series, masked arrays; and its pickles."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from datasentinel import Detector
from datasentinel.artifact import load_artifact, save_artifact
from datasentinel.errors import InvalidInputError
from tests.networks import Network, write_artifact

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    onnx = Network.random([4, 2, 4]).to_onnx()
    folder = write_artifact(tmp_path_factory.mktemp("model"), onnx, input_dim=4, threshold=1.0)
    artifact = load_artifact(folder)
    columns = {"time": "ts", "label": "label", "ignored": ["host"]}
    config = dataclasses.replace(artifact.config, feature_names=NAMES, columns=columns)
    save_artifact(folder, artifact.onnx, config)
    return folder


@pytest.fixture(scope="module")
def detector(model):
    return Detector.load(model, backend="fused")


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(20, 4))


@pytest.fixture(scope="module")
def frame(rows):
    return pd.DataFrame(rows, columns=list(NAMES))


MAKERS = {
    "pandas": lambda frame: frame,
    "reordered": lambda frame: frame[list("dbca")],
    "float32": lambda frame: frame.astype("float32"),
    "nullable": lambda frame: frame.astype("Float64"),
    "one Arrow column": lambda frame: frame.astype({"b": "float64[pyarrow]"}),
    "objects": lambda frame: frame.astype(object),
    "polars": pl.from_pandas,
    "Arrow table": lambda frame: pa.Table.from_pandas(frame[list("badc")], preserve_index=False),
    "Arrow batch": lambda frame: pa.RecordBatch.from_pandas(frame, preserve_index=False),
    "with known others": lambda frame: frame.assign(ts="2026-01-01", host="web", label=1),
    "numbered": lambda frame: pd.DataFrame(frame.to_numpy()),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_frames_give_the_scores_of_their_rows(detector, rows, frame, kind):
    expected = detector.score(rows.astype(np.float32))
    made = MAKERS[kind](frame)
    np.testing.assert_array_equal(detector.score(made), expected)
    np.testing.assert_array_equal(detector.predict(made), detector.predict(rows))
    np.testing.assert_array_equal(detector.reconstruct(made), detector.reconstruct(rows))
    out = np.empty(len(rows), np.float32)
    assert detector.score(made, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_a_series_is_one_row_by_name(detector, rows, frame):
    expected = detector.score(rows[3])
    np.testing.assert_array_equal(detector.score(frame.iloc[3]), expected)
    np.testing.assert_array_equal(detector.score(frame.iloc[3][list("cadb")]), expected)


@pytest.mark.parametrize("integers", ["int8", "uint16", "Int64", "boolean"])
def test_integers_and_flags(detector, integers):
    values = np.arange(20).reshape(5, 4) % 2
    frame = pd.DataFrame(values, columns=list(NAMES)).astype(integers)
    np.testing.assert_array_equal(detector.score(frame), detector.score(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="c"), "x lacks columns that the model needs: 'c'"),
        (lambda frame: frame.rename(columns={"a": "A"}), "x lacks columns that the model needs: 'a'"),
        (lambda frame: frame.assign(z=1.0), "x has unknown columns: 'z'"),
        (lambda frame: frame[list("abcda")], "x has the column 'a' more than once"),
        (lambda frame: frame.assign(b="x"), "column 'b' must hold real numbers"),
        (lambda frame: frame.assign(b=pd.Timestamp("2026-01-01")), "column 'b' must hold real numbers"),
        (lambda frame: frame.assign(c=[None, *[1.0] * 19]), r"row 0, column 2 \('c'\)"),
        (
            lambda frame: frame.assign(c=pd.array([1.0] * 19 + [pd.NA], dtype="Float64")),
            r"row 19, column 2 \('c'\)",
        ),
        (lambda frame: pl.from_pandas(frame).with_columns(pl.lit(None, pl.Float64).alias("d")), r"'d'"),
        (lambda frame: frame.assign(c=1e39), "row 0, column 2 is outside float32's range"),
    ],
)
def test_frames_that_do_not_fit_are_named(detector, frame, change, message):
    with pytest.raises(InvalidInputError, match=message):
        detector.score(change(frame))


def test_masked_arrays(detector, rows):
    masked = np.ma.masked_array(rows.astype(np.float32), mask=np.zeros_like(rows, bool))
    np.testing.assert_array_equal(detector.score(masked), detector.score(rows))
    masked[2, 1] = np.ma.masked
    with pytest.raises(InvalidInputError, match="row 2, column 1 is masked"):
        detector.score(masked)
    with pytest.raises(InvalidInputError, match="row 0, column 1 is masked"):
        detector.predict(masked[2])


def test_a_detector_pickles(detector, rows):
    copy = pickle.loads(pickle.dumps(detector))
    assert (copy.backend, copy.feature_names, copy.threshold) == ("fused", NAMES, detector.threshold)
    np.testing.assert_array_equal(copy.score(rows), detector.score(rows))


def test_a_plan_for_a_frame_is_refused(detector, frame):
    with pytest.raises(InvalidInputError, match=r"x is a LazyFrame, .* collect\(\) it first"):
        detector.score(pl.from_pandas(frame).lazy())


@pytest.mark.parametrize("kind", ["pandas", "pandas of arrow", "polars", "arrow"])
def test_durations_are_seconds(detector, rows, frame, kind):
    took = np.arange(20) * 1500
    timed = frame.assign(b=pd.to_timedelta(took, unit="ms"))
    expected = rows.copy()
    expected[:, 1] = took / 1000
    asked = {
        "pandas": timed,
        "pandas of arrow": timed.astype({"b": "duration[ms][pyarrow]"}),
        "polars": pl.from_pandas(timed),
        "arrow": pa.Table.from_pandas(timed),
    }[kind]
    np.testing.assert_array_equal(detector.score(asked), detector.score(expected.astype(np.float32)))
