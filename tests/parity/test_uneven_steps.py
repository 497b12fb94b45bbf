"""Half-lives that count time: what is remembered fades by the time between rows, however uneven that is."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from datasentinel.artifact import Artifact, format_config, load_artifact, parse_config
from datasentinel.cli import cli
from datasentinel.detector import Detector
from datasentinel.errors import ArtifactError
from datasentinel.export import build_artifact
from datasentinel.streams import StreamDetector
from datasentinel.training import TrainingSettings, train
from datasentinel.training.memory import exponential_average
from datasentinel.training.recording import Order
from tests.recordings import oscillations

ROW_S = 10.0
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def uneven_times(rows, seed=0):
    """Return times of rows some of which come in bursts, and some late."""
    steps = np.random.default_rng(seed).choice([0.1, 1.0, 1.0, 1.0, 3.0, 7.5], rows)
    return 1.7e9 + ROW_S * np.cumsum(steps)


def order_of(times_s):
    return Order(row_s=ROW_S, times_s=times_s)


@pytest.fixture(scope="module")
def trained():
    rows = oscillations(3000)
    settings = TrainingSettings(model="context", half_lives=(8.0, 32.0))
    result = train(rows, settings=settings, order=order_of(uneven_times(3000)))
    built = build_artifact(result, rows=rows)
    return result.model, Artifact(Path("model"), built.config, built.onnx)


def test_an_average_fades_by_the_time_between_rows():
    """A burst of ten rows of a tenth of a step each weighs as much as one row."""
    values = np.array([[0.0], *[[1.0]] * 10, [1.0]])
    steps = np.array([1.0, *[0.1] * 10, 5.0])
    averages = exponential_average(values, 4.0, steps=steps)
    assert averages[10, 0] == pytest.approx(1 - 0.5 ** (1 / 4))
    assert averages[11, 0] == pytest.approx(1 - 0.5 ** (6 / 4))


@pytest.mark.parametrize("backend", ["onnxruntime", "fused"])
def test_a_state_does_not_drift_over_ten_thousand_uneven_rows(trained, backend):
    model, artifact = trained
    rows, times_s = oscillations(10_000, seed=3), uneven_times(10_000, seed=4)
    rows[4000:4100, 2] *= 3
    expected = model.score(rows, (0,), order_of(times_s).steps())
    streams = StreamDetector(Detector(artifact, backend=backend))
    scores, warming = streams.scan(rows, "a", times_s.tolist())
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4 * np.median(expected))
    seen = np.cumsum([1, *np.diff(times_s) / ROW_S])
    unclear = np.abs(seen - 97) < 0.1
    np.testing.assert_array_equal(warming[~unclear], (seen < 97)[~unclear])
    assert 20 < warming.sum() < 80  # Steps are 2.3 times the usual on average.


@pytest.mark.parametrize("backend", ["onnxruntime", "fused"])
def test_streams_side_by_side_fade_each_by_its_own_times(trained, backend):
    _, artifact = trained
    detector = Detector(artifact, backend=backend)
    recordings = [(oscillations(60, i), uneven_times(60, i)) for i in range(5)]
    alone = [StreamDetector(detector).scan(rows, "a", times.tolist())[0] for rows, times in recordings]
    together = StreamDetector(detector)
    for turn in range(60):
        rows = np.stack([rows[turn] for rows, _ in recordings])
        times = [float(times[turn]) for _, times in recordings]
        scores, _ = together.update_many(rows, list("abcde"), times)
        np.testing.assert_allclose(scores, [scores[turn] for scores in alone], **CLOSE)


def test_rows_at_the_usual_step_and_rows_without_times_are_the_same(trained):
    model, artifact = trained
    rows = oscillations(300, seed=5)
    even = 1.7e9 + ROW_S * np.arange(300)
    detector = Detector(artifact, backend="fused")
    with_times, _ = StreamDetector(detector).scan(rows, "a", even.tolist())
    np.testing.assert_allclose(with_times, detector.score(rows), **CLOSE)
    np.testing.assert_allclose(model.score(rows, (0,), order_of(even).steps()), model.score(rows), rtol=1e-6)


def test_uneven_rows_that_are_taken_for_even_score_otherwise(trained):
    model, _ = trained
    rows, times_s = oscillations(500, seed=6), uneven_times(500, seed=7)
    taken_for_even = model.score(rows)
    faded = model.score(rows, (0,), order_of(times_s).steps())
    assert np.median(np.abs(faded / taken_for_even - 1)[100:]) > 0.05


def test_config_names_the_step_and_older_readers_refuse(trained, tmp_path):
    config = trained[1].config
    assert config.format_version == 3
    assert config.state["layout"] == ["averages", "variabilities", "extra_steps", "rows"]
    assert config.row_s == ROW_S
    with pytest.raises(ArtifactError, match="'row_s' needs format_version 3"):
        parse_config(format_config(replace(config, format_version=2)), where=tmp_path)
    document = json.loads(format_config(config))
    document["state"]["row_s"] = 0
    with pytest.raises(ArtifactError, match="'row_s' must be greater than 0"):
        parse_config(json.dumps(document).encode(), where=tmp_path)


def write(path, rows, times_s, columns="abcdefg"):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ts", *columns])
        writer.writerows([time_s, *row.tolist()] for time_s, row in zip(times_s, rows, strict=True))
    return path


def test_the_command_line_counts_time(tmp_path):
    def datasentinel(*arguments, exit_code=0):
        result = CliRunner().invoke(cli, list(map(str, arguments)))
        assert result.exit_code == exit_code, result.output
        return result

    data = write(tmp_path / "train.csv", oscillations(3000), uneven_times(3000))
    models = tmp_path / "models"
    options = ("--model", "context", "--half-life", "80s,320s", "--time", "ts", "--out", models)
    datasentinel("train", data, *options)
    config = load_artifact(models).config
    assert config.row_s == pytest.approx(ROW_S)
    assert config.state["half_lives_rows"] == pytest.approx([8, 32])
    rows, times_s = oscillations(300, seed=8), uneven_times(300, seed=9)
    new = write(tmp_path / "new.csv", rows, times_s)
    scored = list(csv.DictReader(datasentinel("score", new, "--model", models).stdout.splitlines()))
    streams = StreamDetector(Detector.load(models))
    expected, _ = streams.scan(rows[:, :6], "a", times_s.tolist())  # One column never moves.
    np.testing.assert_allclose([float(row["score"]) for row in scored], expected, **CLOSE)
    untimed = tmp_path / "untimed.csv"
    untimed.write_text("".join(line.partition(",")[2] + "\n" for line in new.read_text().splitlines()))
    refused = datasentinel("score", untimed, "--model", models, exit_code=1)
    assert "half-lives are times: name the column of times with --time" in str(refused.exception)
    refused = datasentinel("train", data, *options, "--test", data, exit_code=1)
    assert "--test knows no times" in str(refused.exception)
