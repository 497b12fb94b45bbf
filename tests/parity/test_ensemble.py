"""The default detector's graph on every backend, against float64 arithmetic on the same constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.metrics import roc_auc_score

from datasentinel.artifact import Artifact
from datasentinel.detector import Detector
from datasentinel.export import build_artifact
from datasentinel.training import train

BACKENDS = ("onnxruntime", "fused")
# Narrow rows have their distances by differences, wide ones by a matrix product.
WIDTHS = (3, 9, 60)


def rows_with_offsets(count, width, seed=0):
    """Columns far from zero and of very different spreads, and a constant one."""
    random = np.random.default_rng([seed, width])
    mixed = random.normal(size=(count, width)) @ np.random.default_rng(width).normal(size=(width, width))
    values = mixed * np.geomspace(1e-3, 1e3, width) + np.resize([0, 5, 1e4, -300], width)
    values[:, -1] = -3.5
    return values.astype(np.float32)


@pytest.fixture(scope="module", params=WIDTHS)
def trained(request):
    rows = rows_with_offsets(700, request.param)
    result = train(rows)
    built = build_artifact(result, rows=rows)
    assert built.verification.max_relative < 1e-4
    return result.model, Artifact(Path("model"), built.config, built.onnx), rows


def test_the_graphs_interface(trained):
    model, artifact, _ = trained
    graph = onnx.load_model_from_string(artifact.onnx)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    width = model.input_dim
    assert shapes == {
        "input": ["batch", width],
        "score": ["batch"],
        "output": ["batch", width],
        "contributions": ["batch", width],
    }
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 18)]
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    assert "Cast" not in {node.op_type for node in graph.graph.node}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_scores_agree_with_float64(trained, backend, batch):
    model, artifact, rows = trained
    detector = Detector(artifact, backend=backend)
    near = rows_with_offsets(batch, model.input_dim, seed=1)
    far = near + 8 * rows.std(axis=0) * np.random.default_rng(2).normal(size=near.shape)
    for queries in (near, far.astype(np.float32)):
        expected, outputs = model.evaluate(queries.astype(np.float64))
        error = np.abs(detector.score(queries) - expected) / np.maximum(1, np.abs(expected))
        assert error.max() <= 1e-5
        scale = np.abs(outputs) + model.scaling.scale
        assert np.max(np.abs(detector.reconstruct(queries) - outputs) / scale) <= 1e-5


def test_backends_rank_alike(trained):
    model, artifact, rows = trained
    normal = rows_with_offsets(1000, model.input_dim, seed=1)
    strange = normal + rows.std(axis=0) * np.random.default_rng(2).normal(size=normal.shape)
    queries, labels = np.concatenate([normal, strange]).astype(np.float32), np.repeat([0, 1], 1000)
    quality = [roc_auc_score(labels, Detector(artifact, backend=b).score(queries)) for b in BACKENDS]
    quality.append(roc_auc_score(labels, model.score(queries.astype(np.float64))))
    assert np.ptp(quality) <= 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_most_extreme_rows_have_scores(trained, backend):
    model, artifact, _ = trained
    greatest = np.finfo(np.float32).max
    rows = np.random.default_rng(0).uniform(-greatest, greatest, (50, model.input_dim)).astype(np.float32)
    detector = Detector(artifact, backend=backend)
    expected = model.score(rows)
    np.testing.assert_allclose(detector.score(rows), expected, rtol=1e-4)
    assert detector.predict(rows).all()
