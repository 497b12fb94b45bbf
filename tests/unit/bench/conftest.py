"""A small model to measure."""

from __future__ import annotations

import pytest

from datasentinel import plan_cache
from datasentinel.artifact import load_artifact
from datasentinel.bench.subject import Subject, subject_of
from tests.networks import Network, write_artifact

D = 8


@pytest.fixture(scope="session")
def network() -> Network:
    return Network.random([D, 6, 3, 6, D])


@pytest.fixture(scope="session")
def model(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return write_artifact(folder / "model", network.to_onnx(), input_dim=D, threshold=1.0, name="small one")


@pytest.fixture(scope="session")
def subject(model) -> Subject:
    return subject_of(load_artifact(model))


@pytest.fixture(scope="package", autouse=True)
def plans(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plan_cache.CACHE_DIR_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield
