"""Versions with memory follow each other while clients of all wires send: no row is lost, no answer is mixed."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from dataclasses import replace

import grpc
import numpy as np
import pytest

from datasentinel.artifact import load_artifact, save_artifact
from datasentinel.detector import Detector
from datasentinel.oip import grpc_predict_v2_pb2 as oip
from datasentinel.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from datasentinel.v1 import inference_pb2 as v1
from datasentinel.v1 import inference_pb2_grpc as v1_grpc
from tests.recordings import oscillations

TIMEOUT_S = 60
CLOSE = {"rtol": 2e-4, "atol": 1e-5}
WARM_UP_ROWS = 96


def lines(server, stream, opened):
    connection = opened.enter_context(server.connect(timeout_s=TIMEOUT_S))
    replies = opened.enter_context(connection.makefile("rb"))

    def ask(row):
        connection.sendall(f"@{stream} {' '.join(map(str, row))}\n".encode())
        return None, None, replies.readline().decode().strip()

    return ask


def word(anomaly, warming):
    return "WARMING" if warming else "ANOMALY" if anomaly else "OK"


def http(server, stream, opened):
    def ask(row):
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
        body = json.dumps({"inputs": [tensor], "parameters": {"sequence_id": stream}}).encode()
        told = json.loads(server.fetch("/v2/models/memory/infer", body))
        score, anomaly, warming = (output["data"][0] for output in told["outputs"])
        return told["model_version"], score, word(anomaly, warming)

    return ask


def inference_protocol(server, stream, opened):
    channel = opened.enter_context(grpc.insecure_channel(f"{server.host}:{server.grpc_port}"))
    stub = oip_grpc.GRPCInferenceServiceStub(channel)

    def ask(row):
        request = oip.ModelInferRequest(model_name="memory", raw_input_contents=[row.tobytes()])
        request.inputs.add(name="input", datatype="FP32", shape=(1, len(row)))
        request.parameters["sequence_id"].string_param = stream
        reply = stub.ModelInfer(request, timeout=TIMEOUT_S)
        score, anomaly, warming = reply.raw_output_contents
        told = word(anomaly != b"\0", warming != b"\0")
        return reply.model_version, np.frombuffer(score, np.float32)[0], told

    return ask


def evaluate(server, stream, opened):
    channel = opened.enter_context(grpc.insecure_channel(f"{server.host}:{server.grpc_port}"))
    stub = v1_grpc.InferenceServiceStub(channel)

    def ask(row):
        reply = stub.Evaluate(v1.EvaluateRequest(values=row, stream_id=stream), timeout=TIMEOUT_S)
        return None, reply.mse, v1.Status.Name(reply.status)

    return ask


class Client(threading.Thread):
    """Sends the rows of a stream, one after the other, until it is told to stop."""

    def __init__(self, wire, server, seed, opened):
        super().__init__(daemon=True)
        self.stream = f"{wire.__name__}-{seed}"
        self.rows = oscillations(20_000, seed=seed)
        self.answers = []
        self._ask = wire(server, self.stream, opened)
        self._stopping = threading.Event()

    def run(self):
        for row in self.rows:
            self.answers.append(self._ask(row))
            if self._stopping.wait(0.01):
                return

    def await_rows(self, count):
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.answers) < count:
            assert self.is_alive(), self.stream
            assert time.monotonic() < deadline, f"{self.stream}: {len(self.answers)} answers"
            time.sleep(0.01)

    def stop(self):
        self._stopping.set()
        self.join(TIMEOUT_S)
        assert not self.is_alive(), self.stream

    def fits(self, version, detector, first):
        """Tell which answers are those of a version that has seen the stream from a row on, bool [N]."""
        versions, scores, words = zip(*self.answers, strict=True)
        expected = np.full(len(words), np.nan)
        expected[first:] = detector.score(self.rows[first : len(words)])
        warming = np.arange(len(words)) < first + WARM_UP_ROWS
        same = np.array([told in (None, version) for told in versions])
        if scores[0] is not None:
            same &= np.isclose(np.array(scores), expected, **CLOSE)
        above = expected > detector.threshold
        return same & (np.array(words) == [*map(word, above, warming)]) & ~np.isnan(expected)


def from_where_all(fits):
    """Return from which answer on all fit."""
    return len(fits) - int(np.argmin(fits[::-1])) if not fits.all() else 0


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), marks=pytest.mark.slow, id="inline"),
        pytest.param(("--max-inline-us", "0"), id="queued"),
    ],
)
def test_versions_follow_each_other_under_load(
    start_server, tmp_path, memory_artifact, other_memory_artifact, flags
):
    old, new = (load_artifact(folder) for folder in (memory_artifact, other_memory_artifact))

    def version(artifact, quantile):
        """With a threshold that many rows are above, so that words tell models apart."""
        scores = Detector(artifact, backend="fused").score(oscillations(500, seed=9))
        threshold = float(np.quantile(scores[WARM_UP_ROWS:], quantile))
        config = replace(artifact.config, threshold=threshold)
        return Detector(replace(artifact, config=config), backend="fused")

    def put(number, detector):
        save_artifact(tmp_path / "models" / number, detector.artifact.onnx, detector.artifact.config)

    first, second, third = version(old, 0.4), version(new, 0.6), version(new, 0.3)
    put("1", first)
    watched = ("--watch", "--watch-interval-s", "0.05", "--backend", "fused", *flags)
    with start_server(*watched, artifact=tmp_path / "models") as server, ExitStack() as opened:
        wires = (lines, http, inference_protocol, evaluate)
        clients = [Client(wire, server, seed, opened) for seed, wire in enumerate(wires)]
        for client in clients:
            client.start()
        for client in clients:
            client.await_rows(WARM_UP_ROWS + 10)
        begun = [len(client.answers) for client in clients]
        for number, detector in (("2", second), ("3", third)):
            put(number, detector)
            server.wait_for_log(f"event=model_withdrawn name=memory version={int(number) - 1}", TIMEOUT_S)
            sent = [len(client.answers) for client in clients]
            for client, count in zip(clients, sent, strict=True):
                client.await_rows(count + 30)
        for client in clients:
            client.stop()
        opened.close()
        assert server.stop() == 0
        assert "level=error" not in server.log()
        assert server.log().count("event=model_leaves_shadow") == 1
    for client, least in zip(clients, begun, strict=True):
        by_first = client.fits("1", first, 0)
        most = int(np.argmin(by_first))  # So many of the first answers are the first version's.
        assert most >= least
        # The second saw the stream from some row on, and the third goes on with that.
        assert any(
            from_where_all(client.fits("2", second, seen)[:then]) <= most
            for seen in range(least, most + 1)
            if (then := from_where_all(client.fits("3", third, seen))) <= len(client.answers) - 30
        ), client.stream
