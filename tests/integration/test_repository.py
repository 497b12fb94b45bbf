"""Several models and versions, and how they change while they are served."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import threading
import time

import grpc
import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.oip import grpc_predict_v2_pb2, grpc_predict_v2_pb2_grpc
from tests.integration.server_process import to_line, to_replies
from tests.networks import Network, write_artifact

D = 4
ROW = np.array([[1.0, -2.0, 0.5, 3.0]], dtype=np.float32)
TIMEOUT_S = 20
WATCHED = ("--watch", "--watch-interval-s", "0.05")


def put(folder, seed):
    """Write an artifact as a trainer does, and give its score of ROW."""
    network = Network.random([D, 3, D], seed=seed)
    built = write_artifact(
        folder.parent / f".{folder.name}-{seed}", network.to_onnx(), input_dim=D, threshold=1.0
    )
    if folder.exists():
        shutil.rmtree(folder)
    built.rename(folder)
    return Detector.load(folder, plan_budget_s=0).score(ROW)[0]


class Client:
    def __init__(self, server):
        self.server = server
        self.web = http.client.HTTPConnection(server.host, server.http_port, timeout=TIMEOUT_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.web.close()

    def ask(self, method, path, body=None):
        self.web.request(method, path, body)
        response = self.web.getresponse()
        return response.status, json.loads(response.read())

    def infer(self, model, version=""):
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, D], "data": ROW.tolist()}
        status, answer = self.ask("POST", path, json.dumps({"inputs": [tensor]}))
        if status != 200:
            return status, answer["error"], None
        return status, answer["model_version"], np.float32(answer["outputs"][0]["data"][0])

    def index(self):
        return self.ask("POST", "/v2/repository/index")[1]

    def metric(self, name):
        self.web.request("GET", "/metrics")
        for line in self.web.getresponse().read().decode().splitlines():
            if line.startswith(name):
                return float(line.rpartition(" ")[2])
        return None

    def wait(self, condition):
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, self.server.log()
            time.sleep(0.02)


def same(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_models_and_versions_of_a_folder(start_server, tmp_path):
    scores = {
        (name, version): put(tmp_path / name / version, seed=10 * index + int(version))
        for index, name in enumerate(("beta", "alpha"))
        for version in ("2", "10", "9")
    }
    flags = ("--no-grpc", "--served-versions", "2", "--default-model", "beta")
    with start_server(*flags, artifact=tmp_path) as server, Client(server) as client:
        for name in ("alpha", "beta"):
            assert client.ask("GET", f"/v2/models/{name}")[1]["versions"] == ["9", "10"]
            for version, answered in (("", "10"), ("10", "10"), ("9", "9")):
                status, version_told, score = client.infer(name, version)
                assert (status, version_told) == (200, answered)
                same(score, scores[name, answered])
            assert client.infer(name, "2")[0] == 404
        decision = Detector.load(tmp_path / "beta" / "10", plan_budget_s=0).predict(ROW)
        assert server.ask(to_line(ROW[0])).split() == to_replies(decision)
        statistics = client.ask("GET", "/v2/models/stats")[1]["model_stats"]
        assert [(model["name"], model["version"]) for model in statistics] == [
            ("alpha", "9"),
            ("alpha", "10"),
            ("beta", "9"),
            ("beta", "10"),
        ]


def test_an_unknown_default_model_is_an_error(start_server, tmp_path):
    put(tmp_path / "a" / "1", seed=0)
    with (
        pytest.raises(AssertionError, match="default_model: no model 'b'"),
        start_server("--default-model", "b", artifact=tmp_path),
    ):
        pass


def test_watching_serves_new_versions_and_keeps_what_a_broken_one_would_replace(start_server, tmp_path):
    first = put(tmp_path / "m" / "1", seed=1)
    with (
        start_server("--no-grpc", "--no-tcp", *WATCHED, artifact=tmp_path) as server,
        Client(server) as client,
    ):
        same(client.infer("m")[2], first)

        second = put(tmp_path / "m" / "2", seed=2)
        client.wait(lambda: client.infer("m")[1] == "2")
        same(client.infer("m")[2], second)
        assert client.infer("m", "1")[0] == 404

        broken = tmp_path / "m" / "3"
        built = shutil.copytree(tmp_path / "m" / "2", tmp_path / "m" / ".broken")
        (built / "model.onnx").write_bytes(b"\x08\x07 no model")
        built.rename(broken)
        client.wait(lambda: client.metric('datasentinel_model_reloads_total{result="failed"}') == 1)
        same(client.infer("m")[2], second)
        states = {entry["version"]: entry["state"] for entry in client.index()}
        assert states == {"2": "READY", "3": "UNAVAILABLE"}
        server.wait_for_log("event=model_not_loaded name=m")

        shutil.rmtree(broken)
        client.wait(lambda: [entry["version"] for entry in client.index()] == ["2"])
        third = put(tmp_path / "m" / "3", seed=3)
        client.wait(lambda: client.infer("m")[1] == "3")
        same(client.infer("m")[2], third)
        shutil.rmtree(tmp_path / "m" / "3")
        client.wait(lambda: client.infer("m")[1] == "2")  # A version that goes rolls back.
        assert client.metric('datasentinel_model_reloads_total{result="ok"}') == 3
        another = put(tmp_path / "n" / "1", seed=4)
        client.wait(lambda: client.infer("n")[0] == 200)
        same(client.infer("n")[2], another)

        put(tmp_path / ".o" / "1", seed=5)
        (tmp_path / ".o" / "1" / "config.json").write_text("{")
        (tmp_path / ".o").rename(tmp_path / "o")
        client.wait(lambda: "UNAVAILABLE" in {entry["state"] for entry in client.index()})
        for name in ("m", "n", "o"):
            shutil.rmtree(tmp_path / name)
        client.wait(lambda: "UNAVAILABLE" not in {entry["state"] for entry in client.index()})


def test_sighup_reloads_a_single_artifact_and_no_request_is_lost(start_server, tmp_path):
    folder = tmp_path / "models"
    scores = [put(folder, seed=1)]
    with start_server("--no-grpc", "--no-tcp", artifact=folder) as server, Client(server) as client:
        stop = threading.Event()
        seen: list[tuple] = []

        def keep_asking():
            with Client(server) as busy:
                while not stop.is_set():
                    seen.append(busy.infer("test"))

        thread = threading.Thread(target=keep_asking)
        thread.start()
        try:
            for seed in (2, 3):
                scores.append(put(folder, seed=seed))
                server.process.send_signal(signal.SIGHUP)
                client.wait(lambda: np.isclose(client.infer("test")[2], scores[-1], rtol=1e-5))
        finally:
            stop.set()
            thread.join(TIMEOUT_S)
        assert {status for status, _, _ in seen} == {200}
        got = [float(score) for _, _, score in seen]
        assert all(np.isclose(score, scores, rtol=1e-5).any() for score in got)
        assert client.metric('datasentinel_model_reloads_total{result="ok"}') == 2


def test_clients_control_the_repository_only_where_that_is_allowed(start_server, tmp_path):
    first = put(tmp_path / "m" / "1", seed=1)
    pb = grpc_predict_v2_pb2
    with start_server("--no-tcp", artifact=tmp_path) as server, Client(server) as client:
        for action in ("load", "unload"):
            status, answer = client.ask("POST", f"/v2/repository/models/m/{action}")
            assert status == 403
            assert "--repository-control" in answer["error"]
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"), timeout=TIMEOUT_S)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    with (
        start_server("--no-tcp", "--repository-control", artifact=tmp_path) as server,
        Client(server) as client,
    ):
        second = put(tmp_path / "m" / "2", seed=2)
        same(client.infer("m")[2], first)
        assert client.ask("POST", "/v2/repository/models/m/load") == (200, {})
        same(client.infer("m")[2], second)
        assert client.ask("POST", "/v2/repository/models/m/unload") == (200, {})
        assert client.infer("m")[0] == 404
        assert client.index() == [{"name": "m", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}]
        assert client.ask("GET", "/v2/health/ready")[0] == 200
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
            for name in ("nobody", "../m", "/etc", ""):
                request = pb.RepositoryModelLoadRequest(model_name=name)
                with pytest.raises(grpc.RpcError) as caught:
                    stub.RepositoryModelLoad(request, timeout=TIMEOUT_S)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"), timeout=TIMEOUT_S)
        same(client.infer("m")[2], second)


def test_files_outside_of_the_repository_are_refused(start_server, tmp_path):
    inside, outside = tmp_path / "models", tmp_path / "secret"
    put(inside / "good" / "1", seed=1)
    put(outside, seed=2)
    (inside / "link").mkdir()
    (inside / "link" / "1").symlink_to(outside)
    (inside / "file").mkdir()
    shutil.copytree(outside, inside / "file" / "1")
    (inside / "file" / "1" / "model.onnx").unlink()
    (inside / "file" / "1" / "model.onnx").symlink_to(outside / "model.onnx")
    (inside / "pipe" / "1").mkdir(parents=True)
    shutil.copy(outside / "config.json", inside / "pipe" / "1" / "config.json")
    os.mkfifo(inside / "pipe" / "1" / "model.onnx")
    (inside / "huge" / "1").mkdir(parents=True)
    shutil.copy(outside / "config.json", inside / "huge" / "1" / "config.json")
    with (inside / "huge" / "1" / "model.onnx").open("wb") as file:
        file.truncate(1 << 40)
    with (
        start_server(
            "--no-grpc", "--default-model", "good", "--repository-control", artifact=inside
        ) as server,
        Client(server) as client,
    ):
        reasons = {entry["name"]: entry.get("reason", "") for entry in client.index()}
        assert "leads outside" in reasons["link"]
        assert "leads outside" in reasons["file"]
        assert "not a regular file" in reasons["pipe"]
        assert "more than" in reasons["huge"]
        assert reasons["good"] == ""
        assert not any(str(tmp_path) in reason for reason in reasons.values())
        for name in ("link", "file", "pipe", "huge"):
            assert client.infer(name)[0] == 404
            status, told = client.ask("POST", f"/v2/repository/models/{name}/load")
            assert (status, told["error"]) == (500, reasons[name])
