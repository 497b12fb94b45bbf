"""A client that we did not write: NVIDIA's tritonclient over gRPC and HTTP."""

from __future__ import annotations

import importlib.util
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from datasentinel import Detector
from tests.integration import triton_calls
from tests.recordings import oscillations

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tritonclient", "geventhttpclient")),
    reason="tritonclient and geventhttpclient are not installed",
)

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def server(start_server):
    flags = ("--no-tcp", "--repository-control")
    with start_server(*flags) as process:
        yield process


@pytest.fixture(scope="module")
def call():
    """Run a function of `triton_calls` in another process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *args, **options: pool.submit(function, *args, **options).result(TIMEOUT_S)


def address(server, transport):
    return f"{server.host}:{server.ports[transport]}"


@pytest.fixture(params=["grpc", "http"])
def transport(request):
    return request.param


@pytest.mark.parametrize("sequence_id", [77, "pump-7"])
def test_a_sequence_is_a_stream(call, start_server, memory_artifact, transport, sequence_id):
    detector = Detector.load(memory_artifact)
    recording = oscillations(120, seed=3)
    chunks = [recording[:10], recording[10:11], recording[11:]]
    with start_server("--no-tcp", artifact=memory_artifact) as server:
        for _ in range(2):  # What ended begins anew.
            scores, warming = call(
                triton_calls.infer_sequence, transport, address(server, transport), chunks, sequence_id
            )
            np.testing.assert_allclose(scores, detector.score(recording), rtol=2e-4, atol=1e-5)
            assert warming.sum() == 96
        config = call(triton_calls.model_config, transport, address(server, transport), "memory")
        assert "sequence_batching" in config


@pytest.mark.parametrize(("transport", "binary"), [("grpc", True), ("http", True), ("http", False)])
def test_inference(call, server, transport, detector, rows, binary):
    some = rows[:9]
    outputs, request_id, error = call(
        triton_calls.infer, transport, address(server, transport), some, [], binary=binary
    )
    assert (request_id, error) == ("seven", "")
    np.testing.assert_array_equal(outputs["score"], detector.score(some))
    np.testing.assert_array_equal(outputs["anomaly"], detector.predict(some))
    names = ["output", "contributions", "severity"]
    outputs, _, error = call(
        triton_calls.infer, transport, address(server, transport), some, names, binary=binary
    )
    assert error == ""
    np.testing.assert_array_equal(outputs["output"], detector.reconstruct(some))
    np.testing.assert_array_equal(outputs["contributions"], detector.contributions(some))
    np.testing.assert_allclose(outputs["severity"], detector.score(some) / detector.threshold, rtol=1e-6)


def test_errors_reach_the_client_in_words(call, server, transport, rows):
    where = address(server, transport)
    _, _, error = call(triton_calls.infer, transport, where, rows[:2, :7].copy(), [])
    assert "expected shape [N, 8], got [2, 7]" in error
    _, _, error = call(triton_calls.infer, transport, where, rows[:2], ["nothing"])
    assert "unknown output 'nothing'" in error


def test_requests_at_once(call, server, transport, detector, rows):
    where = address(server, transport)
    for scores in call(triton_calls.infer_concurrently, transport, where, rows[:1], 20):
        # Those that arrive together are scored as one batch, whose last bits may differ.
        np.testing.assert_allclose(scores, detector.score(rows[:1]), rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(call, server, detector, rows, algorithm):
    scores = call(triton_calls.infer_compressed, address(server, "http"), rows[:50], algorithm)
    np.testing.assert_array_equal(scores, detector.score(rows[:50]))


def test_a_stream_survives_a_bad_request(call, server, detector, rows):
    batches = [rows[:3], rows[:3, :7].copy(), rows[:3]]
    first, bad, last = call(triton_calls.stream, address(server, "grpc"), batches)
    assert (first[0], last[0]) == ("0", "2")
    assert "expected shape [N, 8]" in bad[2]
    for answer in (first, last):
        np.testing.assert_allclose(answer[1], detector.score(rows[:3]), rtol=1e-5)


def test_everything_that_clients_ask(call, server, transport):
    told = call(triton_calls.describe, transport, address(server, transport))
    assert told["live"]
    assert told["ready"]
    assert told["model ready"]
    assert told["version ready"]
    assert told["unknown ready"] == [False, False]
    assert told["server"]["name"] == "datasentinel"
    assert [output["name"] for output in told["model"]["outputs"]] == [
        "score",
        "anomaly",
        "severity",
        "output",
        "contributions",
    ]
    config = told["config"].get("config", told["config"])
    assert config["name"] == "test"
    assert [int(size) for size in config["input"][0]["dims"]] == [8]
    for key in ("statistics", "all statistics"):
        (statistics,) = told[key]["model_stats"]
        assert (statistics["name"], statistics["version"]) == ("test", "1")
    index = told["index"]["models"] if transport == "grpc" else told["index"]
    assert index == [{"name": "test", "version": "1", "state": "READY"}]


def test_unload_and_load(call, server, transport, rows):
    where = address(server, transport)
    assert call(triton_calls.control, transport, where, "unload", "test") == ""
    _, _, error = call(triton_calls.infer, transport, where, rows[:1], [])
    assert "unknown model 'test'" in error or "no model is being served" in error
    assert call(triton_calls.control, transport, where, "load", "test") == ""
    outputs, _, error = call(triton_calls.infer, transport, where, rows[:1], [])
    assert error == ""
    assert outputs["score"].shape == (1,)
    assert "no model" in call(triton_calls.control, transport, where, "load", "nobody")
