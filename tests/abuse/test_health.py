"""Health and metrics share no fate with clients: they answer while ports, calls and descriptors are taken."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import time
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import pytest

from benchmarks.served import cpu_s
from datasentinel.messages import make_stub
from datasentinel.serving.control import health_pb2
from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.abuse.test_fairness import infer_body

TIMEOUT_S = 20
HEALTH = ("/healthz", "/v2/health/live", "/v2/health/ready")
FEW = ("--http-max-connections", "3", "--grpc-max-connections", "3", "--tcp-max-connections", "3")


def ask(
    server, method: str, path: str, body: bytes | None = None, port: str = "http"
) -> tuple[http.client.HTTPResponse, bytes]:
    """Ask on a connection of its own."""
    with closing(http.client.HTTPConnection(server.host, server.ports[port], timeout=TIMEOUT_S)) as client:
        client.request(method, path, body)
        response = client.getresponse()
        return response, response.read()


def infer(server, port: str = "http") -> tuple[int, bytes]:
    response, body = ask(server, "POST", "/v2/models/test/infer", infer_body(1), port)
    return response.status, body


@pytest.fixture(scope="module")
def server(start_server):
    with start_server(*FEW, "--admin-port", "0") as process:
        yield from process.until_stopped()


@pytest.mark.parametrize("clients", [3, 100], ids=["full", "besieged"])
def test_a_full_port_answers_for_health_and_metrics(server, clients):
    with ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(server.connect("http"))
        for path in HEALTH:
            response, _ = ask(server, "GET", path)
            assert response.status == 200, path
            assert response.headers["connection"] == "close"
        response, body = ask(server, "GET", "/metrics")
        assert response.status == 200
        assert b'datasentinel_open_connections{transport="http"} 3.0' in body
        status, body = infer(server)
        assert status == 503
        assert "too many connections" in json.loads(body)["error"]
        assert ask(server, "GET", "/v2")[0].status == 503
        assert ask(server, "GET", "/v2")[0].headers["retry-after"] == "1"
    deadline_s = time.monotonic() + TIMEOUT_S
    while infer(server)[0] != 200:  # There is room again.
        assert time.monotonic() < deadline_s


def test_who_is_over_the_limit_and_silent_makes_room_for_the_next(server):
    with ExitStack() as stack:
        socks = [stack.enter_context(server.connect("http")) for _ in range(25)]
        assert socks[3].recv(1000).startswith(b"HTTP/1.1 503 ")
        assert socks[3].recv(1000) == b""
        socks[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert socks[-1].recv(1000).startswith(b"HTTP/1.1 200 ")
        socks[0].sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")  # Who was there first stays.
        assert socks[0].recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("clients", [3, 100], ids=["full", "besieged"])
def test_a_full_port_of_grpc_answers_for_health(server, clients):
    with ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(server.connect("grpc"))
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            health = make_stub("grpc.health.v1.Health")(channel)
            check = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            assert check.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as refused:
                inference_pb2_grpc.InferenceServiceStub(channel).Evaluate(
                    inference_pb2.EvaluateRequest(values=[1] * 8), timeout=TIMEOUT_S
                )
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "too many connections" in refused.value.details()


def test_the_port_of_health_has_nothing_else(server):
    with ExitStack() as stack:
        for transport in ("http", "tcp"):
            for _ in range(50):
                stack.enter_context(server.connect(transport))
        for path in (*HEALTH, "/metrics"):
            assert ask(server, "GET", path, port="admin")[0].status == 200
        with closing(http.client.HTTPConnection(server.host, server.ports["admin"])) as client:
            for _ in range(3):  # On one connection, too.
                client.request("GET", "/healthz")
                assert client.getresponse().read() == b"ok\n"
    status, body = infer(server, "admin")
    assert status == 404
    assert "health and metrics alone" in json.loads(body)["error"]
    for path in ("/v2", "/openapi.json", "/v2/models/test"):
        assert ask(server, "GET", path, port="admin")[0].status == 404


def test_the_health_port_may_be_the_only_one_of_http(start_server):
    with start_server("--no-http", "--no-grpc", "--admin-port", "0") as server:
        assert set(server.ports) == {"tcp", "admin"}
        assert ask(server, "GET", "/healthz", port="admin")[0].status == 200
        assert server.stop() == 0


WITHOUT_UVLOOP = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == "uvloop" else found(name, *package)
"""


def open_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_the_end_of_descriptors_is_told_and_survived(start_server, tmp_path, loop):
    environ = {}
    if loop == "asyncio":
        (tmp_path / "sitecustomize.py").write_text(WITHOUT_UVLOOP)
        environ["PYTHONPATH"] = str(tmp_path)
    with start_server("--no-grpc", environ=environ) as server, ExitStack() as stack:
        pid = server.process.pid
        friend = stack.enter_context(server.connect("http"))
        friend.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert friend.recv(1000).startswith(b"HTTP/1.1 200 ")
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        # Nothing else of ours can be that it runs out of descriptors: as if a library had taken them.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_descriptors(pid) + 4, before[1]))
        socks = []
        for _ in range(40):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((server.host, server.tcp_port))
            socks.append(sock)
        since_s = time.monotonic()
        server.wait_for_log("event=out_of_descriptors")
        worked_s = cpu_s(pid)
        time.sleep(2.5)
        assert cpu_s(pid) - worked_s < 0.5  # It does not spin.
        assert 1 <= server.log().count("event=out_of_descriptors") <= time.monotonic() - since_s + 3
        friend.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert friend.recv(1000).startswith(b"HTTP/1.1 200 ")
        for sock in socks:
            sock.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                assert server.ask(b"1 1 1 1 1 1 1 1\n") in (b"OK\n", b"ANOMALY\n")
                break
            except OSError:
                assert time.monotonic() < deadline_s
        assert "Traceback" not in server.log()
        time.sleep(1.1)  # What asyncio had put off for a second would find its socket closed.


def timer_of(client: socket.socket) -> str:
    """Which timer the kernel runs on the server's side of a connection; 02 is for keepalive."""
    ours, theirs = client.getsockname()[1], client.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (int(fields[1][-4:], 16), int(fields[2][-4:], 16)) == (theirs, ours):
            return fields[5][:2]
    raise AssertionError("no such connection")


@pytest.mark.parametrize("transport", ["tcp", "grpc", "http"])
def test_a_host_that_vanishes_is_noticed(server, transport):
    with server.connect(transport) as client:
        deadline_s = time.monotonic() + TIMEOUT_S
        while timer_of(client) != "02":
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
