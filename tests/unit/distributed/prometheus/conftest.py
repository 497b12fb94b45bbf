from __future__ import annotations

import numpy as np
import pytest

from datasentinel.artifact import load_artifact, save_artifact
from datasentinel.detector import Detector
from datasentinel.distributed.prometheus.client import Grid
from datasentinel.distributed.prometheus.config import Model
from datasentinel.distributed.prometheus.samples import Samples
from tests.parity.test_context import train_with
from tests.recordings import oscillations

STEP_S = 15.0
COLUMNS = tuple(f"x{i}" for i in range(7))


@pytest.fixture(scope="package")
def detector(tmp_path_factory) -> Detector:
    """With memory, of seven columns; its warm-up takes 96 rows."""
    with pytest.MonkeyPatch.context() as patch:
        built = train_with(patch, 100.0, oscillations(3000))[1]
    folder = save_artifact(tmp_path_factory.mktemp("model"), built.onnx, built.config)
    return Detector(load_artifact(folder), backend="fused")


@pytest.fixture(scope="session")
def model() -> Model:
    return Model(name="pumps", queries={name: name for name in COLUMNS}, step=STEP_S, reasons=2)


@pytest.fixture(scope="session")
def recordings() -> dict[str, np.ndarray]:
    """Rows [400, 7] of three pumps."""
    return {f"pump-{i}": oscillations(400, seed=i + 10) for i in range(3)}


def samples_of(recordings, first, count) -> Samples:
    """The samples of some moments; the first row of a recording is that of moment 0."""
    values = np.stack([rows[first : first + count] for rows in recordings.values()]).astype(np.float64)
    return Samples(Grid(STEP_S, first, count), ("pump",), [(name,) for name in recordings], values)
