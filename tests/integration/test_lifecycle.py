"""Starting, stopping and surviving: what the server does as a process."""

from __future__ import annotations

import http.client
import json
import queue
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from datasentinel import Detector
from datasentinel.messages import make_stub
from datasentinel.serving.control import reflection_pb2
from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.server_process import (
    ANY_PORT,
    clean_environment,
    clear_threshold,
    command,
    read_all,
    to_line,
    to_lines,
    to_replies,
)
from tests.networks import write_artifact, write_prototype


def run_to_failure(artifact, *flags, environ=None) -> subprocess.CompletedProcess[str]:
    """Run a server that cannot start."""
    done = subprocess.run(
        command(artifact, *flags),
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment() | (environ or {}),
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done


def health(server, path="/v2/health/ready") -> int:
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=10)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def scrape(server) -> dict[str, dict[str, float]]:
    """The metrics of each transport whose code, if they have one, is "internal"."""
    samples: dict[str, dict[str, float]] = {}
    for sample in server.samples():
        if sample.labels.get("code", "internal") == "internal" and "transport" in sample.labels:
            samples.setdefault(sample.name, {})[sample.labels["transport"]] = sample.value
    return samples


def test_the_ready_line_names_every_address(server):
    pattern = r"ready tcp=127\.0\.0\.1:\d+ grpc=127\.0\.0\.1:\d+ http=127\.0\.0\.1:\d+"
    assert re.fullmatch(pattern, server.ready_line)
    assert 0 not in server.ports.values()


def test_ctrl_c_stops_the_server_with_exit_code_0(start_server, detector, rows):
    with start_server("--no-grpc", "--no-http") as server:
        assert server.ready_line == f"ready tcp=127.0.0.1:{server.tcp_port}"
        assert server.ask(to_line(rows[0])).split() == to_replies(detector.predict(rows[0]))
        assert server.stop(signal.SIGINT) == 0
        assert "event=stopped rows=1 " in server.log()


def test_transports_can_be_off_by_any_source(start_server, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("tcp = false\nhost = '::1'\nlog_format = 'json'\n")
    with start_server("--config", str(config), environ={"DATASENTINEL_GRPC": "off"}) as server:
        assert re.fullmatch(r"ready http=\[::1\]:\d+", server.ready_line)
        server.host = "::1"
        assert health(server) == 200
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "backend_refused"] == [
        "model_loaded",
        "listening",
        "ready",
        "signal",
        "draining",
        "stopped",
    ]
    assert {"time", "level", "logger", "event"} <= lines[0].keys()


@pytest.mark.parametrize("transport", ["tcp", "grpc", "http"])
def test_a_port_in_use_is_named(artifact, server, transport):
    port = server.ports[transport]
    done = run_to_failure(artifact, *ANY_PORT, f"--{transport}-port", str(port))
    assert done.returncode == 1
    assert (
        f"error: cannot listen for {transport} on 127.0.0.1:{port}: Address already in use; "
        f"choose another port with --{transport}-port"
    ) in done.stderr


def test_what_cannot_be_started_is_said(artifact, tmp_path):
    done = run_to_failure(tmp_path / "nothing", *ANY_PORT)
    assert done.returncode == 1
    assert "no such directory" in done.stderr
    done = run_to_failure(artifact, *ANY_PORT, environ={"DATASENTINEL_TCP_PROT": "1"})
    assert done.returncode == 1
    assert "environment variable DATASENTINEL_TCP_PROT is unknown" in done.stderr


def test_lines_sent_before_the_signal_are_answered(start_server, detector, rows):
    with start_server() as server, server.connect() as idle, server.connect() as busy:
        # Far more than is read at once, so most of it waits in the kernel when the signal arrives.
        many = np.tile(rows, (10, 1))
        sender = threading.Thread(target=busy.sendall, args=(to_lines(many),))
        sender.start()
        sender.join(20)
        server.process.send_signal(signal.SIGTERM)
        assert read_all(busy).split() == to_replies(detector.predict(many))
        assert read_all(idle) == b""
        busy.close()
        idle.close()
        assert server.process.wait(30) == 0
        assert "drain_cut_off" not in server.log()


def test_busy_clients_get_an_answer_to_every_line_that_was_accepted(start_server, detector, rows):
    """Each client waits for each reply; the stream ends between two replies, never with a reset."""
    expected = to_replies(detector.predict(rows))
    results: dict[int, list[bytes]] = {}
    with start_server() as server:

        def talk(client: int) -> None:
            replies = results[client] = []
            with server.connect() as sock, sock.makefile("rb") as stream:
                for row in rows:
                    sock.sendall(to_line(row))
                    reply = stream.readline()
                    if not reply:
                        return
                    replies.append(reply)

        clients = [threading.Thread(target=talk, args=(client,)) for client in range(8)]
        for client in clients:
            client.start()
        deadline = time.monotonic() + 60
        while len(results) < 8 or min(map(len, results.values())) < 20:
            assert time.monotonic() < deadline, {client: len(replies) for client, replies in results.items()}
            time.sleep(0.005)
        assert server.stop() == 0
        for client in clients:
            client.join(20)
        log = server.log()
    for replies in results.values():
        assert replies == [reply + b"\n" for reply in expected[: len(replies)]]
    assert min(map(len, results.values())) < len(rows), "the server was not stopped while busy"
    answered = sum(map(len, results.values()))
    assert f"event=stopped rows={answered} " in log
    assert "drain_cut_off" not in log


def test_grpc_calls_in_flight_at_the_signal_are_answered(start_server, detector, rows):
    """A call is answered rightly or refused, and the server scored exactly as many as were answered."""
    scores: dict[int, float] = {}
    codes: list[grpc.StatusCode] = []
    with start_server() as server, grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        requests = [inference_pb2.EvaluateRequest(values=row) for row in rows]
        futures = [stub.Evaluate.future(request, timeout=20) for request in requests[:50]]
        for number, request in enumerate(requests[50:], start=50):
            futures[number - 50].result()
            futures.append(stub.Evaluate.future(request, timeout=20))
            if number == 300:
                server.process.send_signal(signal.SIGTERM)
                break
        for number, future in enumerate(futures):
            try:
                scores[number] = future.result().mse
            except grpc.RpcError as error:
                codes.append(error.code())
        assert server.process.wait(20) == 0
        assert f"event=stopped rows={len(scores)} " in server.log()
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert len(scores) >= 250
    # Calls run at the same time: which of the last ones were refused need not go by their order.
    # Those that arrived together were scored as one batch, whose last bits may differ from a single row's.
    for number, score in scores.items():
        assert score == pytest.approx(detector.score(rows[number])[0], rel=1e-5)


def test_streams_that_python_answers_end_with_the_server(start_server):
    with start_server() as server, grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        questions = queue.SimpleQueue()
        questions.put(reflection_pb2.ServerReflectionRequest(list_services=""))
        answers = make_stub("grpc.reflection.v1.ServerReflection")(channel).ServerReflectionInfo(
            iter(questions.get, None), timeout=60
        )
        assert next(answers).list_services_response.service
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        questions.put(None)


def test_while_draining_the_server_is_not_ready_and_accepts_nobody(start_server, detector, rows):
    line = to_line(rows[0])
    with start_server() as server, server.connect() as sock:
        assert health(server) == 200
        sock.sendall(line + line[:5])
        assert sock.recv(100).endswith(b"\n")
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while health(server) != 503:
            assert time.monotonic() < deadline
        assert health(server, "/healthz") == 503
        assert health(server, "/v2/health/live") == 200
        time.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        sock.sendall(line[5:])
        assert read_all(sock).split() == to_replies(detector.predict(rows[0]))
        sock.close()
        assert server.process.wait(30) == 0


def test_the_drain_deadline_cuts_off_what_does_not_finish(start_server):
    with start_server("--drain-timeout-s", "0.3") as server, server.connect() as sock:
        sock.sendall(b"1 2 3")
        server.wait_for_log("event=ready")
        time.sleep(0.1)
        started = time.monotonic()
        assert server.stop() == 0
        assert 0.3 <= time.monotonic() - started < 30
        assert sock.recv(100) == b""
        assert "event=drain_cut_off transport=tcp connections=1" in server.log()


def test_a_second_signal_cuts_the_drain_short(start_server):
    with start_server("--drain-timeout-s", "60") as server, server.connect() as sock:
        sock.sendall(b"1 2 3")
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("event=draining")
        assert server.stop(signal.SIGINT) == 0
        assert "event=drain_cut_short" in server.log()


def test_a_prototype_artifact_serves(start_server, network, rows, tmp_path):
    """Only input and output, a batch of one, four keys: the score is the mean squared error."""
    onnx_bytes = network.to_onnx(batch=1, with_score=False)
    _, reconstruction = network.reference(rows)
    errors = ((rows.astype(np.float64) - reconstruction) ** 2).mean(axis=1)
    folder = write_prototype(
        tmp_path / "models", onnx_bytes, input_dim=network.input_dim, threshold=clear_threshold(errors)
    )
    with start_server(artifact=folder) as server:
        assert server.ask(to_lines(rows)).split() == to_replies(Detector.load(folder).predict(rows))
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            response = stub.Evaluate(inference_pb2.EvaluateRequest(values=rows[0]), timeout=10)
        np.testing.assert_allclose(response.mse, errors[0], rtol=1e-5)


def lookup_model() -> bytes:
    """A graph that ONNX Runtime runs for inputs 0 to 3 and fails on for any other: no such index."""
    nodes = [
        helper.make_node("Cast", ["input"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["found"], axis=0),
        helper.make_node("ReduceMean", ["found", "axes"], ["score"], keepdims=0),
    ]
    constants = {"table": np.arange(4, dtype=np.float32), "axes": np.array([1], dtype=np.int64)}
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_failing_backend_harms_only_the_request_it_fails(start_server, tmp_path):
    folder = write_artifact(
        tmp_path / "models", lookup_model(), input_dim=2, output_dim=2, latent_dim=1, threshold=1.5
    )
    with (
        start_server("--backend", "onnxruntime", artifact=folder) as server,
        server.connect() as good,
        server.connect() as bad,
        good.makefile("rb") as good_replies,
        bad.makefile("rb") as bad_replies,
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(3):
            bad.sendall(b"0 99\n")
            reply = bad_replies.readline()
            assert reply.startswith(b"ERROR: ")
            assert b"Gather" in reply
            with pytest.raises(grpc.RpcError) as caught:
                stub.Evaluate(inference_pb2.EvaluateRequest(values=[0, 99]), timeout=10)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert "Gather" in caught.value.details()
            for sock, replies in ((good, good_replies), (bad, bad_replies)):
                sock.sendall(b"0 1\n3 3\n")
                assert [replies.readline(), replies.readline()] == [b"OK\n", b"ANOMALY\n"]
            response = stub.Evaluate(inference_pb2.EvaluateRequest(values=[3, 2]), timeout=10)
            assert (response.status, response.mse) == (inference_pb2.ANOMALY, 2.5)
        (line,) = [line for line in server.log().splitlines() if "event=lines_failed" in line][:1]
        assert "level=error" in line
        assert "lines=1" in line
        assert "Gather" in line
        assert scrape(server)["datasentinel_error_codes_total"] == {"tcp": 3.0, "grpc": 3.0}


def test_the_server_never_loads_torch(server, rows):
    server.ask(to_lines(rows[:10]))
    assert health(server, "/metrics") == 200
    maps = Path(f"/proc/{server.process.pid}/maps")
    if not maps.exists():
        pytest.skip("this system has no /proc to list a process's libraries")
    libraries = maps.read_text()
    assert "libonnxruntime" in libraries
    assert "torch" not in libraries


def test_a_server_can_start_again_on_the_port_it_left(start_server, detector, rows):
    with start_server("--no-grpc", "--no-http") as server:
        port = server.tcp_port
        with server.connect() as sock:
            sock.sendall(to_line(rows[0]))
            assert sock.recv(100)
            assert server.stop() == 0
    with start_server("--no-grpc", "--no-http", "--tcp-port", str(port)) as server:
        assert server.tcp_port == port
        assert server.ask(to_line(rows[0])).split() == to_replies(detector.predict(rows[0]))


def test_many_connections_come_and_go(server, detector, rows):
    (expected,) = to_replies(detector.predict(rows[0]))
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    if not descriptors.exists():
        pytest.skip("this system has no /proc to list a process's files")
    server.ask(to_line(rows[0]))
    before = len(list(descriptors.iterdir()))
    for _ in range(300):
        assert server.ask(to_line(rows[0])) == expected + b"\n"
    sockets = [socket.create_connection((server.host, server.tcp_port)) for _ in range(100)]
    for sock in sockets:
        sock.close()
    deadline = time.monotonic() + 30
    while len(list(descriptors.iterdir())) > before:
        assert time.monotonic() < deadline, "file descriptors were left open"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("host", "workers", "reached_at"),
    [("::", "1", {"127.0.0.1", "::1"}), ("::", "2", {"127.0.0.1", "::1"}), ("localhost", "1", {"127.0.0.1"})],
)
def test_a_host_means_the_same_for_every_port(start_server, host, workers, reached_at):
    with start_server("--host", host, "--workers", workers) as server:
        for port in server.ports.values():
            for client_host in reached_at:
                with socket.create_connection((client_host, port), timeout=20):
                    pass


def test_service_links_are_ignored_in_one_line(start_server):
    links = {"DATASENTINEL_HTTP_PORT": "tcp://10.0.0.1:9002", "DATASENTINEL_HTTP_SERVICE_HOST": "10.0.0.1"}
    with start_server(environ=links) as server:
        assert server.log().count("event=service_links_ignored") == 1
