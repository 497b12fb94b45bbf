"""The server beside every protobuf release that pyproject.toml allows, and without grpcio."""

from __future__ import annotations

import os
import subprocess
import sys

import grpc
import pytest

from datasentinel.messages import make_stub
from datasentinel.serving.control import health_pb2
from datasentinel.v1 import inference_pb2, inference_pb2_grpc

TIMEOUT_S = 20


@pytest.mark.slow
@pytest.mark.parametrize("release", ["5.26.1", "6.33.0"])
def test_an_older_protobuf_does(start_server, detector, rows, tmp_path, release):
    """The oldest one allowed, and the one that `tritonclient[grpc]` brings; the newest is in every other test."""
    fetched = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            tmp_path,
            f"protobuf=={release}",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if fetched.returncode != 0:
        pytest.skip(f"protobuf {release} cannot be had here: {fetched.stderr.strip()[-200:]}")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with start_server("--no-tcp", environ={"PYTHONPATH": path}) as server:
        told = subprocess.run(
            [sys.executable, "-c", "import google.protobuf as p; print(p.__version__)"],
            env=os.environ | {"PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        )
        assert told.stdout.strip() == release
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            health = make_stub("grpc.health.v1.Health")(channel)
            check = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            assert check.status == health_pb2.HealthCheckResponse.SERVING
            request = inference_pb2.EvaluateRequest(values=rows[0], explain_top=2)
            response = inference_pb2_grpc.InferenceServiceStub(channel).Evaluate(request, timeout=TIMEOUT_S)
            assert response.mse == detector.score(rows[0])[0]
            assert len(response.contributions) == 2
        assert server.stop() == 0, server.log()


def test_serving_imports_no_grpcio():
    code = (
        "import sys; import datasentinel.serving.server, datasentinel.serving.grpc.session; "
        "sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
