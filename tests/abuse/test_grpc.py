"""What one gRPC client can do to the server and to others: each fault with its bound, on a real server."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from datasentinel.messages import make_stub
from datasentinel.oip import grpc_predict_v2_pb2 as oip
from datasentinel.serving.control import health_pb2, reflection_pb2
from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.abuse import http2
from tests.abuse.http2 import Peer, frame, message
from tests.abuse.probe import Probe, best_of_tries, require_short

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 20
D = 8
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(start_server):
    with start_server("--receive-timeout-s", "2") as process:
        yield process
        assert process.stop() == 0, process.log()


@pytest.fixture
def connect():
    """Open connections, which end with the test."""
    peers = []

    def open_one(server) -> Peer:
        peers.append(Peer.connect(server))
        return peers[-1]

    yield open_one
    for peer in peers:
        peer.close()


def descriptors(server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@contextmanager
def harming_nobody(server) -> Iterator[float]:
    """Measure meanwhile how long the server makes others wait; gives when it has measured enough."""
    seconds = 2.0
    probe = Probe(server, seconds)
    yield time.monotonic() + seconds
    require_short(probe.result())


def settled_descriptors(server) -> int:
    """How many are open when those of earlier tests are closed."""
    for _ in range(50):
        count = descriptors(server)
        time.sleep(0.2)
        if descriptors(server) == count:
            break
    return count


def wait_until(holds, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def batch_request(rows: int) -> bytes:
    values = np.ones((rows, D), np.float32).tobytes()
    return inference_pb2.EvaluateBatchRequest(id=1, rows=rows, raw_values=values).SerializeToString()


def score_over_grpc(server) -> None:
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        assert stub.Evaluate(inference_pb2.EvaluateRequest(values=[1] * D), timeout=TIMEOUT_S).mse > 0


@best_of_tries
def test_headers_that_expand_end_the_connection(connect, server):
    """Each of 11,000 one-byte references stands for a header of 4 KB (an HPACK bomb)."""
    stored = http2.field_line("x-b", "v" * 4000, indexed=True)
    blocks = [
        http2.request_headers(http2.EVALUATE) + (stored if i == 0 else b"") + b"\xbe" * 11000
        for i in range(9)
    ]
    with harming_nobody(server) as end_s:
        while time.monotonic() < end_s:
            peer = connect(server)
            for i, block in enumerate(blocks):
                peer.send(frame(http2.HEADERS, http2.END_HEADERS, 2 * i + 1, block))
            assert peer.receive(until=lambda peer=peer: peer.goaway() is not None)
            assert peer.has(http2.RST_STREAM, 1)
            assert peer.goaway() == (http2.ENHANCE_YOUR_CALM, b"headers are too large")
    assert wait_until(lambda: peer.receive(timeout_s=0.1) or peer.ended, 5)


FRAMES_FOR_NOTHING = {
    "padding": frame(http2.DATA, http2.PADDED, 1, b"\xff" + bytes(255)),
    "priorities": frame(http2.PRIORITY, 0, 1, b"\0\0\0\3\x10"),
    "windows of a call that has ended": frame(http2.WINDOW_UPDATE, 0, 3, b"\0\0\0\1"),
    "an unknown type": frame(http2.UNKNOWN, 0, 0, bytes(16384)),
}


@pytest.mark.parametrize("what", FRAMES_FOR_NOTHING)
@best_of_tries
def test_frames_that_ask_for_nothing_end_the_connection(connect, server, what):
    """Again and again on new connections; each ends within moments."""
    flood = FRAMES_FOR_NOTHING[what] * 200
    with harming_nobody(server) as end_s:
        while time.monotonic() < end_s:
            peer = connect(server)
            peer.open(1, http2.EVALUATE_STREAM)
            peer.open(3, http2.EVALUATE, end=True)
            for _ in range(2000):
                peer.send(flood)
                if peer.ended:
                    break
            assert peer.ended or peer.receive(until=lambda peer=peer: peer.goaway() is not None)
            peer.close()


def test_clients_that_keep_alive_as_often_as_they_can_are_served(server):
    """What a library sends besides, for thousands of messages and at every keepalive setting, is no flood."""
    options = [
        ("grpc.keepalive_time_ms", 10),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.lookahead_bytes", 1024),
    ]
    request = inference_pb2.EvaluateBatchRequest.FromString(batch_request(1))
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}", options) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(3):
            calls = [stub.EvaluateStream(iter([request] * 3000), timeout=TIMEOUT_S) for _ in range(4)]
            cancelled = [stub.Evaluate.future(inference_pb2.EvaluateRequest()) for _ in range(500)]
            for call in cancelled:
                call.cancel()
            assert [sum(1 for _ in call) for call in calls] == [3000] * 4
            time.sleep(0.2)  # Nothing but keepalive.


def test_large_headers_are_answered(connect, server):
    peer = connect(server)
    # 18 KB as header lists are counted, with 32 bytes for each of them.
    peer.open(1, http2.EVALUATE, end=True, **{f"x_{i:03}": "value" for i in range(430)})
    assert peer.receive(until=lambda: peer.answered() == 1)
    assert peer.goaway() is None


def test_refused_bodies_are_freed(connect, server):
    """A call that was refused keeps nothing of its body, although its client never ends the stream."""
    junk = message(b"\xff" * (4 * MIB - 10))
    before = server.rss_bytes()
    peer = connect(server)
    most = 0
    for i in range(40):
        stream = 2 * i + 1
        peer.open(stream, http2.EVALUATE)
        peer.data(stream, junk)
        most = max(most, server.rss_bytes() - before)
    assert peer.receive(until=lambda: peer.answered() == 40)
    assert peer.receive(until=lambda: sum(1 for f in peer.frames if f[0] == http2.RST_STREAM) >= 40)
    assert most < 64 * MIB


def test_unfinished_messages_are_bounded_in_sum(connect, start_server):
    """Many connections that never end what they begin; others are still served."""
    with start_server("--memory-mib", "32") as server:
        before = server.rss_bytes()
        begun = message(b"\0" * (4 * MIB - 10))[: 3 * MIB]
        for _ in range(8):
            peer = connect(server)
            for i in range(4):
                peer.open(2 * i + 1, http2.EVALUATE_STREAM)
                peer.data(2 * i + 1, begun, timeout_s=0.2)
        assert server.rss_bytes() - before < 64 * MIB  # About 100 MB were begun; the allocator keeps some.
        score_over_grpc(server)


def test_unread_replies_are_bounded(connect, start_server):
    """A client asks for all outputs of many rows, and never opens its window for them."""
    with start_server() as server:
        before = server.rss_bytes()
        peer = connect(server)
        rows = 30_000
        request = oip.ModelInferRequest(raw_input_contents=[bytes(4 * D * rows)])
        request.inputs.add(name="input", datatype="FP32", shape=[rows, D])
        for output in ("output", "contributions"):
            request.outputs.add(name=output)
        for i in range(60):  # Each reply has 1.9 MB.
            peer.open(2 * i + 1, "/inference.GRPCInferenceService/ModelInfer")
            peer.data(2 * i + 1, message(request.SerializeToString()), end=True, timeout_s=0.2)
        assert server.rss_bytes() - before < 96 * MIB
        score_over_grpc(server)


@pytest.mark.parametrize("bomb", [True, False])
@best_of_tries
def test_inflating_holds_up_nobody(connect, server, bomb):
    """Messages of 4 KB that become 4 MB each, and such as would become 64 MB."""
    if bomb:
        body, count = gzip.compress(bytes(64 * MIB), 9), 40
    else:
        large = inference_pb2.EvaluateRequest(values=np.zeros(MIB - 100, np.float32)).SerializeToString()
        body, count = gzip.compress(large, 9), 40
    peer = connect(server)
    before = server.rss_bytes()
    with harming_nobody(server):
        for i in range(count):
            peer.open(2 * i + 1, http2.EVALUATE, grpc_encoding="gzip")
            peer.data(2 * i + 1, message(body, compressed=True), end=True)
        assert peer.receive(until=lambda: peer.answered() == count, timeout_s=60)
    assert server.rss_bytes() - before < 64 * MIB


@pytest.mark.parametrize("method", ["ServerLive", "ModelStatistics"])
@best_of_tries
def test_a_flood_of_calls_for_python_holds_up_nobody(connect, server, method):
    """Calls that are answered in Python, hundreds in every chunk; none of them is left unanswered."""
    calls = 900
    block = http2.request_headers(f"/inference.GRPCInferenceService/{method}")
    flood = frame(http2.WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4)) + b"".join(
        frame(http2.HEADERS, http2.END_HEADERS, 2 * i + 1, block)
        + frame(http2.DATA, http2.END_STREAM, 2 * i + 1, message(b""))
        for i in range(calls)
    )
    with harming_nobody(server) as end_s:
        while time.monotonic() < end_s:
            peer = connect(server)
            peer.send(flood)
            assert peer.receive(until=lambda peer=peer: peer.answered() == calls, timeout_s=30)


@pytest.mark.parametrize(
    ("path", "sent", "end"),
    [
        (http2.EVALUATE_STREAM, message(batch_request(1)), False),  # Answered once, and open.
        (http2.EVALUATE, message(b"\x0a\x20" + bytes(32))[:10], False),  # Half a message.
        (http2.EVALUATE, b"", False),  # Headers only.
        (http2.WATCH, message(b""), True),  # The server would go on for ever.
    ],
)
def test_a_dead_client_is_gone_within_seconds(connect, server, path, sent, end):
    before = settled_descriptors(server)
    peers = [connect(server) for _ in range(30)]
    for peer in peers:
        peer.open(1, path)
        if sent:
            peer.send(frame(http2.DATA, http2.END_STREAM if end else 0, 1, sent))
    assert descriptors(server) >= before + 30
    time.sleep(0.2)
    for peer in peers:
        peer.sock.shutdown(1)  # A plain FIN, as the kernel sends for a process that was killed.
    assert wait_until(lambda: descriptors(server) <= before, 20)


CLIENT = """
import sys, time
import grpc
def requests():
    while True:
        yield bytes.fromhex(sys.argv[2])
        time.sleep(0.05)
channel = grpc.insecure_channel(sys.argv[1])
replies = channel.stream_stream("/datasentinel.v1.InferenceService/EvaluateStream")(requests())
for number, _ in enumerate(replies):
    if number == 3:
        print("streaming", flush=True)
"""


def test_a_killed_client_is_gone_within_seconds(server):
    before = settled_descriptors(server)
    arguments = [sys.executable, "-c", CLIENT, f"{server.host}:{server.grpc_port}", batch_request(1).hex()]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as client:
        assert client.stdout.readline() == b"streaming\n"
        assert descriptors(server) > before
        client.kill()
    assert wait_until(lambda: descriptors(server) <= before, 20)


def test_what_was_asked_before_the_end_is_answered(connect, server):
    peer = connect(server)
    peer.open(1, http2.EVALUATE)
    row = inference_pb2.EvaluateRequest(values=[1] * D).SerializeToString()
    peer.send(frame(http2.DATA, http2.END_STREAM, 1, message(row)))
    peer.sock.shutdown(1)
    assert peer.receive(until=lambda: peer.answered() == 1)
    assert peer.receive(until=lambda: peer.ended, timeout_s=3)


@pytest.mark.parametrize(
    "greeting",
    [
        b"PRI * HTTP/2.0\r\n\r\nS",  # Half a greeting.
        # Headers without their end: a CONTINUATION must follow.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(http2.SETTINGS, 0, 0)
        + frame(http2.HEADERS, 0, 1, http2.request_headers(http2.EVALUATE)),
    ],
)
def test_a_slow_greeting_or_header_ends_the_connection(server, greeting):
    with server.connect("grpc", timeout_s=10) as sock:
        sock.sendall(greeting)
        started = time.monotonic()
        while sock.recv(1 << 16):
            pass
        assert 1.5 < time.monotonic() - started < 30


def test_a_slow_message_ends_its_call_and_no_other(connect, server):
    """One byte at a time, with pings between, which are no progress of the message."""
    peer = connect(server)
    peer.open(1, http2.EVALUATE)
    started = time.monotonic()
    for byte in message(b"\x0a\x20" + bytes(32))[:20]:
        peer.send(frame(http2.DATA, 0, 1, bytes([byte])) + frame(http2.PING, 0, 0, bytes(8)))
        if peer.receive(until=lambda: peer.answered() == 1, timeout_s=0.4):
            break
    assert 1.5 < time.monotonic() - started < 30
    (trailers,) = [f for f in peer.frames if f[0] == http2.HEADERS]
    assert trailers[2] == 1


def test_pings_are_no_use_of_a_connection(connect, start_server):
    with start_server("--grpc-idle-timeout-s", "1") as server:
        peer = connect(server)
        started = time.monotonic()
        while not peer.ended and time.monotonic() - started < 30:
            peer.send(frame(http2.PING, 0, 0, bytes(8)))
            peer.receive(timeout_s=0.3)
        assert peer.ended
        assert server.stop() == 0, server.log()


def test_pings_too_often_are_told_so(connect, start_server):
    with start_server("--grpc-min-ping-interval-s", "100") as server:
        peer = connect(server)
        for _ in range(4):
            peer.send(frame(http2.PING, 0, 0, bytes(8)))
        assert peer.receive(until=lambda: peer.goaway() is not None)
        assert peer.goaway() == (http2.ENHANCE_YOUR_CALM, b"too_many_pings")
        # Where replies move, pings are welcome.
        peer = connect(server)
        row = inference_pb2.EvaluateRequest(values=[1] * D).SerializeToString()
        for i in range(8):
            peer.open(2 * i + 1, http2.EVALUATE)
            peer.send(frame(http2.DATA, http2.END_STREAM, 2 * i + 1, message(row)))
            assert peer.receive(until=lambda count=i + 1: peer.answered() == count)
            peer.send(frame(http2.PING, 0, 0, bytes(8)))
        assert peer.goaway() is None
        assert server.stop() == 0, server.log()


def test_health_is_answered_while_every_call_is_taken(start_server):
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with start_server("--grpc-max-calls", "1") as server:
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = make_stub("grpc.reflection.v1.ServerReflection")(channel)
            release = threading.Event()

            def held():
                yield request
                release.wait(TIMEOUT_S)

            taken = stub.ServerReflectionInfo(held(), timeout=TIMEOUT_S)
            next(taken)  # An answered call that has not ended has the only place.
            with pytest.raises(grpc.RpcError) as refusal:
                list(stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S))
            assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            health = make_stub("grpc.health.v1.Health")(channel)
            for _ in range(3):
                check = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
                assert check.status == health_pb2.HealthCheckResponse.SERVING
            release.set()
            assert not list(taken)
        assert server.stop() == 0, server.log()


def test_a_method_of_one_message_takes_no_more(connect, start_server):
    """Messages that nobody answers, because their call does not end, are not kept."""
    with start_server() as server:
        peer = connect(server)
        peer.open(1, "/grpc.health.v1.Health/Check")
        peer.send(frame(http2.DATA, 0, 1, message(b"")))
        assert not peer.receive(until=lambda: peer.answered() == 1, timeout_s=0.3)
        peer.send(frame(http2.DATA, 0, 1, message(b"")))
        assert peer.receive(until=lambda: peer.answered() == 1)
        assert server.stop() == 0, server.log()


def test_calls_that_are_taken_back_at_once_leave_nothing_behind(connect, start_server):
    """Before a handler that takes its time has begun, as gRPC clients do with a deadline that has passed."""
    with start_server() as server:
        peer = connect(server)
        for stream, method in enumerate(["RepositoryModelLoad", "RepositoryModelUnload"]):
            block = http2.request_headers(f"/inference.GRPCInferenceService/{method}")
            peer.send(
                frame(http2.HEADERS, http2.END_HEADERS, 2 * stream + 1, block)
                + frame(http2.DATA, http2.END_STREAM, 2 * stream + 1, message(b""))
                + frame(http2.RST_STREAM, 0, 2 * stream + 1, (8).to_bytes(4))
            )
        peer.open(5, "/grpc.health.v1.Health/Check")
        peer.data(5, message(b""), end=True)
        assert peer.receive(until=lambda: peer.answered() == 1)
        assert server.stop() == 0, server.log()
        assert "Warning" not in server.log()


def test_sigterm_answers_what_was_accepted_and_cancels_nothing(connect, start_server, detector, rows):
    with start_server("--max-inline-us", "0", "--drain-timeout-s", "2") as server:
        codes: list[grpc.StatusCode] = []
        stop = threading.Event()

        def keep_asking() -> None:
            with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
                stub = inference_pb2_grpc.InferenceServiceStub(channel)
                request = inference_pb2.EvaluateRequest(values=rows[0])
                while not stop.is_set():
                    _, call = stub.Evaluate.with_call(request, timeout=TIMEOUT_S)
                    codes.append(call.code())

        def ask() -> None:
            try:
                keep_asking()
            except grpc.RpcError as error:
                codes.append(error.code())

        # Its call has no end of its own: when the time is up it is told so, too.
        endless = connect(server)
        endless.open(1, http2.EVALUATE)
        endless.send(frame(http2.DATA, 0, 1, message(b"\x0a\x20" + bytes(32))[:10]))
        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        assert wait_until(lambda: len(codes) > 20, TIMEOUT_S)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(TIMEOUT_S)
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert endless.receive(until=lambda: endless.answered() == 1)
        assert endless.goaway()[0] == 0
        assert server.process.wait(TIMEOUT_S) == 0
