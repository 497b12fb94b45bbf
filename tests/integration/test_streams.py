"""Models with memory over every wire: each score is that of an offline scan of its stream."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import defaultdict
from dataclasses import replace
from urllib.error import HTTPError

import grpc
import numpy as np
import pytest

from datasentinel.artifact import load_artifact, save_artifact
from datasentinel.detector import Detector
from datasentinel.oip import grpc_predict_v2_pb2 as oip
from datasentinel.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from datasentinel.v1 import inference_pb2 as v1
from datasentinel.v1 import inference_pb2_grpc as v1_grpc
from tests.integration.server_process import clean_environment, command
from tests.recordings import noisy, oscillations

TIMEOUT_S = 20
D = 7
# Batches of other sizes differ in float32's last bits.
CLOSE = {"rtol": 2e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def detector(memory_artifact):
    return Detector(load_artifact(memory_artifact), backend="fused")


@pytest.fixture(scope="module", params=["fused", "onnxruntime"])
def server(request, start_server, memory_artifact):
    with start_server("--backend", request.param, artifact=memory_artifact) as process:
        yield from process.until_stopped()


@pytest.fixture(scope="module")
def recording():
    return noisy(oscillations(200, seed=9), 150, 170)


def offline(detector, rows):
    """Return the scores of a recording, and what its rows are in the words of the wires."""
    scores = detector.score(rows)
    warm_up = detector.artifact.config.warm_up_rows
    above = scores.astype(np.float64) > detector.threshold
    words = ["WARMING" if i < warm_up else "ANOMALY" if above[i] else "OK" for i in range(len(rows))]
    assert set(words) == {"WARMING", "ANOMALY", "OK"}
    return scores, words


def line(row, stream=""):
    return ((f"@{stream} " if stream else "") + " ".join(map(str, row)) + "\n").encode()


def v1_evaluate(channel, stream, chunk):
    stub = v1_grpc.InferenceServiceStub(channel)
    replies = [
        stub.Evaluate(v1.EvaluateRequest(values=row, stream_id=stream), timeout=TIMEOUT_S) for row in chunk
    ]
    return [reply.mse for reply in replies], [v1.Status.Name(reply.status) for reply in replies]


def v1_batch(channel, stream, chunk):
    stub = v1_grpc.InferenceServiceStub(channel)
    request = v1.EvaluateBatchRequest(rows=len(chunk), raw_values=chunk.tobytes(), stream_id=stream)
    reply = stub.EvaluateBatch(request, timeout=TIMEOUT_S)
    assert reply.message == ""
    return reply.scores, [v1.Status.Name(status) for status in reply.statuses]


def v1_stream(channel, stream, chunk):
    stub = v1_grpc.InferenceServiceStub(channel)
    requests = [
        v1.EvaluateBatchRequest(id=i, rows=1, values=row, stream_id=stream) for i, row in enumerate(chunk)
    ]
    replies = list(stub.EvaluateStream(iter(requests), timeout=TIMEOUT_S))
    assert [reply.id for reply in replies] == list(range(len(chunk)))
    statuses = [v1.Status.Name(reply.statuses[0]) for reply in replies]
    return [reply.scores[0] for reply in replies], statuses


def words_of(anomalies, warming):
    pairs = zip(warming, anomalies, strict=True)
    return ["WARMING" if warms else "ANOMALY" if is_anomaly else "OK" for warms, is_anomaly in pairs]


def oip_infer(channel, stream, chunk):
    request = oip.ModelInferRequest(model_name="", raw_input_contents=[chunk.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=chunk.shape)
    request.parameters["sequence_id"].string_param = stream
    reply = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    assert [output.name for output in reply.outputs] == ["score", "anomaly", "warming"]
    scores, anomalies, warming = reply.raw_output_contents
    return np.frombuffer(scores, np.float32), words_of(anomalies, warming)


def post(server, body):
    return json.loads(server.fetch("/v2/models/memory/infer", body))


def http_body(chunk, **parameters):
    tensor = {"name": "input", "datatype": "FP32", "shape": chunk.shape, "data": chunk.ravel().tolist()}
    return json.dumps({"parameters": parameters, "inputs": [tensor]}).encode()


@pytest.fixture
def http_infer(server):
    def infer(channel, stream, chunk):
        reply = post(server, http_body(chunk, sequence_id=stream))
        scores, anomalies, warming = (output["data"] for output in reply["outputs"])
        return scores, words_of(anomalies, warming)

    return infer


@pytest.mark.parametrize("wire", [v1_evaluate, v1_batch, v1_stream, oip_infer, "http"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 200])
def test_each_wire_scores_a_stream_as_an_offline_scan(
    wire, chunk_rows, request, channel, detector, recording
):
    scores, words = offline(detector, recording)
    send = request.getfixturevalue("http_infer") if wire == "http" else wire
    stream = f"{wire if wire == 'http' else wire.__name__}-{chunk_rows}"
    seen: list[float] = []
    said: list[str] = []
    for first in range(0, len(recording), chunk_rows):
        more, words_of_chunk = send(channel, stream, recording[first : first + chunk_rows])
        seen += list(more)
        said += words_of_chunk
    np.testing.assert_allclose(seen, scores, **CLOSE)
    assert said == words


def test_a_connection_of_lines_is_a_stream(server, detector, recording):
    _, words = offline(detector, recording)
    for _ in range(2):  # A new connection begins anew.
        assert server.ask(b"".join(map(line, recording))).decode().split() == words


def test_lines_name_streams_over_connections(server, detector, recording):
    _, words = offline(detector, recording)
    other = oscillations(200, seed=4)
    said = []
    for first in range(0, 200, 40):
        chunk = slice(first, first + 40)
        both = zip(recording[chunk], other[chunk], strict=True)
        lines = [line(one, "pump-7") + line(two, "pump-8") for one, two in both]
        said += server.ask(b"".join(lines)).decode().split()
    assert said[::2] == words
    with_spaces = server.ask(b"@pump-9\t " + b",".join(str(v).encode() for v in recording[0]) + b"\r\n")
    assert with_spaces == b"WARMING\n"


def test_a_stream_is_the_same_over_all_wires(server, channel, detector, recording, http_infer):
    scores, words = offline(detector, recording)
    ways = [v1_evaluate, v1_batch, v1_stream, oip_infer, http_infer]
    for i, first in enumerate(range(0, 190, 10)):
        more, said = ways[i % 5](channel, "4711", recording[first : first + 10])
        np.testing.assert_allclose(more, scores[first : first + 10], **CLOSE)
        assert said == words[first : first + 10]
    request = oip.ModelInferRequest(raw_input_contents=[recording[190:].tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=[10, D])
    request.parameters["sequence_id"].int64_param = 4711
    reply = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    np.testing.assert_allclose(np.frombuffer(reply.raw_output_contents[0], np.float32), scores[190:], **CLOSE)


def test_concurrent_requests_for_many_streams(channel, detector):
    recordings = {f"host {i}": oscillations(30, seed=i) for i in range(40)}
    stub = v1_grpc.InferenceServiceStub(channel)
    seen = defaultdict(list)
    for turn in range(30):
        # A client waits for the answer before it sends the next row of a stream; the streams are concurrent.
        calls = {
            name: stub.Evaluate.future(
                v1.EvaluateRequest(values=rows[turn], stream_id=name), timeout=TIMEOUT_S
            )
            for name, rows in recordings.items()
        }
        for name, call in calls.items():
            seen[name].append(call.result().mse)
    for name, rows in recordings.items():
        np.testing.assert_allclose(seen[name], detector.score(rows), **CLOSE)


def test_a_sequence_starts_anew_and_ends(server, detector, recording):
    scores = detector.score(recording[:20])
    options = [{}, {}, {"sequence_start": True}, {"sequence_end": True}, {}]
    chunks = [slice(0, 10), slice(10, 20), slice(0, 10), slice(10, 20), slice(0, 10)]
    for parameters, chunk in zip(options, chunks, strict=True):
        reply = post(server, http_body(recording[chunk], sequence_id=99, **parameters))
        np.testing.assert_allclose(reply["outputs"][0]["data"], scores[chunk], **CLOSE)


def test_who_names_no_stream_is_told_what_to_send(server, channel, recording):
    row = recording[:1]
    reply = v1_grpc.InferenceServiceStub(channel).Evaluate(v1.EvaluateRequest(values=row[0]))
    assert v1.Status.Name(reply.status) == "ERROR"
    assert reply.message.endswith("has a memory, so that its rows need a stream: set stream_id")
    batch = v1.EvaluateBatchRequest(rows=1, values=row[0])
    reply = v1_grpc.InferenceServiceStub(channel).EvaluateBatch(batch)
    assert "set stream_id" in reply.message
    for parameters in ({}, {"sequence_id": 0}, {"sequence_id": ""}):
        with pytest.raises(HTTPError) as caught:
            post(server, http_body(row, **parameters))
        assert caught.value.code == 400
        assert "send the parameter sequence_id" in json.loads(caught.value.read())["error"]
    with pytest.raises(grpc.RpcError) as error:
        oip_infer(channel, "", row)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError, match="at most 256 bytes"):
        oip_infer(channel, "x" * 257, row)


def test_reasons_and_p_values_are_of_the_row_in_its_stream(channel, detector, recording):
    v1_batch(channel, "explained", recording[:160])
    request = v1.EvaluateRequest(
        values=recording[160], stream_id="explained", explain_top=2, with_p_value=True
    )
    reply = v1_grpc.InferenceServiceStub(channel).Evaluate(request, timeout=TIMEOUT_S)
    score = detector.score(recording[:161])[-1:]
    contributions = detector.contributions(recording[:161])[-1]
    np.testing.assert_allclose(reply.mse, score[0], **CLOSE)
    np.testing.assert_allclose(reply.p_value, detector.p_values_of_scores(score)[0], rtol=0.05)
    greatest = np.sort(contributions)[::-1][:2]
    np.testing.assert_allclose([reason.contribution for reason in reply.contributions], greatest, rtol=1e-3)


def test_a_refused_row_leaves_its_stream_as_it_was(channel, detector, recording):
    scores = detector.score(recording[:20])
    broken = recording[10:20].copy()
    broken[9, 3] = np.nan
    v1_batch(channel, "refused", recording[:10])
    stub = v1_grpc.InferenceServiceStub(channel)
    request = v1.EvaluateBatchRequest(rows=10, raw_values=broken.tobytes(), stream_id="refused")
    assert "row 9, column 3" in stub.EvaluateBatch(request).message
    np.testing.assert_allclose(v1_batch(channel, "refused", recording[10:20])[0], scores[10:], **CLOSE)


def metrics(server):
    return {s.name: s.value for s in server.samples() if "streams" in s.name or "anom" in s.name}


def test_streams_go_on_after_a_restart_and_a_reload(start_server, memory_artifact, detector, tmp_path):
    built = load_artifact(memory_artifact)
    recordings = {f"host {i}": oscillations(150, seed=i) for i in range(30)}
    expected = {name: detector.score(rows) for name, rows in recordings.items()}
    folder = save_artifact(tmp_path / "models" / "1", built.onnx, built.config)
    flags = (
        "--no-tcp",
        "--watch",
        "--watch-interval-s",
        "0.05",
        "--stream-snapshot",
        str(tmp_path / "states"),
    )

    def send(server, first, last, names=tuple(recordings)):
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            for name in names:
                scores, words = v1_batch(channel, name, recordings[name][first:last])
                np.testing.assert_allclose(scores, expected[name][first:last], **CLOSE)
                assert words.count("WARMING") == max(0, min(96, last) - first)

    with start_server(*flags, artifact=folder.parent) as server:
        send(server, 0, 50)
        # The same graph with another threshold: the streams are the same.
        save_artifact(tmp_path / "models" / "2", built.onnx, built.config)
        server.wait_for_log("event=model_withdrawn")
        send(server, 50, 70)
        assert metrics(server)["datasentinel_streams"] == 30
        assert server.stop() == 0
    with start_server(*flags, "--max-streams", "20", artifact=folder.parent) as server:
        server.wait_for_log("streams=20")
        assert metrics(server)["datasentinel_streams_warming"] == 20
        latest = list(recordings)[10:]
        send(server, 70, 110, latest)
        first = list(recordings)[:3]  # Forgotten, they begin anew, and three others make room.
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            for name in first:
                scores, words = v1_batch(channel, name, recordings[name][:40])
                np.testing.assert_allclose(scores, expected[name][:40], **CLOSE)
                assert set(words) == {"WARMING"}
        seen = metrics(server)
        assert seen["datasentinel_streams"] == 20
        assert seen["datasentinel_streams_evicted_total"] == 3
        assert seen["datasentinel_streams_warming"] == 3
        send(server, 110, 150, latest[3:])
        assert server.stop() == 0


def test_a_damaged_snapshot_is_told_and_not_used(start_server, memory_artifact, recording, tmp_path):
    flags = ("--no-tcp", "--no-grpc", "--stream-snapshot", str(tmp_path))
    with start_server(*flags, artifact=memory_artifact) as server:
        post(server, http_body(recording[:100], sequence_id="a"))
        assert server.stop() == 0
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-50] ^= 1
    file.write_bytes(content)
    with start_server(*flags, artifact=memory_artifact) as server:
        server.wait_for_log("event=streams_not_restored")
        assert "its checksum is wrong" in server.log()
        reply = post(server, http_body(recording[:1], sequence_id="a"))
        assert reply["outputs"][2]["data"] == [True]


def test_warming_rows_are_never_alarms(start_server, memory_artifact):
    wild = np.random.default_rng(0).normal(0, 1e6, (90, D)).astype(np.float32)
    with start_server("--no-grpc", artifact=memory_artifact) as server:
        assert set(server.ask(b"".join(map(line, wild))).split()) == {b"WARMING"}
        assert metrics(server)["datasentinel_model_anomalies_total"] == 0
        assert metrics(server)["datasentinel_anomalies_total"] == 0


def test_several_workers_refuse_a_model_with_memory(memory_artifact):
    refused = subprocess.run(
        command(memory_artifact, "--workers", "2", "--tcp-port", "0", "--grpc-port", "0", "--http-port", "0"),
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert refused.returncode != 0
    assert "serve it with --workers 1" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_model_without_memory_ignores_streams(start_server, artifact, rows):
    with start_server(artifact=artifact) as server:
        plain = b" ".join(str(value).encode() for value in rows[0]) + b"\n"
        assert server.ask(plain) == server.ask(b"@pump-7 " + plain)
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            scores = {v1_evaluate(channel, stream, rows[:1])[0][0] for stream in ("", "pump-7", "x" * 1000)}
        assert len(scores) == 1


def test_bytes_behind_the_json_name_a_stream_too(server, detector, recording):
    chunk = recording[:30]
    head = {
        "parameters": {"sequence_id": "binary", "binary_data_output": True},
        "inputs": [
            {
                "name": "input",
                "datatype": "FP32",
                "shape": list(chunk.shape),
                "parameters": {"binary_data_size": chunk.nbytes},
            }
        ],
    }
    text = json.dumps(head).encode()
    url = f"http://{server.host}:{server.http_port}/v2/models/memory/infer"
    request = urllib.request.Request(
        url, text + chunk.tobytes(), {"Inference-Header-Content-Length": str(len(text))}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
        content, size = reply.read(), int(reply.headers["Inference-Header-Content-Length"])
    scores = struct.unpack_from("<30f", content, size)
    np.testing.assert_allclose(scores, detector.score(chunk), **CLOSE)
    assert content[size + 120 :] == b"\0" * 30 + b"\1" * 30


@pytest.mark.parametrize("protocol", ["tcp", "grpc"])
def test_a_recording_with_ids_is_replayed(server, detector, protocol, tmp_path):
    hosts = {f"{protocol}-{i}": oscillations(110, seed=i) for i in range(3)}
    path = tmp_path / "recording.csv"
    with path.open("w") as file:
        file.write("host," + ",".join(f"x{i}" for i in range(D)) + "\n")
        for turn in range(110):
            for host, rows in hosts.items():
                file.write(host + "," + ",".join(map(str, rows[turn])) + "\n")
    flags = [
        "--file",
        str(path),
        "--id",
        "host",
        "--protocol",
        protocol,
        "--port",
        str(server.ports[protocol]),
    ]
    command_line = [sys.executable, "-m", "datasentinel", "produce", *flags, "--invalid-every", "0"]
    # One in flight: replies over gRPC may come in any order, and so may the requests.
    done = subprocess.run(
        [*command_line, "--window", "1", "--replies"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=clean_environment(),
    )
    said = [text.split()[1] for text in done.stdout.splitlines()[:330]]
    for i, rows in enumerate(hosts.values()):
        above = detector.score(rows).astype(np.float64) > detector.threshold
        expected = ["WARMING"] * 96 + ["ANOMALY" if anomaly else "OK" for anomaly in above[96:]]
        assert said[i::3] == expected


@pytest.mark.parametrize("streams", [300, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_streams_over_reloads_restarts_and_evictions(
    start_server, memory_artifact, detector, tmp_path, streams
):
    built = load_artifact(memory_artifact)
    recordings = [oscillations(100, seed=i) for i in range(100)]
    expected = [detector.score(rows) for rows in recordings]
    root = tmp_path / "models"
    save_artifact(root / "1", built.onnx, built.config)
    flags = (
        "--no-tcp",
        "--watch",
        "--watch-interval-s",
        "0.1",
        "--stream-snapshot",
        str(tmp_path / "states"),
    )

    def send(server, first, last, begin=0):
        """Send these rows of every stream, of whose state nothing may be lost; return how many are warming."""
        chunks = [rows[first:last].tobytes() for rows in recordings]
        window = threading.Semaphore(256)  # More at a time would fill the queue.

        def requests():
            for i in range(begin, streams):
                window.acquire()
                yield v1.EvaluateBatchRequest(
                    id=i, rows=last - first, raw_values=chunks[i % 100], stream_id=f"stream-{i:06d}"
                )

        warming = 0
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = v1_grpc.InferenceServiceStub(channel)
            for reply in stub.EvaluateStream(requests()):
                window.release()
                assert reply.message == ""
                np.testing.assert_allclose(
                    np.array(reply.scores, np.float32), expected[reply.id % 100][first:last], **CLOSE
                )
                warming += reply.statuses[-1] == v1.WARMING
        return warming

    with start_server(*flags, artifact=root) as server:
        before_bytes = server.rss_bytes()
        assert send(server, 0, 40) == streams
        per_stream_bytes = (server.rss_bytes() - before_bytes) / streams
        save_artifact(root / "2", built.onnx, replace(built.config, threshold=2 * built.config.threshold))
        server.wait_for_log("event=model_withdrawn")
        assert send(server, 40, 60) == streams
        assert metrics(server)["datasentinel_streams"] == streams
        assert metrics(server)["datasentinel_streams_evicted_total"] == 0
        assert server.stop() == 0
    if streams >= 10_000:  # With fewer the rest of the process counts.
        print(f"{per_stream_bytes:.0f} bytes of resident memory a stream")
        assert per_stream_bytes < 4 * detector.scorer.state_dim + 300
    kept = streams - streams // 10
    with start_server(*flags, "--max-streams", str(kept), artifact=root) as server:
        assert send(server, 60, 98, begin=streams - kept) == 0
        assert metrics(server)["datasentinel_streams"] == kept
        # The others were forgotten: they begin anew, in the place of those heard of least recently.
        chunk = recordings[0][:1]
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            assert v1_batch(channel, "stream-000000", chunk)[1] == ["WARMING"]
        assert metrics(server)["datasentinel_streams_evicted_total"] == 1
        assert send(server, 98, 100, begin=streams - kept + 1) == 0
        assert server.stop() == 0
