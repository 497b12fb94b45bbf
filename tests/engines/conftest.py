from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from datasentinel.artifact import save_artifact
from tests.engines.kit import D, write_recordings, write_tables
from tests.networks import Network, write_artifact
from tests.parity.test_context import train_with
from tests.recordings import oscillations

TABLE = {"rows": 40, "score_table": {"scores": [0.5, 1.0, 2.0, 4.0], "greater": [30, 20, 10, 0]}}


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    network = Network.random([D, 6, 3, 6, D])
    onnx = network.to_onnx(with_contributions=True)
    return write_artifact(
        tmp_path_factory.mktemp("model") / "models", onnx, input_dim=D, threshold=6.0, calibration=TABLE
    )


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    rows = np.random.default_rng(1).normal(0, 3, (2000, D)).astype(np.float32)
    return write_tables(tmp_path_factory.mktemp("tables") / "rows", rows)


@pytest.fixture(scope="session")
def model_with_memory(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        _, built = train_with(patch, 100.0, oscillations(3000))
    names = tuple(f"f{i}" for i in range(built.config.input_dim))
    config = dataclasses.replace(
        built.config,
        feature_names=names,
        columns={"time": "ts", "id": "host"},
        state={**built.config.state, "gap_s": 60.0},
    )
    return save_artifact(tmp_path_factory.mktemp("memory") / "models", built.onnx, config)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings") / "rows")
