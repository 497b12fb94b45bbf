"""`datasentinel health` against real servers."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.certificates import Authority
from tests.integration.server_process import clean_environment, to_line


def health(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "datasentinel", "health"],
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_ready_server(server):
    answer = health(DATASENTINEL_HTTP_PORT=str(server.http_port))
    assert (answer.returncode, answer.stdout) == (0, "ready\n"), answer.stderr


def test_a_server_on_every_address(start_server):
    with start_server("--host", "0.0.0.0") as server:
        port = str(server.http_port)
        assert health(DATASENTINEL_HTTP_PORT=port, DATASENTINEL_HOST="0.0.0.0").returncode == 0


@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mutual TLS"])
def test_a_server_that_speaks_tls(start_server, tmp_path, mutual):
    authority = Authority(tmp_path)
    certificate, key = map(str, authority.sign("server"))
    variables = {"DATASENTINEL_TLS_CERTIFICATE": certificate, "DATASENTINEL_TLS_KEY": key}
    if mutual:
        variables["DATASENTINEL_TLS_CLIENT_CA"] = str(authority.file)
    with start_server(environ=variables) as server:
        port = str(server.http_port)
        answer = health(DATASENTINEL_HTTP_PORT=port, **variables)
        assert answer.returncode == 0, answer.stderr
        assert health(DATASENTINEL_HTTP_PORT=port).returncode == 1


def test_a_server_that_wants_tokens_asks_none_for_health(start_server, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    with start_server(environ={"DATASENTINEL_TOKEN_FILE": str(tokens)}) as server:
        assert health(DATASENTINEL_HTTP_PORT=str(server.http_port)).returncode == 0


def test_a_draining_server_is_not_ready(start_server, rows):
    with start_server() as server, server.connect() as client:
        # Half a line keeps the server from ending at once.
        client.sendall(to_line(rows[0])[:-1])
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("event=draining")
        answer = health(DATASENTINEL_HTTP_PORT=str(server.http_port))
        assert answer.returncode == 1
        assert '{"ready": false}' in answer.stderr or "no answer" in answer.stderr
        client.sendall(b"\n")


def test_no_server():
    answer = health(DATASENTINEL_HTTP_PORT="1")
    assert answer.returncode == 1
    assert "127.0.0.1:1: no answer" in answer.stderr


def test_http_is_off():
    answer = health(DATASENTINEL_HTTP="false")
    assert answer.returncode == 1
    assert "http is off" in answer.stderr
