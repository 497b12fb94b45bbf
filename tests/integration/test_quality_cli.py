"""`recalibrate`, `drift`, `evaluate` and `import` on files, in this process."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from sklearn import metrics

from datasentinel.artifact import load_artifact
from datasentinel.backend import inspect_model
from datasentinel.bench.report import load_report
from datasentinel.calibration import calibrate
from datasentinel.cli import cli
from datasentinel.detector import Detector
from datasentinel.errors import (
    DataError,
    DataSentinelError,
    InvalidInputError,
    SettingsError,
    UnsupportedModelError,
)
from datasentinel.events import AlarmRule, find_events, judge_events
from tests.networks import Network, write_artifact

D = 6


def datasentinel(*arguments, code=0):
    """Run the command line; an error raised on purpose comes through as it is."""
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(done.exception, DataSentinelError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def rows_of(count, seed, shift=0.0):
    random = np.random.default_rng(seed)
    causes = random.normal(size=(count, 2))
    values = causes @ np.random.default_rng(99).normal(size=(2, D)) + 0.1 * random.normal(size=(count, D))
    return (values + shift).astype(np.float32)


def write_csv(path, values, labels=None):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"f{i}" for i in range(D)), *(["label"] if labels is not None else [])])
        for i, row in enumerate(values.tolist()):
            writer.writerow([*row, *([int(labels[i])] if labels is not None else [])])
    return path


@pytest.fixture
def model(tmp_path):
    """An artifact calibrated on 1,000 rows, on the backend that everyone has."""
    network = Network.random([D, 4, 2, 4, D])
    rows = rows_of(1000, seed=1)
    plain = write_artifact(tmp_path / "plain", network.to_onnx(), input_dim=D, threshold=0.0)
    scores = Detector.load(plain).score(rows)
    calibration = calibrate(scores, method="conformal", target_fpr=0.05, rows=rows)
    return write_artifact(
        tmp_path / "model",
        network.to_onnx(),
        input_dim=D,
        threshold=calibration.threshold,
        calibration=calibration.facts(),
        of_another_tool={"kept": [1, 2]},
    )


def test_recalibrate_moves_threshold_and_p_values_and_nothing_else(model, tmp_path):
    values, labels = rows_of(2000, seed=2, shift=0.3), np.arange(2000) % 4 == 0
    values[labels] += 50
    before = load_artifact(model).config
    onnx_before = (model / "model.onnx").read_bytes()
    output = datasentinel(
        "recalibrate", model, write_csv(tmp_path / "d.csv", values, labels), "--target-fpr", 0.1
    )
    after = load_artifact(model).config
    assert (model / "model.onnx").read_bytes() == onnx_before
    changed = {f.name for f in dataclasses.fields(after) if getattr(before, f.name) != getattr(after, f.name)}
    assert changed == {"threshold", "calibration"}
    assert after.extra == {"of_another_tool": {"kept": [1, 2]}}
    assert (after.calibration["rows"], after.calibration["target_fpr"]) == (1500, 0.1)
    detector = Detector.load(model)
    rate = detector.predict(values[~labels]).mean()
    assert 0.09 < rate <= 0.1
    assert f"threshold {before.threshold:.6g}" in output
    assert f"threshold {after.threshold:.6g}, false-positive rate on these rows {rate:.4g}" in output
    np.testing.assert_allclose(np.mean(detector.p_values(values[~labels]) <= 0.1), 0.1, atol=0.003)
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.onnx"]


def test_recalibrate_says_when_there_are_too_few_rows(model, tmp_path):
    output = datasentinel("recalibrate", model, write_csv(tmp_path / "d.csv", rows_of(20, seed=3)))
    assert "at most 0.04762 is promised (less needs 99 rows or more)" in output
    assert "warning     the target is out of reach of 20 rows" in output
    before = (model / "config.json").read_bytes()
    with pytest.raises(DataError, match="9 normal rows to find a threshold on, at least 10 are needed"):
        datasentinel("recalibrate", model, write_csv(tmp_path / "d.csv", rows_of(9, seed=3)))
    assert (model / "config.json").read_bytes() == before


def test_recalibrate_needs_normal_rows(model, tmp_path):
    before = (model / "config.json").read_bytes()
    data = write_csv(tmp_path / "d.csv", rows_of(20, seed=3), np.ones(20, bool))
    with pytest.raises(DataError, match="holds 1, which does not say which rows are normal"):
        datasentinel("recalibrate", model, data)
    with pytest.raises(DataError, match="no normal rows"):
        datasentinel("recalibrate", model, data, "--normal", "0")
    assert (model / "config.json").read_bytes() == before


def test_no_drift_in_rows_of_the_same_kind(model, tmp_path):
    output = datasentinel("drift", model, write_csv(tmp_path / "d.csv", rows_of(800, seed=4)))
    assert "no need to retrain" in output
    assert "drifted" not in output.split("calibration rows")[0]


def test_drift_names_the_column_that_moved(model, tmp_path):
    values = rows_of(800, seed=5)
    values[:, 3] += 3
    data = write_csv(tmp_path / "d.csv", values)
    drift = json.loads(datasentinel("drift", model, data, "--json", code=3))
    assert drift["retrain"] is True
    states = {feature["name"]: feature["state"] for feature in drift["features"]}
    assert states == {f"f{i}": "drifted" if i == 3 else "stable" for i in range(D)}
    assert drift["rows"] == 800
    assert drift["features"][3]["ks"] > 10 * drift["features"][2]["ks"] > 0
    assert "retrain" in datasentinel("drift", model, data, code=3)


def test_few_rows_are_no_proof_of_drift(model, tmp_path):
    drift = json.loads(
        datasentinel("drift", model, write_csv(tmp_path / "d.csv", rows_of(5, seed=6)), "--json")
    )
    assert max(feature["psi"] for feature in drift["features"]) > 0.25
    assert drift["retrain"] is False


def test_drift_needs_calibration_scores(tmp_path):
    network = Network.random([D, 2, D])
    model = write_artifact(tmp_path / "m", network.to_onnx(), input_dim=D, threshold=0.0)
    data = write_csv(tmp_path / "d.csv", rows_of(50, seed=7))
    with pytest.raises(UnsupportedModelError, match="datasentinel recalibrate"):
        datasentinel("drift", model, data)
    datasentinel("recalibrate", model, data)
    datasentinel("drift", model, data)


def labelled(seed):
    """1,500 rows; of every thirty, the first three are a segment of anomalies."""
    values, labels = rows_of(1500, seed), np.arange(1500) % 30 < 3
    values[labels] += np.random.default_rng(seed).normal(0, 1.5, (labels.sum(), D)).astype(np.float32)
    return values, labels


def test_evaluate_says_what_scikit_learn_says(model, tmp_path):
    values, labels = labelled(seed=12)
    data = write_csv(tmp_path / "d.csv", values, labels)
    found = json.loads(datasentinel("evaluate", model, data, "--json"))
    detector = Detector.load(model)
    scores, called = detector.score(values), detector.predict(values)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(labels, scores))
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, called))
    assert found["true_positives"] == np.count_nonzero(called & labels) > 0
    assert found["segments"] == 50
    hit = np.count_nonzero((called & labels).reshape(50, 30).any(axis=1))
    assert (found["segments_hit"], found["segment_recall"]) == (hit, hit / 50)
    p_values = detector.p_values(values[~labels])
    assert found["coverage"]["0.05"] == np.mean(p_values <= 0.05)
    assert abs(found["coverage"]["0.1"] - 0.1) < 0.04
    output = datasentinel("evaluate", model, data)
    assert f"{found['auroc']:.4f}" in output
    assert f"{hit} of 50" in output


class _Page(HTMLParser):
    """Collects what a page shows and what it would load."""

    def __init__(self):
        super().__init__()
        self.images, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("src", "href"):
                (self.images if tag == "img" else self.links).append(value)

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_file_with_its_plots_inside(model, tmp_path):
    values, labels = labelled(seed=13)
    data = write_csv(tmp_path / "a<b>&.csv", values, labels)
    datasentinel("evaluate", model, data, "--report", tmp_path / "report.html")
    source = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(source)
    assert "test 1 on a<b>&.csv" in page.text
    assert page.links == []
    assert len(page.images) == 5
    prefix = "data:image/png;base64,"
    assert all(base64.b64decode(image.removeprefix(prefix)).startswith(b"\x89PNG") for image in page.images)
    assert len(set(page.images)) == 5
    assert "Worst misses" in page.text
    assert "Worst false alarms" in page.text


def test_evaluate_says_where_the_data_moved(model, tmp_path):
    values, labels = labelled(seed=16)
    steady = json.loads(
        datasentinel("evaluate", model, write_csv(tmp_path / "a.csv", values, labels), "--json")
    )
    assert steady["moved"] is None
    values[600:, 2] += 9
    moved = write_csv(tmp_path / "b.csv", values, labels)
    found = json.loads(datasentinel("evaluate", model, moved, "--json"))["moved"]
    assert abs(found["row"] - 600) <= 10
    assert 5 * found["before"] < 0.3 < found["after"]
    output = datasentinel("evaluate", model, moved, "--report", tmp_path / "report.html")
    assert f"the data moved: from row {found['row']} on" in output
    assert "most of all in f2" in output
    assert f"from row {found['row']} on" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("labels", "message"), [(None, "no label column"), (np.zeros(20, bool), "all of one kind")]
)
def test_evaluate_needs_labels_of_both_kinds(model, tmp_path, labels, message):
    data = write_csv(tmp_path / "d.csv", rows_of(20, seed=3), labels)
    with pytest.raises(DataError, match=message):
        datasentinel("evaluate", model, data)


def test_a_report_that_cannot_be_written(model, tmp_path):
    data = write_csv(tmp_path / "d.csv", *labelled(seed=14))
    with pytest.raises(InvalidInputError, match="cannot be written"):
        datasentinel("evaluate", model, data, "--report", tmp_path / "nowhere" / "report.html")


def test_these_commands_need_no_torch(model, tmp_path):
    data = write_csv(tmp_path / "d.csv", *labelled(seed=15))
    for arguments in (["evaluate", model, data], ["recalibrate", model, data], ["drift", model, data]):
        code = (
            "import sys\nsys.modules['torch'] = sys.modules['onnx'] = sys.modules['sklearn'] = None\n"
            "from datasentinel.cli import main\nmain()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 3), done.stderr


def exported(estimator, path):
    skl2onnx = pytest.importorskip("skl2onnx")
    sample = np.zeros((1, D), np.float32)
    model = skl2onnx.to_onnx(estimator, sample, target_opset={"": 18, "ai.onnx.ml": 3})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def forest():
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=20, random_state=0).fit(rows_of(500, seed=8))


def test_an_isolation_forest_is_served(forest, tmp_path):
    source = exported(forest, tmp_path / "forest.onnx")
    normal, labels = rows_of(999, seed=9), np.zeros(999, bool)
    labels[:9] = True
    data = write_csv(tmp_path / "normal.csv", normal, labels)
    output = datasentinel(
        "import", source, "--calibrate", data, "--out", tmp_path / "m", "--higher-is", "normal"
    )
    assert "output 'scores', negated" in output
    assert "not fused: " not in output

    artifact = load_artifact(tmp_path / "m")
    assert artifact.config.calibration["rows"] == 990
    assert artifact.config.feature_names == tuple(f"f{i}" for i in range(D))
    assert artifact.config.training["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    graph = inspect_model(artifact.onnx, name="m")
    assert [(t.name, t.dtype, t.shape) for t in graph.inputs] == [("input", "float32", (-1, D))]
    assert [(t.name, t.dtype, t.shape) for t in graph.outputs] == [("score", "float32", (-1,))]
    assert "ai.onnx.ml:TreeEnsembleRegressor" in graph.operators

    detector = Detector.load(tmp_path / "m")
    fresh = np.vstack([rows_of(500, seed=10), rows_of(50, seed=11) * 6])
    np.testing.assert_allclose(detector.score(fresh), -forest.decision_function(fresh), atol=1e-6)
    assert 0.002 < detector.predict(fresh[:500]).mean() < 0.03
    assert detector.p_values(fresh)[500:].mean() < 0.05 < detector.p_values(fresh)[:500].mean()
    for backend in ("fused", "onnxruntime"):
        scores = Detector.load(tmp_path / "m", backend=backend).score(fresh)
        np.testing.assert_allclose(scores, -forest.decision_function(fresh), atol=1e-6)

    # Measured beside ONNX Runtime, which is the reference where the file has operators that are not ONNX's own.
    path = tmp_path / "bench.json"
    datasentinel("bench", tmp_path / "m", "--batches", "1,64", "--budget-s", "1", "--json", path)
    report = load_report(path)
    assert {one.batch for one in report.measurements if one.contender == "fused"} == {1, 64}
    assert not [one for one in report.left_out if "wrong scores" in one["reason"]]


def test_a_principal_component_analysis_is_served(tmp_path):
    """skl2onnx exports the projection; what comes back from it is the reconstruction."""
    from sklearn.decomposition import PCA

    pca = PCA(2).fit(rows_of(500, seed=8))
    projection = exported(pca, tmp_path / "projection.onnx")
    data = write_csv(tmp_path / "normal.csv", rows_of(800, seed=9))
    with pytest.raises(UnsupportedModelError, match=r"no output is a score .* 'variable' FLOAT \[batch, 2\]"):
        datasentinel("import", projection, "--calibrate", data, "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()

    model = onnx.load(projection)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(pca.components_.astype(np.float32), "components"),
            numpy_helper.from_array(pca.mean_.astype(np.float32), "centre"),
        ]
    )
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["variable", "components"], ["centred"]),
            helper.make_node("Add", ["centred", "centre"], ["back"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("back", onnx.TensorProto.FLOAT, [None, D]))
    onnx.save(model, tmp_path / "pca.onnx")
    datasentinel("import", tmp_path / "pca.onnx", "--calibrate", data, "--out", tmp_path / "m")

    fresh = rows_of(3000, seed=10)
    back = pca.inverse_transform(pca.transform(fresh.astype(np.float64)))
    expected = ((fresh - back) ** 2).mean(axis=1)
    for backend in ("auto", "onnxruntime", "fused"):
        detector = Detector.load(tmp_path / "m", backend=backend)
        np.testing.assert_allclose(detector.score(fresh), expected, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(detector.reconstruct(fresh), back, rtol=1e-4, atol=1e-5)
    assert 0.002 < detector.predict(fresh).mean() < 0.03


def small_model(path, *, outputs, element_type=onnx.TensorProto.FLOAT, columns=D):
    """A graph whose outputs are named after what they hold: the sum of a row, the row, or whole numbers."""
    nodes, infos = [], []
    for name in outputs:
        if name == "sum":
            nodes.append(helper.make_node("ReduceSum", ["input", "axis"], [name], keepdims=1))
            infos.append(helper.make_tensor_value_info(name, element_type, ["n", 1]))
        elif name == "score":  # the contract's own name, for something else
            nodes.append(helper.make_node("Identity", ["input"], [name]))
            infos.append(helper.make_tensor_value_info(name, element_type, ["n", columns]))
        else:
            nodes.append(helper.make_node("ArgMax", ["input"], [name], axis=1))
            infos.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["n", 1]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", element_type, ["n", columns])],
        infos,
        [numpy_helper.from_array(np.array([1]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, path)
    return path


def test_float64_graphs_and_colliding_names(tmp_path):
    source = small_model(tmp_path / "s.onnx", outputs=["score", "sum"], element_type=onnx.TensorProto.DOUBLE)
    data = write_csv(tmp_path / "n.csv", rows_of(200, seed=9))
    with pytest.raises(SettingsError, match="several outputs could be meant"):
        datasentinel("import", source, "--calibrate", data, "--out", tmp_path / "m")
    datasentinel(
        "import", source, "--calibrate", data, "--out", tmp_path / "m",
        "--output", "sum", "--higher-is", "anomalous",
    )  # fmt: skip
    graph = inspect_model(load_artifact(tmp_path / "m").onnx, name="m")
    assert graph.operators == ["Cast", "ReduceSum", "Reshape"]  # What the other output needs is gone.
    fresh = rows_of(20, seed=10)
    expected = fresh.astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(Detector.load(tmp_path / "m").score(fresh), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "columns", "arguments", "error", "message"),
    [
        (["sum"], D, [], SettingsError, "--higher-is"),
        (["label"], D, [], UnsupportedModelError, r"no output is a score .*'label' INT64 \[batch, 1\]"),
        (["sum"], D + 1, [], UnsupportedModelError, r"shape \[batch, 7\], but the data has 6 columns"),
        (["sum"], D, ["--output", "loss"], UnsupportedModelError, "no output 'loss'"),
        (["sum"], D, ["--kind", "reconstruction"], UnsupportedModelError, "no output is a score"),
        (["score"], D, ["--higher-is", "normal"], SettingsError, "no direction"),
        (["score"], D, [], DataError, "all 200 normal rows .* have the score 0"),
    ],
)
def test_graphs_that_cannot_be_imported(tmp_path, outputs, columns, arguments, error, message):
    source = small_model(tmp_path / "s.onnx", outputs=outputs, columns=columns)
    data = write_csv(tmp_path / "n.csv", rows_of(200, seed=9))
    with pytest.raises(error, match=message):
        datasentinel("import", source, "--calibrate", data, "--out", tmp_path / "m", *arguments)
    assert not (tmp_path / "m").exists()


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "s.onnx").write_bytes(b"hello")
    data = write_csv(tmp_path / "n.csv", rows_of(20, seed=9))
    with pytest.raises(UnsupportedModelError, match=r"s\.onnx: not a valid ONNX file"):
        datasentinel("import", tmp_path / "s.onnx", "--calibrate", data, "--out", tmp_path / "m")


def test_evaluate_groups_anomalies_into_events(model, tmp_path):
    values, labels = labelled(5)
    data = write_csv(tmp_path / "labelled.csv", values, labels)
    told = json.loads(datasentinel("evaluate", model, data, "--json", "--alarm-rows", "1/1"))
    scores = Detector.load(model).score(values.astype(np.float32))
    events = find_events(scores, scores > told["threshold"], AlarmRule(1, 1))
    quality = judge_events(events, np.asarray(labels, bool))
    assert told["events"] == {
        "events": quality.events,
        "true_events": quality.true_events,
        "segments": quality.segments,
        "found": quality.found,
        "precision": quality.precision,
        "recall": quality.recall,
    }
    assert told["events"]["found"] == told["segments_hit"]
    with pytest.raises(SettingsError, match="k/n"):
        datasentinel("evaluate", model, data, "--alarm-rows", "5")
