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
