"""The data plane: answers as the detector's, and accounts that add up."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.lines.session import LineStream
from datasentinel.serving.models import outputs_of, warm_up
from datasentinel.serving.server import Server
from datasentinel.serving.settings import Settings
from tests.networks import Network, write_artifact

D = 4


@pytest.fixture
def detector(tmp_path) -> Detector:
    network = Network.random([D, 2, D])
    return Detector.load(write_artifact(tmp_path, network.to_onnx(), input_dim=D, threshold=1.0))


def test_the_warm_up_runs_the_model_and_is_not_counted(detector):
    warm_up(detector)
    plane = DataPlane(detector)
    assert detector.scorer.counts["rows"] > 1
    assert plane.counts == {"rows": 0, "anomalies": 0, "batches": 0}
    detector.score(np.ones((5, D), dtype=np.float32))
    assert plane.counts["rows"] == 5
    assert plane.counts["batches"] == 1


@pytest.mark.parametrize("threshold", [1.0, 0.0, -1.0])
def test_only_a_threshold_above_0_makes_severities(tmp_path, threshold):
    onnx = Network.random([D, 2, D]).to_onnx()
    detector = Detector.load(write_artifact(tmp_path, onnx, input_dim=D, threshold=threshold))
    assert ("severity" in outputs_of(detector)) == (threshold > 0)


def line_stream(plane: DataPlane) -> LineStream:
    return LineStream(plane.inference, plane.request_counts("tcp"), max_line_bytes=1000)


def test_a_line_stream_accounts_for_every_line_once(detector):
    plane = DataPlane(detector)
    stream = line_stream(plane)
    rows = [[0, 0, 0, 0], [1, 1, 1, 1], [9e9, 9e9, 9e9, 9e9]]
    first, second, third = (
        b"ANOMALY\n" if anomaly else b"OK\n" for anomaly in detector.predict(np.array(rows, dtype=np.float32))
    )
    assert not stream.mid_message
    assert stream.feed(b"0 0 0 0\n1 1") == first
    assert stream.mid_message
    assert stream.feed(b" 1 1\nbad\n\n") == second + b"ERROR: value 1 is not a number: 'bad'\n"
    assert not stream.mid_message
    assert stream.feed(b"9e9 9e9 9e9 9e9") == b""
    account = plane.accounts["tcp"]
    assert (account.requests, account.errors) == (3, 1)
    assert stream.finish() == third == b"ANOMALY\n"
    assert stream.closed
    account = plane.accounts["tcp"]
    assert (account.requests, account.rows, account.errors) == (4, 3, 1)
    assert account.anomalies == (first + second + third).count(b"ANOMALY")
    assert sum(account.latency_counts) == 4


def test_errors_are_counted_by_code(detector):
    plane = DataPlane(detector)
    line_stream(plane).feed(b"0 0 0 0\nbad\n1 2\n")
    assert plane.accounts["tcp"].error_codes == {"invalid_argument": 2}
    assert plane.accounts["tcp"].errors == 2


def test_histograms_begin_after_the_warm_up(detector):
    assert detector.scorer.histograms == {}
    warm_up(detector)
    plane = DataPlane(detector)
    rows = np.random.default_rng(0).normal(0, 3, (100, D)).astype(np.float32)
    detector.score(rows)
    detector.score(rows)
    assert plane.counts["rows"] == 200
    bounds, counts, total = detector.scorer.histograms["batch_rows"]
    assert total == 200
    assert counts[bounds.index(128)] == 2
    assert sum(detector.scorer.histograms["compute_s"][1]) == 2


def test_a_server_that_has_not_started_has_nothing_to_stop_or_reload(tmp_path):
    async def run():
        server = Server(Settings(model=str(tmp_path)))
        server.reload()
        await server.stop()

    asyncio.run(run())
