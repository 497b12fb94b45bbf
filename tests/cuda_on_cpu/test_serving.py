"""A real server on the simulated device, over real sockets."""

from __future__ import annotations

import http.client
import json

import numpy as np

from tests.integration.server_process import clear_threshold, serving, to_lines, to_replies
from tests.networks import Network, write_artifact


def test_a_server_answers_from_the_device(device, tmp_path):
    network = Network.random([8, 6, 3, 6, 8])
    rows = np.random.default_rng(1).normal(0, 3, (400, 8)).astype(np.float32)
    scores = network.reference(rows)[0]
    threshold = clear_threshold(scores)
    folder = write_artifact(tmp_path / "models", network.to_onnx(), input_dim=8, threshold=threshold)
    report = tmp_path / "report"
    environment = device.environment(report=report, memory_mib=256)
    with serving(folder, tmp_path / "log", "--backend", "fused-cuda", environ=environment) as server:
        assert server.ask(to_lines(rows)).split() == to_replies(scores > threshold)
        client = http.client.HTTPConnection(server.host, server.http_port, timeout=30)
        request = {
            "inputs": [
                {"name": "input", "shape": [400, 8], "datatype": "FP32", "data": rows.ravel().tolist()}
            ]
        }
        client.request("POST", "/v2/models/test/infer", json.dumps(request))
        response = client.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        np.testing.assert_allclose(outputs["score"], scores, rtol=5e-5)
        client.request("GET", "/metrics")
        assert 'backend="fused-cuda"' in client.getresponse().read().decode()
        client.close()
        assert server.stop() == 0, server.log()
    launches = int(report.read_text().splitlines()[0].removeprefix("launches: "))
    assert launches > 1


# Measures a plan, and makes it prefer the device for every batch.
PREFER_DEVICE = """
import json, sys
from datasentinel import Detector, plan_cache
Detector.load(sys.argv[1], plan_budget_s=0.1)
(path,) = (plan_cache.cache_dir() / "plans").glob("*.json")
path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": [[1, "fused-cuda"]]}))
"""


def test_a_device_that_is_lost_while_serving_is_told_of_once(device, tmp_path):
    network = Network.random([8, 6, 3, 6, 8])
    rows = np.random.default_rng(1).normal(0, 3, (400, 8)).astype(np.float32)
    scores = network.reference(rows)[0]
    threshold = clear_threshold(scores)
    folder = write_artifact(tmp_path / "models", network.to_onnx(), input_dim=8, threshold=threshold)
    cache = {"DATASENTINEL_CACHE_DIR": str(tmp_path / "cache")}
    environment = device.environment(memory_mib=256) | cache
    done = device.run("-c", PREFER_DEVICE, str(folder), environment=environment)
    assert done.returncode == 0, done.stderr
    lost = device.environment(memory_mib=256, fail="cuGraphLaunch:50=719") | cache
    with serving(folder, tmp_path / "log", environ=lost) as server:
        for row, score in zip(rows[:100], scores[:100], strict=True):
            assert server.ask(to_lines(row[None])).split() == to_replies(np.array([score > threshold]))
        server.wait_for_log("event=backend_failed")
        assert server.ask(to_lines(rows)).split() == to_replies(scores > threshold)
        assert server.stop() == 0, server.log()
    log = server.log()
    assert log.count("event=backend_failed") == 1
    (line,) = (line for line in log.splitlines() if "backend_failed" in line)
    assert "backend=fused-cuda" in line
    assert "unspecified launch failure" in line
