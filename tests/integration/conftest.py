"""Fixtures around a real server process; the shared one serves every test that does not stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.artifact import save_artifact
from tests.integration.server_process import ServerProcess, clear_threshold, serving
from tests.networks import Network, write_artifact
from tests.parity.test_context import train_with
from tests.recordings import oscillations

if TYPE_CHECKING:
    from pathlib import Path

D = 8


@pytest.fixture(scope="session")
def network() -> Network:
    return Network.random([D, 6, 3, 6, D])


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    """Rows [2000, D], of which about half are anomalies to `artifact`."""
    return np.random.default_rng(1).normal(0, 3, (2000, D)).astype(np.float32)


@pytest.fixture(scope="session")
def artifact(network, rows, tmp_path_factory) -> Path:
    threshold = clear_threshold(network.reference(rows)[0])
    folder = tmp_path_factory.mktemp("served") / "models"
    onnx = network.to_onnx(with_contributions=True)
    return write_artifact(folder, onnx, input_dim=D, threshold=threshold)


@pytest.fixture(scope="session")
def detector(artifact) -> Detector:
    """What the server serves, in this process."""
    return Detector.load(artifact)


@pytest.fixture(scope="session")
def memory_artifact(tmp_path_factory) -> Path:
    """A model with memory, of seven columns, whose warm-up takes 96 rows."""
    with pytest.MonkeyPatch.context() as patch:
        built = train_with(patch, 100.0, oscillations(3000))[1]
    folder = tmp_path_factory.mktemp("memory") / "models"
    return save_artifact(folder, built.onnx, replace(built.config, name="memory"))


@pytest.fixture(scope="session")
def other_memory_artifact(tmp_path_factory) -> Path:
    """One of the same name, learnt from another recording: its states mean something else."""
    with pytest.MonkeyPatch.context() as patch:
        built = train_with(patch, 100.0, oscillations(1000, seed=5))[1]
    folder = tmp_path_factory.mktemp("other_memory") / "models"
    return save_artifact(folder, built.onnx, replace(built.config, name="memory"))


StartServer = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture(scope="session")
def start_server(artifact, tmp_path_factory) -> StartServer:
    """Start a server of one's own: `with start_server("--no-grpc") as server`."""

    def start(*flags: str, artifact: Path = artifact, environ: dict[str, str] | None = None):
        return serving(artifact, tmp_path_factory.mktemp("log") / "server.log", *flags, environ=environ)

    return start


@pytest.fixture(scope="session")
def server(start_server) -> Iterator[ServerProcess]:
    """The shared server, with default settings on free ports."""
    with start_server() as process:
        yield from process.until_stopped()


@pytest.fixture(scope="module")
def channel(server) -> Iterator[grpc.Channel]:
    """To the module's own server, where it has one."""
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="session")
def grpc_server(start_server) -> Iterator[ServerProcess]:
    """A shared server of gRPC alone."""
    with start_server("--no-tcp") as process:
        yield from process.until_stopped()


@pytest.fixture(scope="session")
def limited(start_server) -> Iterator[ServerProcess]:
    """A shared server whose limits are low enough to reach."""
    with start_server(
        *("--tcp-max-connections", "3", "--tcp-max-line-bytes", "100", "--tcp-idle-timeout-s", "2.5"),
        *("--http-max-connections", "2", "--http-idle-timeout-s", "2.5"),
        "--grpc-max-message-bytes",
        "50",
    ) as process:
        yield process
