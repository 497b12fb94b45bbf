from __future__ import annotations

import shutil
import subprocess
import threading
from dataclasses import replace

import numpy as np
import pytest
import yaml

from datasentinel.artifact import load_artifact
from datasentinel.detector import Detector
from datasentinel.distributed.prometheus import fitting
from datasentinel.distributed.prometheus.client import Grid, PrometheusClient
from datasentinel.distributed.prometheus.config import Endpoint, Model
from datasentinel.distributed.prometheus.fitting import (
    fetch_window,
    fit,
    load_fitted,
    restrict,
    training_rows,
)
from datasentinel.distributed.prometheus.samples import fetch
from datasentinel.distributed.prometheus.scoring import SeriesScorer
from datasentinel.distributed.prometheus.states import SeriesStates
from datasentinel.distributed.prometheus.training_process import TrainingProcess
from datasentinel.errors import ArtifactError, DataError
from tests.recordings import oscillations
from tests.unit.distributed.prometheus.fake_server import matrix, serving

ROWS = 600
# Without half-lives it would be seen that single rows of these columns are the steadiest alone.
MODEL = Model(
    half_lives=(8.0, 32.0),
    name="pumps",
    queries={"load": "0", "delay": "1"},
    by=("pump",),
    step=10.0,
    fit_window=10.0 * ROWS,
)
RECORDINGS = {f"pump-{i}": oscillations(1000, seed=i) for i in range(2)}


def answer(request):
    """The column that the query names of two pumps; the first row is that of moment 0."""
    first, last = (round(float(request.form[name]) / 10) for name in ("start", "end"))
    column, _, restriction = request.form["query"].removeprefix("(").partition(") and on (pump) ")
    return matrix(
        *(
            ({"pump": name}, [[10 * i, str(float(rows[i, int(column)]))] for i in range(first, last + 1)])
            for name, rows in RECORDINGS.items()
            if name in restriction or not restriction
        )
    )


def test_a_model_is_trained_on_the_window_and_found_again(tmp_path):
    with serving(answer) as server:
        client = PrometheusClient(Endpoint(url=server.url))
        fitted = fit(client, MODEL, tmp_path, last=700)
        again = fit(client, MODEL, tmp_path, last=710)
        fit(client, MODEL, tmp_path, last=720)
    assert [request.form["start"] for request in server.requests[:4]] == ["7000.000"] * 2 + ["1010.000"] * 2
    assert fitted.labels == ("pump",)
    assert fitted.artifact.config.feature_names == ("load", "delay")
    assert fitted.artifact.config.training["rows"] == 2 * ROWS
    assert fitted.artifact.config.gap_s == fitted.artifact.config.warm_up_rows * 10
    rows = np.ascontiguousarray(RECORDINGS["pump-0"][700:, :2])
    assert Detector(fitted.artifact).predict(rows).mean() < 0.2
    # The newest two versions are kept.
    assert sorted(folder.name for folder in (tmp_path / "pumps").iterdir()) == ["2", "3"]
    found = load_fitted(tmp_path, MODEL)
    assert (found.labels, found.fitted_to) == (("pump",), 720)
    assert load_artifact(tmp_path / "pumps" / "2").config.version == again.artifact.config.version


def test_of_more_rows_than_are_wanted_series_are_drawn_anew_for_each_part(monkeypatch):
    monkeypatch.setattr(fitting, "_PART_STEPS", 100)
    with serving(answer) as server:
        client = PrometheusClient(Endpoint(url=server.url))
        parts = fetch_window(client, replace(MODEL, max_rows=450), Grid(10.0, 101, ROWS))
    assert [part.grid.first for part in parts] == [101, 201, 301, 401, 501, 601]
    drawn = [part.keys for part in parts]
    assert all(len(keys) == 1 for keys in drawn)
    assert {("pump-0",), ("pump-1",)} == {key for keys in drawn for key in keys}
    values, series, moments = training_rows(parts, 450)
    assert (len(values), len(set(series.tolist())), moments[-1]) == (450, 5, 700)
    (name,) = drawn[-1][0]
    np.testing.assert_allclose(values[-100:], RECORDINGS[name][601:701, :2], rtol=1e-6)


def test_prometheus_understands_a_restricted_query(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    keys = [("a", 'quoted " and \\ $1'), ("b", "ü\n")]
    rule = {"record": "x", "expr": restrict("sum by (host, path) (load)", ("host", "path"), keys)}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": [rule]}]}))
    series = [
        ('load{host="a",path="quoted \\" and \\\\ $1"}', 1),
        ('load{host="b",path="ü\\n"}', 2),
        ('load{host="a",path="c"}', 3),
    ]
    test = {
        "input_series": [{"series": name, "values": f"{value}x10"} for name, value in series],
        "promql_expr_test": [
            {"expr": "sum(x)", "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": 3}]}
        ],
    }
    content = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "change",
    [{"queries": {"load": "0", "delay": "2"}}, {"step": 20.0}, {"by": ("host",)}, {"target_fpr": 0.001}],
)
def test_a_model_of_other_settings_is_not_taken(tmp_path, change):
    with serving(answer) as server:
        fit(PrometheusClient(Endpoint(url=server.url)), MODEL, tmp_path, last=700)
    assert load_fitted(tmp_path, replace(MODEL, **change)) is None
    # How often it is looked at changes nothing about what was learnt.
    assert load_fitted(tmp_path, replace(MODEL, infer_every=60.0)) is not None


def test_a_model_of_somebody_else_is_not_taken(tmp_path, detector):
    from datasentinel.artifact import save_artifact

    assert load_fitted(tmp_path, MODEL) is None
    save_artifact(tmp_path / "pumps" / "1", detector.artifact.onnx, detector.artifact.config)
    with pytest.raises(ArtifactError, match="was not trained by watch"):
        load_fitted(tmp_path, MODEL)


def test_a_model_without_memory_scores_from_the_first_row(tmp_path):
    model = replace(MODEL, half_lives=())
    with serving(answer) as server:
        client = PrometheusClient(Endpoint(url=server.url))
        detector = Detector(fit(client, model, tmp_path, last=700).artifact)
        samples = fetch(client, model.queries, Grid(10.0, 701, 50), model.by)
    assert detector.scorer.state_dim == 0
    states = SeriesStates.new("", 700, 0, 2)
    moments = list(SeriesScorer(detector, model).advance(states, samples))
    for place, name in enumerate(RECORDINGS):
        rows = np.ascontiguousarray(RECORDINGS[name][701:751, :2])
        assert all(moment.keys[place] == (name,) for moment in moments)
        severities = [moment.severity[place] for moment in moments]
        np.testing.assert_allclose(severities, detector.severity(rows), rtol=1e-4)
        np.testing.assert_array_equal([m.anomaly[place] for m in moments], detector.predict(rows))


def test_what_is_missing_is_named(tmp_path):
    def delay_only(request):
        return answer(request) if request.form["query"] == "1" else matrix()

    with serving(delay_only) as server, pytest.raises(DataError, match="no sample in the window of: load"):
        fit(PrometheusClient(Endpoint(url=server.url)), MODEL, tmp_path, last=700)


def test_series_that_share_no_labels_are_named(tmp_path):
    def apart(request):
        column = request.form["query"]
        return matrix(({"pump": f"{column}"}, [[float(request.form["end"]), "1"]]))

    with (
        serving(apart) as server,
        pytest.raises(DataError, match=r"none of 2 series has .* by the labels pump"),
    ):
        fit(PrometheusClient(Endpoint(url=server.url)), MODEL, tmp_path, last=700)


def test_a_training_in_a_process_of_its_own_leaves_its_model(tmp_path):
    with serving(answer) as server:
        training = TrainingProcess(Endpoint(url=server.url), MODEL, tmp_path, 700)
        training.result()
    assert load_fitted(tmp_path, MODEL).fitted_to == 700


def test_what_stops_a_training_in_a_process_of_its_own_is_told(tmp_path):
    with serving(lambda _: matrix()) as server:
        training = TrainingProcess(Endpoint(url=server.url), MODEL, tmp_path, 700)
        with pytest.raises(DataError, match="no sample in the window of: load, delay"):
            training.result()
        asked, go_on = threading.Event(), threading.Event()

    def wait(_):
        asked.set()
        go_on.wait(60)
        return matrix()

    with serving(wait) as server:
        training = TrainingProcess(Endpoint(url=server.url), MODEL, tmp_path, 700)
        assert asked.wait(120)
        assert not training.is_over()
        training._process.kill()
        with pytest.raises(DataError, match=r"the training's process ended: .*SIGKILL"):
            training.result()
        training = TrainingProcess(Endpoint(url=server.url), MODEL, tmp_path, 700)
        training.cancel()
        go_on.set()
