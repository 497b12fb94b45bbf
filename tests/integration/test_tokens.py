"""Bearer tokens for gRPC and HTTP."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys

import grpc
import pytest

from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.server_process import to_line, to_replies

TIMEOUT_S = 20
TOKEN = "correct horse".replace(" ", "-")
SECOND = "Zm9vYmFy.eyJz=="


@pytest.fixture(scope="module")
def guarded(start_server, tmp_path_factory):
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"# for the test\n{TOKEN}\n\n  {SECOND}  \n")
    with start_server("--token-file", str(file)) as process:
        yield from process.until_stopped()


def get(server, path: str, authorization: str | None = None, method: str = "GET"):
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=TIMEOUT_S)
    headers = {} if authorization is None else {"Authorization": authorization}
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def evaluate(server, row, authorization: str | None = None) -> inference_pb2.EvaluateResponse:
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        metadata = [("authorization", authorization)] if authorization is not None else []
        return stub.Evaluate(inference_pb2.EvaluateRequest(values=row), timeout=TIMEOUT_S, metadata=metadata)


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer   {SECOND} "])
def test_a_known_token_passes(guarded, detector, rows, authorization):
    assert get(guarded, "/v2/nothing", authorization).status == 404
    assert evaluate(guarded, rows[0], authorization.strip()).mse == detector.score(rows[0])[0]


WRONG = [
    None,
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN}x",
    f"Basic {TOKEN}",
    TOKEN,
    "Bearer # for the test",
    f"Bearer {TOKEN} {SECOND}",
]


@pytest.mark.parametrize("authorization", WRONG)
def test_any_other_does_not(guarded, rows, authorization):
    response = get(guarded, "/v2/nothing", authorization)
    assert response.status == 401
    assert response.getheader("WWW-Authenticate").startswith("Bearer")
    with pytest.raises(grpc.RpcError) as caught:
        evaluate(guarded, rows[0], authorization)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert TOKEN not in caught.value.details()


def test_bytes_that_are_no_text_do_not_either(guarded):
    assert get(guarded, "/v2/nothing", "Bearer \xff\xfe").status == 401


def test_health_needs_no_token_and_metrics_only_if_told(guarded, start_server, tmp_path):
    for path in ("/healthz", "/v2/health/live", "/v2/health/ready", "/metrics"):
        assert get(guarded, path).status == 200
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    with start_server("--token-file", str(file), "--metrics-need-token", "--no-grpc") as server:
        assert get(server, "/healthz").status == 200
        assert get(server, "/metrics").status == 401
        assert get(server, "/metrics", f"Bearer {TOKEN}").status == 200


def test_the_line_protocol_has_no_tokens(guarded, detector, rows):
    assert guarded.ask(to_line(rows[0])).split() == to_replies(detector.predict(rows[0]))


def test_a_changed_file_counts_at_once_after_sighup_and_soon_without(start_server, tmp_path, rows):
    file = tmp_path / "tokens"
    file.write_text("first")
    with start_server("--token-file", str(file)) as server:
        assert get(server, "/x", "Bearer first").status == 404

        file.write_text("second")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("event=tokens_reloaded")
        assert get(server, "/x", "Bearer first").status == 401
        assert get(server, "/x", "Bearer second").status == 404
        with pytest.raises(grpc.RpcError):
            evaluate(server, rows[0], "Bearer first")
        evaluate(server, rows[0], "Bearer second")

        replacement = tmp_path / "replacement"
        replacement.write_text("third token, a longer one".replace(" ", "_"))
        replacement.replace(file)
        while get(server, "/x", "Bearer second").status != 401:
            pass
        assert get(server, "/x", "Bearer third_token,_a_longer_one").status == 404

        file.unlink()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("event=tokens_not_reloaded")
        assert get(server, "/x", "Bearer third_token,_a_longer_one").status == 404


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read"), (b"", "holds no token"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_file_that_cannot_be_used_is_named(artifact, tmp_path, content, reason):
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "datasentinel", "serve", str(artifact), "--token-file", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"token_file: {file}: {reason}" in done.stderr


def test_the_producer_shows_its_token(guarded, tmp_path):
    base = [sys.executable, "-W", "error", "-m", "datasentinel", "produce", "--protocol", "grpc"]
    base += ["--port", str(guarded.grpc_port), "--dim", "8", "--count", "50", "--token-file"]
    file = tmp_path / "token"
    for token, code, words in ((SECOND, 0, "50 sent, 50 answered"), ("wrong", 1, "wants another token")):
        file.write_text(token + "\n")
        done = subprocess.run([*base, str(file)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code
        assert words in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("flags", "open_ports"),
    [((), {"tcp", "grpc", "http"}), (("--token-file", "{file}"), {"tcp"})],
)
def test_only_ports_that_are_open_to_all_are_warned_about(start_server, tmp_path, flags, open_ports):
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    with start_server("--host", "0.0.0.0", *(flag.format(file=file) for flag in flags)) as server:
        server.wait_for_log("event=ready")
        warnings = [line for line in server.log().splitlines() if "reachable_from_other_machines" in line]
    assert {line.partition("transport=")[2].split()[0] for line in warnings} == open_ports


def test_an_emptied_file_revokes_every_token_and_failures_are_logged(start_server, tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\n")
    with start_server("--no-grpc", "--token-file", str(file)) as server:
        assert get(server, "/v2", f"Bearer {TOKEN}").status == 200
        assert "event=login_failed" not in server.log()
        file.write_text("# nobody\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("event=tokens_reloaded")
        for _ in range(30):
            assert get(server, "/v2", f"Bearer {TOKEN}").status == 401
        assert 1 <= server.log().count("event=login_failed") < 10
        assert b"datasentinel_failed_logins_total 30.0" in server.fetch("/metrics")
