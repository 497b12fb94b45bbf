"""Health and metrics over real HTTP."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket

import grpc
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from datasentinel.oip import grpc_predict_v2_pb2
from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.server_process import read_all, to_lines


@pytest.fixture
def client(server):
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=10)
    yield connection
    connection.close()


def request(client, method, path, body=None, headers=None):
    client.request(method, path, body, headers or {})
    response = client.getresponse()
    return response, response.read()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/healthz", b"ok\n"),
        ("/v2/health/live", b'{"live": true}\n'),
        ("/v2/health/ready", b'{"ready": true}\n'),
        ("/v2/health/ready?verbose=1", b'{"ready": true}\n'),
    ],
)
def test_health(client, path, body):
    response, got = request(client, "GET", path)
    assert (response.status, got) == (200, body)
    response, got = request(client, "HEAD", path)
    assert (response.status, got, response.getheader("Content-Length")) == (200, b"", str(len(body)))


def test_errors_are_json_and_keep_the_connection(client):
    response, body = request(client, "GET", "/nowhere")
    assert response.status == 404
    assert "no such path; known: /healthz" in json.loads(body)["error"]
    sock = client.sock
    response, body = request(client, "POST", "/healthz", body=b"x" * 1000)
    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")
    assert "POST is not allowed" in json.loads(body)["error"]
    assert request(client, "GET", "/healthz")[1] == b"ok\n"
    assert client.sock is sock


@pytest.mark.parametrize("name", ["%zz", "a%", "%4", "%-1", "m/versions/%zz"])
@pytest.mark.parametrize(("method", "action"), [("POST", "/infer"), ("GET", "/ready"), ("GET", "")])
def test_broken_escapes_in_a_path_are_refused(client, name, method, action):
    response, body = request(
        client, method, f"/v2/models/{name}{action}", b"{}" if method == "POST" else None
    )
    assert response.status == 400
    assert "is not followed by two hexadecimal digits" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("headers", "welcome"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://127.0.0.1:{port}"}, True),
        ({"Origin": "http://localhost:{port}", "Host": "localhost:{port}"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:{port}", "Host": "[::1"}, False),
        ({"Origin": "http://127.0.0.1:{port}", "Host": "a]b"}, False),
        ({"Origin": "http://box:{port}", "Host": "evil.example:{port}"}, False),
        ({"Origin": "http://box:{port}", "Host": "box:{port}"}, "infer"),
    ],
)
def test_a_browser_may_ask_for_its_own_servers_page_alone(server, client, rows, headers, welcome):
    headers = {name: value.format(port=server.http_port) for name, value in headers.items()}
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, rows.shape[1]], "data": rows[0].tolist()}
    infer = json.dumps({"inputs": [tensor]}).encode()
    for path, body, more in (
        ("/v2/repository/index", b"{}", {}),
        ("/v2/models/test/infer", infer, {}),
        ("/v2/models/test/infer", gzip.compress(infer), {"Content-Encoding": "gzip"}),
    ):
        response, answer = request(client, "POST", path, body, headers | more)
        is_welcome = welcome is True or welcome in path.split("/")
        assert response.status == (200 if is_welcome else 403), answer


def test_compressed_bodies_are_read_within_their_bounds(client, detector, rows):
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, rows.shape[1]], "data": rows[:2].tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    path = "/v2/models/test/infer"

    def ask(content, encoding="gzip"):
        response, answer = request(client, "POST", path, content, {"Content-Encoding": encoding})
        assert response.getheader("Accept-Encoding") == ("gzip, deflate" if response.status == 415 else None)
        return response.status, json.loads(answer)

    status, answer = ask(gzip.compress(body))
    assert status == 200
    np.testing.assert_allclose(answer["outputs"][0]["data"], detector.score(rows[:2]), rtol=1e-6)
    for content, encoding, expected, reason in (
        (gzip.compress(b" " * (17 << 20)), "gzip", 413, "16777216"),
        (b"\x1f\x8b no more", "gzip", 400, "gzip"),
        (gzip.compress(body)[:-9], "gzip", 400, "gzip"),
        (body, "br", 415, "expected identity, gzip or deflate"),
    ):
        status, answer = ask(content, encoding)
        assert (status, reason in answer["error"]) == (expected, True), answer


def test_messages_that_are_wrong_or_say_too_much_are_refused(server, client):
    load = {"parameters": {"config": "x"}}
    response, body = request(client, "POST", "/v2/repository/models/test/load", json.dumps(load).encode())
    assert (response.status, json.loads(body)["error"]) == (400, "no parameters are supported here")
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        asked = grpc_predict_v2_pb2.RepositoryModelLoadRequest(model_name="m")
        asked.parameters["config"].string_param = "x"
        for method, message, reason in (
            ("inference.GRPCInferenceService/RepositoryModelLoad", asked.SerializeToString(), "no parameters are supported here, got config"),
            ("grpc.health.v1.Health/Check", b"\xff", "the message is not a valid HealthCheckRequest"),
        ):  # fmt: skip
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/{method}")(message, timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == reason


def test_pipelined_requests_are_answered_in_order(server):
    data = b"".join(
        f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for path in ("/healthz", "/v2/health/live", "/x") * 20
    )
    replies = server.ask(data, "http")
    assert re.findall(rb"HTTP/1.1 (\d+)", replies) == [b"200", b"200", b"404"] * 20


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\xff\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000, b"431"),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + b"z" * 300_000, b"413"),
        (b"GET /healthz HTTP/1.1\r\nHos", b"400"),
    ],
    ids=["TLS hello", "no host", "bad length", "long headers", "long body", "half a request"],
)
def test_a_bad_request_is_answered_and_ends_the_connection(server, data, status):
    with server.connect("http") as sock:
        sock.sendall(data)
        if data.endswith(b"Hos"):
            sock.shutdown(1)
        reply = read_all(sock)
    assert reply.startswith(b"HTTP/1.1 " + status)
    assert reply.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in reply
    assert "error" in json.loads(reply.partition(b"\r\n\r\n")[2])


def test_old_http_is_answered_and_closed(server):
    with server.connect("http") as sock:
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert read_all(sock).endswith(b"\r\n\r\nok\n")


def test_a_client_that_waits_for_continue_is_told_to(server):
    with server.connect("http") as sock:
        sock.sendall(
            b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 100")
        sock.sendall(b"ok")
        assert sock.recv(1000).startswith(b"HTTP/1.1 405")


def test_metrics_count_exactly_what_was_sent(server, detector, rows):
    before = server.metrics()
    server.ask(to_lines(rows[:300]) + b"bad\n" * 7 + b"\n\n")
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for row in (*rows[:5], rows[0][:3]):
            stub.Evaluate(inference_pb2.EvaluateRequest(values=row), timeout=10)
    after = server.metrics()

    tcp_anomalies = int(np.count_nonzero(detector.predict(rows[:300])))
    grpc_anomalies = int(np.count_nonzero(detector.predict(rows[:5])))
    expected = {
        ("tcp", "requests"): 307,
        ("tcp", "rows"): 300,
        ("tcp", "anomalies"): tcp_anomalies,
        ("tcp", "errors"): 7,
        ("grpc", "requests"): 6,
        ("grpc", "rows"): 5,
        ("grpc", "anomalies"): grpc_anomalies,
        ("grpc", "errors"): 1,
        ("http", "requests"): 1,
        ("http", "errors"): 0,
    }
    changes = {
        (transport, name): after[key] - before[key]
        for transport, name in expected
        for key in [(f"datasentinel_{name}_total", ("transport", transport))]
    }
    assert changes == expected
    for name, change in (("rows", 305), ("anomalies", tcp_anomalies + grpc_anomalies)):
        key = (f"datasentinel_model_{name}_total",)
        assert after[key] - before[key] == change
    for transport in ("tcp", "grpc"):
        label = ("transport", transport)
        count = ("datasentinel_request_duration_seconds_count", label)
        assert after[count] == after["datasentinel_requests_total", label]
        total = ("datasentinel_request_duration_seconds_sum", label)
        assert 0 < after[total] - before[total] < 10


def test_metrics_tell_connections_readiness_and_what_is_served(server, detector):
    with server.connect() as sock:
        sock.sendall(b"x\n")
        sock.recv(100)
        samples = server.metrics()
    assert samples["datasentinel_open_connections", ("transport", "tcp")] >= 1
    assert samples["datasentinel_open_connections", ("transport", "http")] >= 1
    assert samples["datasentinel_ready",] == 1
    assert samples["datasentinel_model_threshold",] == detector.threshold
    labels = {key[0]: dict(key[1:]) for key in samples if key[0].endswith("_info")}
    assert labels["datasentinel_model_info"]["input_dim"] == str(detector.input_dim)
    assert labels["datasentinel_backend_info"]["backend"] == detector.backend
    assert samples["process_resident_memory_bytes",] > 0


def test_openmetrics_is_given_when_asked_for(client):
    response, body = request(client, "GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert response.getheader("Content-Type").startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(body.decode())}
    assert {"datasentinel_requests", "datasentinel_request_duration_seconds", "datasentinel_ready"} <= names


def test_the_metrics_name_the_plan_and_the_backend(client):
    _, body = request(client, "GET", "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    steps = [sample.labels for sample in families["datasentinel_plan"].samples]
    assert steps[0]["min_rows"] == "1"
    assert {step["backend"] for step in steps} <= {"fused", "onnxruntime"}
    (backend,) = families["datasentinel_backend_info"].samples
    assert all(name.isidentifier() for name in backend.labels)


def infer_request(model, rows):
    body = json.dumps(
        {
            "inputs": [
                {"name": "input", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
            ]
        }
    ).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("half_closed", [False, True])
def test_long_requests_are_answered_off_the_loop_and_in_order(start_server, detector, rows, half_closed):
    batches = [rows[:1], rows[1:700], rows[700:703], rows[703:704]]
    with start_server("--max-inline-us", "0", "--no-grpc") as server:
        model = json.loads(server.fetch("/v2/repository/index", b"{}"))[0]["name"]
        with server.connect("http") as sock, sock.makefile("rb") as replies:
            sock.sendall(b"".join(infer_request(model, batch) for batch in batches))
            if half_closed:
                sock.shutdown(socket.SHUT_WR)
            for batch in batches:
                assert replies.readline() == b"HTTP/1.1 200 OK\r\n"
                headers = http.client.parse_headers(replies)
                body = replies.read(int(headers["Content-Length"]))
                score, anomaly = json.loads(body)["outputs"]
                np.testing.assert_allclose(score["data"], detector.score(batch), rtol=1e-5)
                assert anomaly["data"] == detector.predict(batch).tolist()
        metrics = server.fetch("/metrics")
    assert b'datasentinel_rows_total{transport="http"} 704.0' in metrics
    assert b'datasentinel_queued_rows{transport="http"} 0.0' in metrics
