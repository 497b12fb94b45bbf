from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest

from datasentinel.artifact import load_artifact
from datasentinel.errors import ArtifactError
from datasentinel.export import build_graph, export_artifact, verify_graph
from datasentinel.export.autoencoder_graph import autoencoder_graph
from datasentinel.training import TrainingSettings, train
from datasentinel.training.settings import ACTIVATIONS

onnxruntime = pytest.importorskip("onnxruntime")


def plain(**settings):
    return TrainingSettings(model="autoencoder", **settings)


def rows_with_offsets(count, seed=0):
    """Columns far from zero, of very different spreads, and a constant one."""
    random = np.random.default_rng(seed)
    causes = random.normal(size=(count, 3)) @ random.normal(size=(3, 8)) + 0.3 * random.normal(
        size=(count, 8)
    )
    values = causes * [1, 1e-3, 1e3, 1, 1e6, 1, 10, 1] + [0, 5, 1e6, 4e4, -1e7, 0, 1e3, 1e-6]
    return np.column_stack([values, np.full(count, -3.5)]).astype(np.float32)


FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
    "sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,
    "identity": lambda x: x,
}


def reference(result, rows):
    """Scores and reconstructions in float64, from the same float32 parameters."""
    scaling = result.model.scaling
    shift, scale, inverse = (
        array.astype(np.float64) for array in (scaling.shift, scaling.scale, scaling.inverse_scale)
    )
    z = (rows.astype(np.float64) - shift) * inverse
    x = z
    for layer in result.model.network.layers():
        x = FUNCTIONS[layer.activation](x @ layer.weight.astype(np.float64).T + layer.bias.astype(np.float64))
    return ((z - x) ** 2).mean(axis=1), x * scale + shift


def run(model, rows, outputs=("score", "output")):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {"input": rows})


@pytest.fixture(scope="module")
def result():
    return train(rows_with_offsets(400), settings=plain(epochs=5))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_graph_computes_the_network(activation):
    result = train(
        rows_with_offsets(300),
        settings=plain(epochs=2, activation=activation, hidden=(12, 7), latent=3),
    )
    model = build_graph(result.model)
    rows = rows_with_offsets(257, seed=1)
    scores, outputs = run(model, rows)
    expected_scores, expected_outputs = reference(result, rows)
    assert scores.dtype == outputs.dtype == np.float32
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
    np.testing.assert_allclose(result.model.score(rows), expected_scores, rtol=1e-5)
    error = np.abs(outputs - expected_outputs) / (np.abs(expected_outputs) + result.model.scaling.scale)
    assert error.max() <= 1e-5
    (contributions,) = run(model, rows, ["contributions"])
    terms = ((rows - expected_outputs) / result.model.scaling.scale.astype(np.float64)) ** 2 / rows.shape[1]
    assert (contributions >= 0).all()
    assert (np.abs(contributions - terms) <= 1e-5 * (1 + expected_scores[:, np.newaxis])).all()
    np.testing.assert_allclose(contributions.sum(axis=1, dtype=np.float64), scores, rtol=1e-5)
    # Far from everything seen: thousands of standard deviations.
    far = rows * np.float32(1.5)
    np.testing.assert_allclose(run(model, far)[0], reference(result, far)[0], rtol=1e-5)


def test_the_graphs_interface(result):
    model = onnx.load_model_from_string(build_graph(result.model))
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "input": ["batch", 9],
        "score": ["batch"],
        "output": ["batch", 9],
        "contributions": ["batch", 9],
    }
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert [node.op_type for node in model.graph.node] == [
        "Sub", "Mul", "Gemm", "Relu", "Gemm", "Gemm", "Relu", "Gemm",
        "Mul", "Add", "Sub", "Mul", "ReduceMean", "Mul",
    ]  # fmt: skip


@pytest.mark.parametrize("batch", [0, 1, 1000])
def test_any_batch_size(result, batch):
    scores, outputs = run(build_graph(result.model), rows_with_offsets(batch))
    assert scores.shape == (batch,)
    assert outputs.shape == (batch, 9)


def test_an_artifact_is_written_and_verified(result, tmp_path):
    names = [f"m{i}" for i in range(9)]
    exported = export_artifact(
        result, tmp_path, rows=rows_with_offsets(50), feature_names=names, training_facts={"data": "a.csv"}
    )
    assert exported.verification.rows == 50
    assert exported.verification.max_relative < 1e-5
    assert load_artifact(tmp_path).config.input_dim == 9
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["input_dim"] == document["output_dim"] == 9
    assert document["latent_dim"] == result.model.network.latent
    assert document["threshold"] == result.calibration.threshold
    assert document["feature_names"] == names
    assert document["calibration"]["rows"] == 80
    assert document["training"]["data"] == "a.csv"
    assert document["training"]["rows"] == 320
    assert document["training"]["epochs"] == len(result.history)


def test_named_models_get_the_next_version(result, tmp_path):
    for version in ("1", "2"):
        exported = export_artifact(result, tmp_path, rows=rows_with_offsets(5), name="pump")
        assert exported.directory == tmp_path / "pump" / version
    config = load_artifact(tmp_path).config
    assert (config.name, config.version) == ("pump", "2")


def test_a_graph_that_disagrees_is_refused(result):
    layers = result.model.network.layers()
    bent = dataclasses.replace(layers[-1], bias=layers[-1].bias + np.float32(0.01))
    model = autoencoder_graph(result.model.scaling, [*layers[:-1], bent])
    with pytest.raises(ArtifactError, match="disagrees"):
        verify_graph(model, result.model, rows_with_offsets(100))


@pytest.mark.parametrize("model", ["ensemble", "subspace", "autoencoder"])
def test_a_graph_that_explains_otherwise_is_refused(model):
    result = train(rows_with_offsets(60), settings=TrainingSettings(model=model))
    graph = build_graph(result.model)
    verify_graph(graph, result.model, rows_with_offsets(100, seed=1))
    document = onnx.load_model_from_string(graph)
    (last,) = (node for node in document.graph.node if "contributions" in node.output)
    last.output[0] = "of_the_next_feature"
    indices = onnx.numpy_helper.from_array(np.roll(np.arange(9), 1), "indices")
    document.graph.initializer.append(indices)
    document.graph.node.append(
        onnx.helper.make_node("Gather", ["of_the_next_feature", "indices"], ["contributions"], axis=1)
    )
    with pytest.raises(ArtifactError, match="disagrees"):
        verify_graph(document.SerializeToString(), result.model, rows_with_offsets(100, seed=1))
