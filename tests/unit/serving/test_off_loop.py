"""Long HTTP requests wait for their thread; the event loop does not wait for them."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import pytest

from datasentinel import backend
from datasentinel.detector import Detector
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.guard import Guard
from datasentinel.serving.metrics import Metrics
from datasentinel.serving.repository import ModelRepository
from datasentinel.serving.rest.messages import Request
from datasentinel.serving.rest.off_loop import OffLoop
from datasentinel.serving.rest.routes import Routes
from tests.networks import Network, write_artifact

D = 4
MAX_WAITING_ROWS = 400


class Server:
    """Routes whose every inference is long, and whose thread is busy until `release`."""

    def __init__(self, folder) -> None:
        network = Network.random([D, 3, D])
        artifact = write_artifact(folder / "m", network.to_onnx(), input_dim=D, threshold=1.0)
        self.detector = Detector.load(artifact, backend="onnxruntime")
        plane = DataPlane(self.detector)
        self.account = plane.account("http")
        off_loop = OffLoop(self.inference(plane), self.account, MAX_WAITING_ROWS)
        self._released = threading.Event()
        off_loop._executor.submit(self._released.wait)
        self.path = f"/v2/models/{plane.served.default_name}/infer"
        self.routes = Routes(
            plane,
            ModelRepository(folder, plane, Detector),
            Metrics(plane),
            Guard(),
            inference=self.inference(plane),
            off_loop=off_loop,
            account=self.account,
            metrics_open=True,
            max_rows=10_000,
            max_body_bytes=1 << 20,
        )

    @staticmethod
    def inference(plane):
        return backend.RestInference(plane.models, max_rows=10_000, max_inline_us=0)

    def release(self) -> None:
        self._released.set()

    def ask(self, rows):
        tensor = {"name": "input", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
        body = json.dumps({"inputs": [tensor]}).encode()
        return self.routes.answer(Request(method="POST", target=self.path, headers={}, body=body))


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.release()


def test_the_loop_goes_on_while_long_requests_wait(server):
    batches = [np.random.default_rng(seed).normal(size=(20, D)).astype(np.float32) for seed in range(2)]

    async def main():
        waiting = [asyncio.ensure_future(server.ask(batch)) for batch in batches]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        assert server.account.queued_rows >= 40
        server.release()
        return await asyncio.gather(*waiting)

    for response, batch in zip(asyncio.run(main()), batches, strict=True):
        score = json.loads(response.body)["outputs"][0]
        np.testing.assert_allclose(score["data"], server.detector.score(batch), rtol=1e-5)
    assert server.account.queued_rows == 0
    assert server.account.rows == 40


def test_more_rows_than_may_wait_are_refused_at_once(server):
    rows = np.random.default_rng(0).normal(size=(MAX_WAITING_ROWS, D)).astype(np.float32)

    async def main():
        large = asyncio.ensure_future(server.ask(rows))  # However large, it may wait alone.
        await asyncio.sleep(0)
        refused = server.ask(rows[:1])
        server.release()
        return refused, await large, await server.ask(rows[:1])

    refused, large, later = asyncio.run(main())
    assert (refused.status, dict(refused.headers)["Retry-After"]) == (503, "1")
    assert "wait" in json.loads(refused.body)["error"]
    assert (large.status, later.status) == (200, 200)
    assert server.account.rows == MAX_WAITING_ROWS + 1
