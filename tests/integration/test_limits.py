"""Limits: who is slow is cut off, who floods the server costs it a bounded amount of memory."""

from __future__ import annotations

import selectors
import socket
import struct
import time

import grpc
import pytest

from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.server_process import to_line, to_lines, to_replies

TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def hasty(start_server):
    """A server that gives a message half a second to arrive."""
    with start_server("--receive-timeout-s", "0.5", "--grpc-max-streams", "7") as process:
        yield process


@pytest.mark.parametrize(
    ("transport", "start"),
    [
        ("tcp", b"1 2 3"),
        ("http", b"GET /healthz HTT"),
        ("http", b"GET / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"),
    ],
)
def test_a_message_that_does_not_arrive_whole_ends_the_connection(hasty, transport, start):
    """A byte now and then, which would keep an idle timeout from firing, does not help."""
    with hasty.connect(transport) as sock:
        started = time.monotonic()
        sock.sendall(start)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(sock)
        assert time.monotonic() - started > 0.4
    hasty.wait_for_log(f"event=slow_sender_closed transport={transport}")


def drip(sock: socket.socket) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        sock.sendall(b"1")
        time.sleep(0.05)


def test_who_waits_between_messages_is_not_slow(hasty, detector, rows):
    expected = to_replies(detector.predict(rows[:3]))
    with hasty.connect() as sock, sock.makefile("rb") as replies:
        for row, reply in zip(rows[:3], expected, strict=True):
            sock.sendall(to_line(row))
            assert replies.readline().strip() == reply
            time.sleep(0.8)


def test_the_streams_of_a_connection_are_limited(hasty):
    """The server says so in its first HTTP/2 frame."""
    with hasty.connect("grpc") as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        head = receive(sock, 9)
        length, kind = int.from_bytes(head[:3]), head[3]
        assert kind == 4  # SETTINGS
        payload = receive(sock, length)
    settings = dict(struct.unpack_from(">HI", payload, offset) for offset in range(0, length, 6))
    assert settings[3] == 7  # MAX_CONCURRENT_STREAMS


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        assert chunk
        data += chunk
    return data


def test_calls_over_the_limit_are_refused_at_once_and_the_others_answered(start_server, detector, rows):
    expected = [float(detector.score(row)[0]) for row in rows[:50]]
    with (
        start_server("--grpc-max-calls", "2", "--no-tcp") as server,
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        answered = 0
        for _ in range(10):
            futures = [
                stub.Evaluate.future(inference_pb2.EvaluateRequest(values=row), timeout=TIMEOUT_S)
                for row in rows[:50]
            ]
            for future, score in zip(futures, expected, strict=True):
                error = future.exception()
                if error is None:
                    assert future.result().mse == pytest.approx(score, rel=1e-5)
                    answered += 1
                else:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert answered > 0


def test_a_flood_leaves_the_memory_bounded_and_others_served(start_server, detector, rows):
    """Some send and never read, some hold back the end of a long line, some are too many."""
    non_readers, holders, spare = 40, 100, 5
    line_bytes, buffer_bytes = 64 << 10, 64 << 10
    limits = ("--tcp-max-line-bytes", str(line_bytes), "--write-buffer-bytes", str(buffer_bytes))
    room = non_readers + holders + spare
    with start_server(*limits, "--tcp-max-connections", str(room), "--no-grpc") as server:
        expected = to_replies(detector.predict(rows[:20]))
        assert server.ask(to_lines(rows[:20])).split() == expected
        before = server.rss_bytes()
        held = [server.connect() for _ in range(holders)]
        for sock in held:
            sock.sendall(b" " * (line_bytes - 1))
        sent, peak = send_what_fits([server.connect() for _ in range(non_readers)], held, server)
        grown = peak - before
        # A holder costs its line; a non-reader a read of 256 KiB and the replies to it, which are five times as
        # long. The buffers of the sockets are the kernel's.
        assert grown < holders * 4 * line_bytes + non_readers * (2 << 20), f"{grown >> 20} MiB more"
        assert server.ask(to_lines(rows[:20])).split() == expected

        extra = [server.connect() for _ in range(2 * spare)]
        refused = [sock for sock in extra if is_refused(sock)]
        assert len(refused) == spare
        for sock in [*held, *extra]:
            sock.close()
        deadline = time.monotonic() + TIMEOUT_S
        while server.ask(to_lines(rows[:20])).split() != expected:
            assert time.monotonic() < deadline
        print(f"{sent >> 20} MiB sent, {grown >> 20} MiB more resident at the peak")


def send_what_fits(socks: list[socket.socket], held: list[socket.socket], server) -> tuple[int, int]:
    """Send bad lines until the server takes no more; give the bytes sent and the greatest memory seen."""
    flood = b"xxxxxxxxxx\n" * 8192
    held += socks
    selector = selectors.DefaultSelector()
    for sock in socks:
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_WRITE)
    sent = peak = 0
    while events := selector.select(1.0):
        for key, _ in events:
            sent += key.fileobj.send(flood)
        assert sent < len(socks) * (64 << 20), "the server never stops reading"
        peak = max(peak, server.rss_bytes())
    selector.close()
    return sent, peak


def is_refused(sock: socket.socket) -> bool:
    """Whether the server says that this is one connection too many; who is welcome gets an answer."""
    sock.sendall(b"x\n")
    return sock.recv(100).startswith(b"ERROR: too many connections")
