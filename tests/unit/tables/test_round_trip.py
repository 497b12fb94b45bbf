"""A table with a time, an id, a label and text is the same to everything that reads tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from datasentinel import AutoencoderDetector, Detector
from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.errors import DataWarning
from tests.networks import Network, write_artifact

ROWS = 300


@pytest.fixture(scope="module")
def frame():
    random = np.random.default_rng(0)
    values = random.normal(size=(ROWS, 2)) @ random.normal(size=(2, 4)) + 0.1 * random.normal(size=(ROWS, 4))
    frame = pd.DataFrame(values, columns=list("abcd"))
    frame.insert(0, "ts", pd.date_range("2026-01-01", periods=ROWS, freq="min"))
    frame.insert(2, "host", [f"web-{i % 3}" for i in range(ROWS)])
    frame.insert(4, "label", np.where(np.arange(ROWS) % 50 == 7, "attack", "normal"))
    return frame


@pytest.fixture(scope="module")
def model(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    frame.to_csv(folder / "train.csv", index=False)
    arguments = ["train", folder / "train.csv", "--out", folder / "m", "--steps", "20", "--id", "host"]
    cli.main(list(map(str, arguments)), standalone_mode=False)
    return folder / "m"


@pytest.fixture(scope="module")
def expected(model, frame):
    return Detector.load(model).score(frame[list("abcd")].to_numpy(np.float32))


def test_the_artifact_knows_the_columns(model):
    config = load_artifact(model).config
    assert config.feature_names == tuple("abcd")
    assert config.columns == {"time": "ts", "id": "host", "label": "label"}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".jsonl", "-reordered.csv", "-index.csv"])
def test_files(model, frame, expected, tmp_path, suffix):
    data = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(data)
    elif suffix == ".jsonl":
        frame.to_json(data, orient="records", lines=True, date_format="iso", double_precision=15)
    elif "reordered" in suffix:
        frame[frame.columns[::-1]].to_csv(data, index=False)
    else:
        frame.to_csv(data, index="index" in suffix)
    out = tmp_path / "scores.parquet"
    arguments = ["score", data, "--model", model, "--out", out, "--keep", "label", "--threads", "2"]
    cli.main(list(map(str, arguments)), standalone_mode=False)
    scores = pq.read_table(out)
    assert scores.column_names[:4] == ["row", "ts", "host", "label"]
    np.testing.assert_array_equal(scores.column("score").to_numpy(), expected)
    assert scores.column("host").to_pylist() == frame["host"].tolist()
    assert scores.column("label").to_pylist() == frame["label"].tolist()


def test_scores_of_json_lines_carry_what_they_are_asked_to(model, frame, tmp_path):
    frame.to_csv(tmp_path / "data.csv", index=False)
    arguments = ["score", tmp_path / "data.csv", "--model", model, "--out", tmp_path / "scores.jsonl"]
    cli.main(list(map(str, arguments)), standalone_mode=False)
    first = json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0])
    assert first["ts"] == "2026-01-01 00:00:00"
    assert first["host"] == "web-0"


def test_frames_and_the_estimator(model, frame, expected):
    detector = Detector.load(model)
    estimator = AutoencoderDetector.load(model)
    for made in (frame, pl.from_pandas(frame), frame[frame.columns[::-1]]):
        np.testing.assert_array_equal(detector.score(made), expected)
    np.testing.assert_array_equal(estimator.score_samples(frame), expected)


def test_the_estimator_leaves_out_what_is_no_feature(frame):
    with pytest.warns(DataWarning) as warned:
        fitted = AutoencoderDetector(steps=20, id="host").fit(frame)
    assert any("column 'ts' is left out: timestamps" in str(warning.message) for warning in warned)
    assert list(fitted.feature_names_in_) == list("abcd")
    assert fitted.artifact_.config.columns == {"time": "ts", "id": "host", "label": "label"}
    assert len(fitted.labels_) == ROWS
    assert fitted.predict(frame).shape == (ROWS,)
    assert fitted.artifact_.config.training["rows"] <= (frame["label"] == "normal").sum()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_a_model_cannot_tell_has_no_column(tmp_path, suffix):
    """A threshold that is not positive leaves severity out; p-values come where there are some to compare with."""
    table = {"rows": 40, "score_table": {"scores": [0.5, 1.0, 2.0, 4.0], "greater": [30, 20, 10, 0]}}
    onnx = Network.random([3, 2, 3]).to_onnx()
    folder = write_artifact(tmp_path / "m", onnx, input_dim=3, threshold=-1.0, calibration=table)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(5, 3)))
    out = tmp_path / f"scores{suffix}"
    arguments = ["score", tmp_path / "rows.npy", "--model", folder, "--out", out, "--p-values"]
    cli.main(list(map(str, arguments)), standalone_mode=False)
    if suffix == ".csv":
        columns = pd.read_csv(out)
    elif suffix == ".jsonl":
        columns = pd.read_json(out, lines=True)
    else:
        columns = pd.read_parquet(out)
    assert list(columns) == ["row", "score", "anomaly", "error", "p_value"]
    assert columns["p_value"].between(0, 1).all()
