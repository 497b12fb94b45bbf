"""`datasentinel import` of graphs whose scores can, or cannot, be trusted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from datasentinel import Detector
from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.errors import DataError, DataSentinelError

D = 4


def graph(path, body, *, output="float[N] y", source="float[N, 4] x", opset=18):
    """Write a graph in ONNX's text form; a declared shape of `[]` in `output` is left out of the file."""
    bare = output.replace("[]", "[N]")
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}]> g ({source}) => ({bare}) {{ {body} }}'
    )
    if bare != output:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())
    return path


def normal_rows(count=300, seed=0):
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def imported(tmp_path, model, *arguments, rows=None):
    import_it(tmp_path, model, *arguments, rows=rows)
    return Detector.load(tmp_path / "m")


def import_it(tmp_path, model, *arguments, rows=None):
    """Return what the command printed."""
    np.save(tmp_path / "normal.npy", normal_rows() if rows is None else rows)
    command = ["import", model, "--calibrate", tmp_path / "normal.npy", "--out", tmp_path / "m", *arguments]
    done = CliRunner().invoke(cli, [str(part) for part in command], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


AXIS = "axis = Constant <value = int64[1] {1}> () "
ROWS = "rows = Constant <value = int64[1] {0}> () "

SOUND = {
    "[N]": ("y = ReduceSumSquare <keepdims = 0> (x, axis)", "float[N] y"),
    "[N, 1]": ("y = ReduceSumSquare <keepdims = 1> (x, axis)", "float[N, 1] y"),
    "[N, 1, 1]": ("s = ReduceSumSquare <keepdims = 1> (x, axis) y = Unsqueeze (s, axis)", "float[N, 1, 1] y"),
    "any size": ("y = ReduceSumSquare <keepdims = 0> (x, axis)", "float[M] y"),
    "no shape": ("s = ReduceSumSquare <keepdims = 0> (x, axis) y = Identity (s)", "float[] y"),
    "double": ("w = Cast <to = 11> (x) y = ReduceSumSquare <keepdims = 0> (w, axis)", "double[N] y"),
    "float16": (
        "s = ReduceSumSquare <keepdims = 0> (x, axis) y = Cast <to = 10> (s)", "float16[N] y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_scores_of_every_shape_and_type(tmp_path, name):
    body, output = SOUND[name]
    model = graph(tmp_path / "f.onnx", AXIS + body, output=output)
    detector = imported(tmp_path, model, "--higher-is", "anomalous")
    fresh = normal_rows(2000, seed=1)
    expected = np.square(fresh.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(detector.score(fresh), expected, rtol=2e-3 if name == "float16" else 1e-5)
    assert 0.001 < detector.predict(fresh).mean() < 0.03


def test_whole_numbers_are_scores_where_they_are_asked_for(tmp_path):
    body = AXIS + "s = ReduceSumSquare <keepdims = 0> (x, axis) y = Cast <to = 7> (s)"
    model = graph(tmp_path / "f.onnx", body, output="int64[N] y")
    with pytest.raises(DataSentinelError, match="no output is a score"):
        imported(tmp_path, model, "--higher-is", "anomalous")
    detector = imported(tmp_path, model, "--higher-is", "anomalous", "--output", "y")
    rows = normal_rows(50, seed=1)
    np.testing.assert_array_equal(detector.score(rows), np.square(rows).sum(axis=1).astype(int))


def test_a_batch_of_one(tmp_path):
    body = AXIS + "y = ReduceSumSquare <keepdims = 0> (x, axis)"
    model = graph(tmp_path / "f.onnx", body, source="float[1, 4] x", output="float[1] y")
    detector = imported(tmp_path, model, "--higher-is", "anomalous")
    rows = normal_rows(20, seed=1)
    np.testing.assert_allclose(detector.score(rows), np.square(rows).sum(axis=1), rtol=1e-5)


COUPLED = {
    "centred on the batch": ROWS
    + AXIS
    + "m = ReduceMean (x, rows) d = Sub (x, m) y = ReduceSumSquare <keepdims = 0> (d, axis)",
    "normalised by its greatest": ROWS
    + AXIS
    + "s = ReduceSumSquare <keepdims = 0> (x, axis) m = ReduceMax (s, rows) y = Div (s, m)",
    "summed over the rows before": AXIS
    + "zero = Constant <value = int64 {0}> () s = ReduceSumSquare <keepdims = 0> (x, axis) y = CumSum (s, zero)",
    "reversed": "start = Constant <value = int64[1] {-1}> () end = Constant <value = int64[1] {-9223372036854775807}> () "
    + ROWS
    + "step = Constant <value = int64[1] {-1}> () "
    + AXIS
    + "s = ReduceSumSquare <keepdims = 0> (x, axis) y = Slice (s, start, end, rows, step)",
}


@pytest.mark.parametrize("name", COUPLED)
def test_scores_that_are_not_the_rows_own_are_refused(tmp_path, name):
    model = graph(tmp_path / "f.onnx", COUPLED[name])
    with pytest.raises(DataError, match=r"f\.onnx: row \d+ scores .*depend on the rest of the batch"):
        imported(tmp_path, model, "--higher-is", "anomalous")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("body", "how_many"),
    [
        ("s = ReduceSum <keepdims = 0> (x, axis) y = Sqrt (s)", r"\d\d\d"),
        ("s = ReduceSum <keepdims = 0> (x, axis) y = Div (s, zero)", "300"),
    ],
)
def test_scores_that_are_not_finite_are_refused(tmp_path, body, how_many):
    zero = "zero = Constant <value = float {0}> () "
    model = graph(tmp_path / "f.onnx", AXIS + (zero if "zero" in body else "") + body)
    with pytest.raises(DataError, match=rf"f\.onnx: {how_many} of 300 normal rows have no finite score"):
        imported(tmp_path, model, "--higher-is", "anomalous")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("body", "source", "output"),
    [
        ("y = ReduceSumSquare <keepdims = 0> (x)", "float[N, 4] x", "float[] y"),
        ("y = ReduceSumSquare <keepdims = 1> (x)", "float[N, 4] x", "float[1, 1] y"),
    ],
    ids=["one number for all", "one row for all"],
)
def test_graphs_that_do_not_score_row_by_row_are_refused(tmp_path, body, source, output):
    model = graph(tmp_path / "f.onnx", body, source=source, output=output)
    with pytest.raises(DataSentinelError):
        imported(tmp_path, model, "--higher-is", "anomalous")
    assert not (tmp_path / "m").exists()


REFUSED = {
    "two inputs": ("y = ReduceSumSquare <keepdims = 0> (x, axis) w = Identity (z)", {"source": "float[N, 4] x, float[N, 4] z"}, r"expected one input of shape \[batch, 4\], got 2 \('x', 'z'\)"),
    "whole numbers": ("f = Cast <to = 1> (x) y = ReduceSumSquare <keepdims = 0> (f, axis)", {"source": "int64[N, 4] x"}, "input 'x' takes INT64"),
    "other columns": ("y = ReduceSumSquare <keepdims = 0> (x, axis)", {"source": "float[N, 5] x"}, r"has shape \[batch, 5\], but the data has 4 columns"),
    "two scores": ("y = ReduceSumSquare <keepdims = 0> (x, axis) z = Neg (y)", {"output": "float[N] y, float[N] z"}, "several outputs could be meant"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_graphs_whose_ends_do_not_fit_are_refused(tmp_path, name):
    body, ends, message = REFUSED[name]
    model = graph(tmp_path / "f.onnx", AXIS + body, **ends)
    with pytest.raises(DataSentinelError, match=message):
        imported(tmp_path, model, "--higher-is", "anomalous")


def test_what_is_asked_for_has_to_be_there(tmp_path):
    model = graph(tmp_path / "f.onnx", AXIS + "y = ReduceSumSquare <keepdims = 0> (x, axis)")
    for arguments, message in (
        ((), "Say which with --higher-is"),
        (("--higher-is", "normal", "--output", "z"), "no output 'z'; the outputs are 'y'"),
    ):
        with pytest.raises(DataSentinelError, match=message):
            imported(tmp_path, model, *arguments)
    mirror = graph(tmp_path / "m.onnx", "y = Identity (x)", output="float[N, 4] y")
    with pytest.raises(DataSentinelError, match="a reconstruction has no direction"):
        imported(tmp_path, mirror, "--higher-is", "normal")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(DataSentinelError, match="not a valid ONNX file"):
        imported(tmp_path, tmp_path / "broken.onnx", "--higher-is", "normal")


def test_shapes_that_the_file_does_not_state_are_found_by_running_it(tmp_path):
    """The branches of an If come out as they do, and read names from outside."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18]> g (float[N, 4] x) => (float[N] y) {
        axis = Constant <value = int64[1] {1}> ()
        yes = Constant <value = bool {1}> ()
        y = If (yes) <
          then_branch = t () => (float[N] a) { a = ReduceSumSquare <keepdims = 0> (x, axis) },
          else_branch = e () => (float[N] b) { b = ReduceMax <keepdims = 0> (x, axis) }
        >
        }"""
    )
    for value in (
        model.graph.output[0],
        *(attribute.g.output[0] for attribute in model.graph.node[-1].attribute),
    ):
        value.type.tensor_type.ClearField("shape")
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    detector = imported(tmp_path, tmp_path / "f.onnx", "--higher-is", "anomalous")
    rows = normal_rows(20, seed=1)
    np.testing.assert_allclose(detector.score(rows), np.square(rows).sum(axis=1), rtol=1e-5)


def test_inner_graphs_read_weights_of_the_outer_one(tmp_path):
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18]> g (float[N, 4] x) => (float[N] score)
        <float[4] input = {2, 2, 2, 2}> {
        axis = Constant <value = int64[1] {1}> ()
        yes = Constant <value = bool {1}> ()
        score = If (yes) <
          then_branch = t () => (float[N] a) {
            scaled = Mul (x, input)
            a = ReduceSumSquare <keepdims = 0> (scaled, axis)
          },
          else_branch = e () => (float[N] b) { b = ReduceMax <keepdims = 0> (x, axis) }
        >
        }"""
    )
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    detector = imported(tmp_path, tmp_path / "f.onnx", "--higher-is", "anomalous")
    rows = normal_rows(20, seed=1)
    np.testing.assert_allclose(detector.score(rows), 4 * np.square(rows).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("operator", ["RandomNormalLike <scale = 0.000001>", "Bernoulli"])
def test_operators_of_chance_are_refused_by_name(tmp_path, operator):
    body = f"n = {operator} (x) z = Add (x, n) y = ReduceSumSquare <keepdims = 0> (z, axis)"
    model = graph(tmp_path / "f.onnx", AXIS + body)
    with pytest.raises(DataSentinelError, match=rf"operator {operator.split()[0]} .* is random"):
        imported(tmp_path, model, "--higher-is", "anomalous")


def test_operators_of_chance_are_found_in_local_functions(tmp_path):
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18, "local": 1]> g (float[N, 4] x) => (float[N] y) {
        axis = Constant <value = int64[1] {1}> ()
        z = local.shaken (x)
        y = ReduceSumSquare <keepdims = 0> (z, axis)
        }
        <domain: "local", opset_import: ["": 18]> shaken (a) => (b) { n = RandomNormalLike (a) b = Add (a, n) }"""
    )
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataSentinelError, match=r"operator RandomNormalLike .* is random"):
        imported(tmp_path, tmp_path / "f.onnx", "--higher-is", "anomalous")


def test_what_was_imported_can_be_imported_again(tmp_path):
    model = graph(tmp_path / "f.onnx", AXIS + "y = ReduceSumSquare <keepdims = 0> (x, axis)")
    first = imported(tmp_path, model, "--higher-is", "anomalous")
    (tmp_path / "m/model.onnx").rename(tmp_path / "again.onnx")
    again = imported(tmp_path, tmp_path / "again.onnx", "--output", "score", "--higher-is", "anomalous")
    rows = normal_rows(20, seed=1)
    np.testing.assert_array_equal(again.score(rows), first.score(rows))


def test_what_is_promised_of_a_recording_is_less(tmp_path):
    """By `import`, and by `recalibrate` after it; of the same rows in random order it is the target."""
    model = graph(tmp_path / "f.onnx", AXIS + "y = ReduceSumSquare <keepdims = 0> (x, axis)")
    rows = np.zeros((3000, D), np.float32)
    for i, noise in enumerate(normal_rows(len(rows))):
        rows[i] = 0.97 * rows[i - 1] + noise
    shuffled = np.random.default_rng(1).permutation(rows)

    def promised():
        return load_artifact(tmp_path / "m").config.calibration["fpr_bound"]

    imported(tmp_path, model, "--higher-is", "anomalous", rows=rows)
    bound = promised()
    imported(tmp_path, model, "--higher-is", "anomalous", rows=shuffled)
    assert promised() <= 0.01 < bound
    np.save(tmp_path / "rows.npy", rows)
    CliRunner().invoke(
        cli, ["recalibrate", str(tmp_path / "m"), str(tmp_path / "rows.npy")], catch_exceptions=False
    )
    assert promised() == bound


def test_an_opset_of_the_future_is_refused(tmp_path):
    model = graph(tmp_path / "f.onnx", AXIS + "y = ReduceSumSquare <keepdims = 0> (x, axis)", opset=999)
    with pytest.raises(DataSentinelError, match="opset 999; the installed onnx knows"):
        imported(tmp_path, model, "--higher-is", "anomalous")


def test_a_score_whose_end_normal_rows_reach_is_warned_of(tmp_path):
    for body, shares in (
        ("s = ReduceSum <keepdims = 0> (x, axis) y = Sign (s)", True),
        ("s = ReduceSum <keepdims = 0> (x, axis) y = Sigmoid (s)", False),
    ):
        model = graph(tmp_path / "f.onnx", AXIS + body)
        output = import_it(tmp_path, model, "--higher-is", "anomalous")
        assert ("of the normal rows share the greatest score, 1:" in output) == shares
