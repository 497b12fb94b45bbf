"""gRPC over real channels: inference, limits, deadlines, cancellation, the queue, draining."""

from __future__ import annotations

import re
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from datasentinel.oip import grpc_predict_v2_pb2 as oip
from datasentinel.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.server_process import ANY_PORT, clean_environment, command, read_all

TIMEOUT_S = 20
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def plain(start_server):
    with start_server("--no-tcp") as process:
        yield from process.until_stopped()


@pytest.fixture(scope="module")
def parked(start_server):
    """A server that scores everything off the event loop."""
    with start_server("--no-tcp", "--max-inline-us", "0", "--queue-rows", "3000") as process:
        yield from process.until_stopped()


def open_channel(server, **options) -> grpc.Channel:
    return grpc.insecure_channel(f"{server.host}:{server.grpc_port}", **options)


def infer_request(rows: np.ndarray, *outputs: str, raw: bool = True, **fields) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(**fields)
    tensor = request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    if raw:
        request.raw_input_contents.append(rows.astype("<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    for output in outputs:
        request.outputs.add(name=output)
    return request


def outputs_of(response: oip.ModelInferResponse) -> dict[str, np.ndarray]:
    found = {}
    for index, tensor in enumerate(response.outputs):
        is_bool = tensor.datatype == "BOOL"
        if response.raw_output_contents:
            values = np.frombuffer(response.raw_output_contents[index], bool if is_bool else "<f4")
        else:
            contents = tensor.contents
            values = np.array(contents.bool_contents if is_bool else contents.fp32_contents)
        found[tensor.name] = values.reshape(tuple(tensor.shape))
    return found


@pytest.mark.parametrize("server_name", ["plain", "parked"])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("count", [0, 1, 7, 2000])
def test_inference_gives_what_is_asked_for(request, detector, rows, server_name, raw, count):
    server = request.getfixturevalue(server_name)
    batch = rows[:count]
    with open_channel(server) as channel:
        infer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        response = infer(infer_request(batch, raw=raw, id="me"), timeout=TIMEOUT_S)
        assert (response.id, response.model_version != "") == ("me", True)
        plain = outputs_of(response)
        assert list(plain) == ["score", "anomaly"]
        np.testing.assert_allclose(plain["score"], detector.score(batch), rtol=1e-5)
        np.testing.assert_array_equal(plain["anomaly"], detector.predict(batch))
        wide = outputs_of(infer(infer_request(batch, "contributions", "output", raw=raw), timeout=TIMEOUT_S))
        assert list(wide) == ["contributions", "output"]
        np.testing.assert_allclose(wide["output"], detector.reconstruct(batch), rtol=1e-4, atol=1e-5)
        assert wide["contributions"].shape == batch.shape


@pytest.mark.parametrize("server_name", ["plain", "parked"])
def test_a_stream_is_answered_in_order(request, detector, rows, server_name):
    server = request.getfixturevalue(server_name)
    with open_channel(server) as channel:
        stream = oip_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        requests = [infer_request(rows[i : i + 1 + i % 3], id=str(i)) for i in range(200)]
        requests[5].inputs[0].shape[1] = 7
        replies = list(stream(iter(requests), timeout=TIMEOUT_S))
    assert [reply.infer_response.id for reply in replies] == [str(i) for i in range(200)]
    assert "expected shape [N, 8], got [3, 7]" in replies[5].error_message
    for i in (0, 6, 199):
        found = outputs_of(replies[i].infer_response)["score"]
        np.testing.assert_allclose(found, detector.score(rows[i : i + 1 + i % 3]), rtol=1e-5)


def test_many_at_once_are_each_answered_right(parked, detector, rows):
    expected = detector.score(rows)
    with open_channel(parked) as channel, ThreadPoolExecutor(16) as pool:
        infer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        def ask(i: int) -> bool:
            found = outputs_of(infer(infer_request(rows[i : i + 3]), timeout=TIMEOUT_S))["score"]
            return bool(np.allclose(found, expected[i : i + 3], rtol=1e-5))

        assert all(pool.map(ask, range(1000)))


def test_a_full_queue_says_so_and_recovers(start_server, detector, rows):
    # The first batch waits for company, and there is no room for any.
    flags = ("--max-inline-us", "0", "--queue-rows", "100", "--max-queue-delay-us", "500000", "--no-tcp")
    with start_server(*flags) as server, open_channel(server) as channel:
        infer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        infer(infer_request(rows[:100]), timeout=TIMEOUT_S)  # From now on it is known to take a while.
        first, second = (infer.future(infer_request(rows[:100]), timeout=TIMEOUT_S) for _ in range(2))
        assert second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not first.done()
        for response in (first.result(), infer(infer_request(rows[:100]), timeout=TIMEOUT_S)):
            np.testing.assert_allclose(outputs_of(response)["score"], detector.score(rows[:100]), rtol=1e-5)


@pytest.mark.parametrize("server_name", ["plain", "parked"])
def test_a_cancelled_call_harms_nobody(request, detector, rows, server_name):
    server = request.getfixturevalue(server_name)
    with open_channel(server) as channel:
        infer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        calls = [infer.future(infer_request(rows[i : i + 50]), timeout=TIMEOUT_S) for i in range(60)]
        for call in calls[::2]:
            call.cancel()
        for i, call in enumerate(calls):
            if i % 2:
                found = outputs_of(call.result())["score"]
                np.testing.assert_allclose(found, detector.score(rows[i : i + 50]), rtol=1e-5)


@pytest.mark.parametrize("encoding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_read(plain, detector, rows, encoding):
    with open_channel(plain, compression=encoding) as channel:
        response = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            infer_request(rows[:100]), timeout=TIMEOUT_S
        )
        np.testing.assert_allclose(outputs_of(response)["score"], detector.score(rows[:100]), rtol=1e-5)
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        explained = stub.Evaluate(
            inference_pb2.EvaluateRequest(values=rows[0], explain_top=2), timeout=TIMEOUT_S
        )
        assert len(explained.contributions) == 2


def test_a_bomb_is_refused(plain, rows):
    with open_channel(plain, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(bytes(5 << 20), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "decompressed" in caught.value.details()


def queue_times(server) -> tuple[float, float, oip.InferStatistics]:
    """Give count and sum of the histogram of waits, and the model's statistics."""
    text = server.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "http").decode()
    count, total = (
        float(
            re.search(rf'^datasentinel_queue_duration_seconds_{part}{{transport="grpc"}} (\S+)', text, re.M)[
                1
            ]
        )
        for part in ("count", "sum")
    )
    with open_channel(server) as channel:
        ask = oip_grpc.GRPCInferenceServiceStub(channel).ModelStatistics
        (model,) = ask(oip.ModelStatisticsRequest(), timeout=TIMEOUT_S).model_stats
    return count, total, model.inference_stats


def test_the_wait_in_the_queue_is_told(parked, rows):
    count, total, told = queue_times(parked)
    with open_channel(parked) as channel:
        for _ in range(5):
            oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(infer_request(rows[:9]), timeout=TIMEOUT_S)
    later_count, later_total, later = queue_times(parked)
    assert later_count == count + 5
    assert later_total > total
    assert later.queue.count == later.success.count == told.success.count + 5
    waited_ns = later.queue.ns - told.queue.ns
    assert 0 < waited_ns < later.success.ns - told.success.ns
    assert waited_ns == pytest.approx((later_total - total) * 1e9, rel=1e-6)
    assert later.queue.ns + later.compute_infer.ns == later.success.ns


def test_a_message_that_stops_half_way_ends_at_its_deadline(plain):
    """Speaks HTTP/2 by hand: a client library would end the call itself."""
    headers = b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/datasentinel.v1.InferenceService/Evaluate"),
            (b":authority", b"x"),
            (b"content-type", b"application/grpc"),
            (b"grpc-timeout", b"100m"),
        ]
    )

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
        )

    with plain.connect("grpc") as sock:
        opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
        sock.sendall(opening + frame(1, 4, 1, headers) + frame(0, 0, 1, b"\0\0\0\0\x22half"))
        reader = sock.makefile("rb")
        kinds = []
        while not kinds or kinds[-1] != (1, 5):  # HEADERS that end the stream
            head = reader.read(9)
            assert len(head) == 9, kinds
            reader.read(int.from_bytes(head[:3], "big"))
            kinds.append((head[3], head[4]))


def test_what_is_no_http2_is_hung_up_on(plain):
    with plain.connect("grpc") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100))
        read_all(sock)


def test_draining_answers_what_was_asked_and_ends_the_stream(start_server, detector, rows):
    with start_server("--no-tcp", "--max-inline-us", "0") as server, open_channel(server) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        finish = threading.Event()

        def requests():
            yield inference_pb2.EvaluateBatchRequest(id=1, rows=1, values=rows[0])
            finish.wait(TIMEOUT_S)

        replies = stub.EvaluateStream(requests(), timeout=TIMEOUT_S)
        assert next(replies).scores[0] == pytest.approx(detector.score(rows[0])[0], rel=1e-5)
        server.process.terminate()
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        finish.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(TIMEOUT_S) == 0


def test_without_its_library_the_other_ports_serve(start_server, rows):
    with start_server(environ={"DATASENTINEL_NGHTTP2_LIBRARY": "/nowhere/libnghttp2.so.14"}) as server:
        assert "grpc" not in server.ports
        assert server.ask(b"1 2 3 4 5 6 7 8\n")
        (line,) = [line for line in server.log().splitlines() if "event=grpc_not_served" in line]
    for word in (
        "/nowhere/libnghttp2.so.14",
        "apt install libnghttp2-14",
        "dnf",
        "apk",
        "conda",
        "--no-grpc",
    ):
        assert word in line


@pytest.mark.parametrize("flags", [("--require-grpc",), ("--no-tcp", "--no-http")])
def test_without_its_library_required_grpc_is_an_error(artifact, flags):
    environ = clean_environment() | {"DATASENTINEL_NGHTTP2_LIBRARY": "/nowhere/libnghttp2.so.14"}
    arguments = command(artifact, *ANY_PORT, *flags)
    done = subprocess.run(
        arguments, env=environ, check=False, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode != 0
    assert "gRPC cannot be served" in done.stderr
    assert "apt install libnghttp2-14" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_long_stream_of_small_messages_is_no_attack(grpc_server, detector, rows):
    # For each reply that it takes, grpcio opens its windows again, by frames that ask for nothing.
    with grpc.insecure_channel(f"{grpc_server.host}:{grpc_server.grpc_port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.EvaluateBatchRequest(rows=20, raw_values=rows[:20].tobytes())
        replies = stub.EvaluateStream((request for _ in range(20_000)), timeout=60)
        scores = np.array([reply.scores for reply in replies])
    np.testing.assert_array_equal(scores, np.tile(detector.score(rows[:20]), (20_000, 1)))
