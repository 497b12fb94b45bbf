"""No client makes the others wait, whatever it sends, on a real server and real sockets."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.abuse.probe import Probe, best_of_tries, require_short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INFER = "/v2/models/test/infer"
PROBE_S = 2.0


def post(body: bytes, *fields: str) -> bytes:
    head = [f"POST {INFER} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def infer_body(rows: int, extra: str = "") -> bytes:
    data = ",".join(["1"] * (8 * rows))
    tensor = f'{{"name":"input","datatype":"FP32","shape":[{rows},8],"data":[{data}]}}'
    return f'{{{extra}"inputs":[{tensor}]}}'.encode()


def one_byte_chunks() -> bytes:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"1\r\n \r\n" * 1_500_000


BOMB = gzip.compress(b'{"a":"' + b"a" * 16_770_000 + b'"}', 9)

ABUSE = {
    "a flood of lines": ("tcp", 8, lambda: b"1 1 1 1 1 1 1 1\n" * 100_000),
    "a flood of bad lines": ("tcp", 4, lambda: b"x\n" * 1_000_000),
    "pipelined health": ("http", 1, lambda: get("/healthz") * 20_000),
    "pipelined metrics": ("http", 1, lambda: get("/metrics") * 2_000),
    "pipelined unknown paths": ("http", 4, lambda: get("/x") * 20_000),
    "pipelined unknown models": (
        "http",
        2,
        lambda: post(infer_body(1000)).replace(b"/test/", b"/none/") * 200,
    ),
    "pipelined inference": ("http", 2, lambda: post(infer_body(1)) * 20_000),
    "pipelined inference of many rows": ("http", 2, lambda: post(infer_body(1000)) * 200),
    "one-byte chunks": ("http", 1, one_byte_chunks),
    "compressed bombs": ("http", 2, lambda: post(BOMB, "Content-Encoding: gzip") * 50),
}


@contextlib.contextmanager
def abusing(server, transport: str, connections: int, data: bytes) -> Iterator[None]:
    """Send the data again and again on so many connections, and read whatever comes."""
    stop = threading.Event()

    def send(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                sock.sendall(data)

    def read(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(1 << 18):
                pass

    socks = [server.connect(transport) for _ in range(connections)]
    threads = [threading.Thread(target=work, args=(sock,)) for sock in socks for work in (send, read)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for sock in socks:
            sock.close()


@pytest.fixture(scope="module")
def server(start_server):
    with start_server("--no-grpc") as process:
        yield process
        assert "level=error" not in process.log()


@pytest.mark.parametrize("what", ABUSE)
@best_of_tries
def test_others_hardly_wait(server, what):
    transport, connections, make = ABUSE[what]
    data: bytes = make()
    probe = Probe(server, PROBE_S)
    time.sleep(0.3)
    with abusing(server, transport, connections, data):
        waits = probe.result()
    require_short(waits)


def test_a_flood_does_not_keep_the_server_from_stopping(start_server):
    with (
        start_server("--no-grpc", "--drain-timeout-s", "120") as server,
        abusing(server, "http", 1, get("/metrics") * 2_000),
        abusing(server, "tcp", 2, b"1 1 1 1 1 1 1 1\n" * 100_000),
    ):
        time.sleep(0.5)
        server.process.terminate()
        server.wait_for_log("event=draining")
        server.process.terminate()  # The second signal: now.
        assert server.process.wait(60) == 0


def unread(server, data: bytes) -> socket.socket:
    """A connection that sends, and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((server.host, server.http_port))
    sock.settimeout(2)
    with contextlib.suppress(OSError):
        sock.sendall(data)
    return sock


MIB = 1 << 20


def test_lines_that_have_begun_are_bounded_in_sum(start_server):
    with start_server("--no-grpc", "--memory-mib", "32") as server, contextlib.ExitStack() as stack:
        before = server.rss_bytes()
        told = []
        for _ in range(150):
            sock = stack.enter_context(server.connect())
            with contextlib.suppress(OSError):  # Refused before all was sent.
                sock.sendall(b"1" * (MIB - 10))
            told.append(sock)
        deadline_s = time.monotonic() + 1
        most = 0
        while time.monotonic() < deadline_s:
            most = max(most, server.rss_bytes())
            time.sleep(0.02)
        # Twice the budget, for what the allocator keeps, and 64 KiB that each connection has of its own.
        assert most - before < (2 * 32 + 150 // 16) * MIB
        assert told[-1].recv(100) == b"ERROR: the server's memory for requests is full, try again later\n"
        assert server.ask(b"1 1 1 1 1 1 1 1\n") in (b"OK\n", b"ANOMALY\n")


@pytest.mark.parametrize(
    "make",
    [
        lambda: post(
            infer_body(500_000, '"outputs":[{"name":"score"},{"name":"output"},{"name":"contributions"}],')
        ),
        lambda: get("/metrics") * 20_000,
        lambda: post(b" " * (15 * MIB))[: 14 * MIB],
    ],
    ids=["large replies unread", "many replies unread", "half requests"],
)
def test_what_is_held_for_clients_is_bounded_in_sum(start_server, make: Callable[[], bytes]):
    data = make()
    with start_server("--no-grpc", "--no-tcp", "--memory-mib", "64", "--queue-rows", "100000000") as server:
        before = server.rss_bytes()
        socks = [unread(server, data) for _ in range(12)]
        deadline_s = time.monotonic() + 3
        most = 0
        while time.monotonic() < deadline_s:
            most = max(most, server.rss_bytes())
            time.sleep(0.02)
        for sock in socks:
            sock.close()
        # Besides the budget: what the allocator has not given back, and a socket's own buffers.
        assert most - before < 160 * MIB
        with server.connect("http") as sock:
            sock.sendall(get("/healthz"))
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
