"""A row's answers have the same bits whatever rows it is scored with, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasentinel.errors import UnsupportedModelError
from datasentinel.export import build_artifact
from datasentinel.training import TrainingSettings, train
from tests.networks import Network
from tests.parity.fused_scorer import load
from tests.parity.test_fused_parity import chains
from tests.recordings import oscillations
from tests.unit.training.test_recording import recording

BATCHES = (*range(1, 71), 129)


def table(count, width, seed=0):
    return np.random.default_rng([seed, width]).normal(size=(count, width)).astype(np.float32)


def assert_same_in_every_batch(onnx, rows, batches, precision="float32"):
    """`rows` in calls of each of these sizes, the last of which may be smaller, against one call."""
    scorer = load(onnx, dim=rows.shape[1], precision=precision)
    for answer in (scorer.score, scorer.reconstruct, scorer.contributions):
        try:
            together = answer(rows)
        except UnsupportedModelError:
            continue
        for batch in batches:
            parts = [answer(rows[start : start + batch]) for start in range(0, len(rows), batch)]
            np.testing.assert_array_equal(np.concatenate(parts), together, err_msg=f"{batch} rows a call")


# Narrow and wide layers, more inputs than a block of partial sums, and widths beside whole vectors.
@pytest.mark.parametrize(
    "widths", [(8, 6, 3, 6, 8), (64, 128, 16, 64), (1, 1, 1), (33, 300, 7, 33), (300, 40, 300), (17, 97, 17)]
)
def test_autoencoders(isa, widths):
    assert_same_in_every_batch(Network.random(widths).to_onnx(), table(150, widths[0]), BATCHES)


@settings(
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(chain=chains, batches=st.lists(st.integers(1, 70), min_size=1, max_size=4))
def test_random_networks(isa, chain, batches):
    mean, deviation, *_ = chain.parameters()
    rows = (mean + deviation * table(100, len(mean))).astype(np.float32)
    assert_same_in_every_batch(chain.to_onnx(), rows, batches)


@pytest.fixture(scope="module")
def trained():
    """What `train` makes: its models without memory, each with rows to score."""
    models = {}
    for width in (5, 40):  # distances by differences, and by a matrix product
        rows = table(600, width) @ table(width, width)
        artifact = build_artifact(
            train(rows, settings=TrainingSettings(model="ensemble", steps=20)), rows=rows
        )
        models[f"ensemble of {width} columns"] = artifact.onnx, rows[:150]
    rows = recording(2000)
    artifact = build_artifact(train(rows, settings=TrainingSettings(model="subspace")), rows=rows)
    models["subspace"] = artifact.onnx, rows[:150]
    return models


def test_trained_models(isa, trained):
    for onnx, rows in trained.values():
        assert_same_in_every_batch(onnx, rows, BATCHES)


@pytest.fixture(scope="module")
def with_memory():
    rows = oscillations(3000)
    return build_artifact(train(rows, settings=TrainingSettings(model="context")), rows=rows).onnx


def test_streams_side_by_side(isa, with_memory):
    """Each stream's scores and states, among others and alone."""
    recordings = np.stack([oscillations(12, seed=seed) for seed in range(129)])
    scorer = load(with_memory, dim=recordings.shape[2])

    def run(batch):
        answers = []
        for start in range(0, len(recordings), batch):
            streams = recordings[start : start + batch]
            states = np.zeros((len(streams), scorer.state_dim), np.float32)
            scores = np.empty((streams.shape[1], len(streams)), np.float32)
            for turn, row in enumerate(scores):
                scorer.step(np.ascontiguousarray(streams[:, turn]), states, row)
            answers.append(np.column_stack([scores.T, states]))
        return np.concatenate(answers)

    together = run(len(recordings))
    for batch in BATCHES:
        np.testing.assert_array_equal(run(batch), together, err_msg=f"{batch} streams a call")
