"""What surrounds the process fails: standard streams, the log's reader, descriptors, a home, the network."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.abuse.artifacts import D, put, sound
from tests.certificates import Authority
from tests.integration.server_process import ANY_PORT, START_TIMEOUT_S, clean_environment, command

ROW = b" ".join([b"1"] * D) + b"\n"
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return put(tmp_path_factory.mktemp("model") / "good" / "1", sound())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_for_health(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_healthy(port):
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline, "not healthy"
        time.sleep(0.05)


@contextmanager
def serving_in_shell(model: Path, redirections: str, *flags: str, **options):
    """A server started by a shell line, known by its HTTP port alone."""
    port = free_port()
    ports = ("--tcp-port", "0", "--no-grpc", "--http-port", str(port))
    line = f'exec "$@" {redirections}'
    arguments = ["bash", "-c", line, "bash", *command(model, *ports, *flags)]
    with subprocess.Popen(arguments, env=clean_environment(), **options) as process:
        try:
            wait_for_health(port, process)
            yield process, port
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("redirections", "flags"),
    [
        ("<&-", ()),
        (">&-", ()),
        ("2>&-", ()),
        ("<&- >&- 2>&-", ()),
        ("<&- >&- 2>&-", ("--workers", "2")),
        (">/dev/full 2>/dev/full", ()),
    ],
)
def test_standard_streams_may_be_closed_or_full(model, redirections, flags):
    with serving_in_shell(model, redirections, *flags) as (process, port):
        assert is_healthy(port)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0


def test_nobody_has_to_read_the_ready_line(model, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with (tmp_path / "log").open("w") as log:
        options = {"stdout": writer, "stderr": log}
        with serving_in_shell(model, "", **options) as (process, _):
            os.close(writer)
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0
    assert "Exception" not in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()


def fill(pipe: int) -> None:
    """Write until nothing more fits."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while os.write(pipe, b"x" * 4096):
            pass
    os.set_blocking(pipe, True)


def test_a_log_that_nobody_reads_stops_nothing(model, tmp_path):
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.sign("server")
    reader, writer = os.pipe()
    port, lines_port = free_port(), free_port()
    ports = ("--tcp-port", str(lines_port), "--no-grpc", "--http-port", str(port))
    flags = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--log-level", "debug")
    arguments = command(model, *ports, *flags)
    fill(writer)
    process = subprocess.Popen(
        arguments, env=clean_environment(), stdout=subprocess.PIPE, stderr=writer, text=True
    )
    with process, ExitStack() as stack:
        stack.callback(os.close, reader)
        stack.callback(process.kill)
        os.close(writer)
        assert process.stdout.readline().startswith("ready ")
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", lines_port), TIMEOUT_S) as sock:
                sock.sendall(b"no TLS at all\n")
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0


def test_clients_cannot_fill_the_log(start_server, model, tmp_path):
    certificate, key = Authority(tmp_path / "tls").sign("server")
    flags = ("--no-grpc", "--tls-certificate", str(certificate), "--tls-key", str(key))
    with start_server(*flags, artifact=model) as server:
        for _ in range(500):
            with server.connect() as sock:
                sock.sendall(b"no TLS at all\n")
                sock.recv(100)
        assert server.log().count("event=tls_failed") < 20
        time.sleep(1.1)
        with server.connect() as sock:
            sock.sendall(b"no TLS at all\n")
            sock.recv(100)
        server.wait_for_log("suppressed_before=")


def test_fewer_descriptors_than_connections_are_shared_out(model, tmp_path):
    """With 400 descriptors, 400 clients of one port are not let in all, and health has room."""
    limit = 400
    lower = ["bash", "-c", f'ulimit -n {limit}; exec "$@"', "bash"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*lower, *command(model, *ANY_PORT)],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process, ExitStack() as stack:
        stack.callback(process.kill)
        ports = {name: int(port) for name, port in re.findall(r"(\w+)=\S+:(\d+)", process.stdout.readline())}
        assert "event=too_few_descriptors limit=400 " in (tmp_path / "log").read_text()
        for _ in range(limit):
            stack.enter_context(socket.create_connection(("127.0.0.1", ports["tcp"]), TIMEOUT_S))
        for _ in range(3):
            assert is_healthy(ports["http"])
        time.sleep(0.3)
        assert is_healthy(ports["http"])
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
    assert "Too many open files" not in (tmp_path / "log").read_text()


def test_no_home_and_no_entry_for_the_user_are_needed(model):
    stranger = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if shutil.which("unshare") is None or subprocess.run([*stranger, "true"], check=False).returncode != 0:
        pytest.skip("no user namespaces here")
    environ = clean_environment()
    for variable in ("HOME", "XDG_CACHE_HOME", "DATASENTINEL_CACHE_DIR"):
        environ.pop(variable, None)
    process = subprocess.Popen(
        [*stranger, *command(model, *ANY_PORT)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout.readline().startswith("ready ")
        process.terminate()
        _, log = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
        assert "Traceback" not in log


def test_nothing_but_our_ports_is_opened(model, tmp_path):
    """ONNX Runtime from 1.29 on would look up a host of its makers' and leave files in the home."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace here")
    trace = tmp_path / "trace"
    tracing = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,bind", "-o", str(trace)]
    if subprocess.run([*tracing, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("strace is not allowed here")
    home = tmp_path / "home"
    home.mkdir()
    environ = clean_environment() | {"HOME": str(home), "DATASENTINEL_CACHE_DIR": str(tmp_path / "cache")}
    environ.pop("ORT_DISABLE_TELEMETRY", None)
    process = subprocess.Popen(
        [*tracing, *command(model, *ANY_PORT, "--backend", "onnxruntime")],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        line = process.stdout.readline()
        assert line.startswith("ready ")
        ports = dict(re.findall(r"(\w+)=\S+:(\d+)", line))
        with socket.create_connection(("127.0.0.1", int(ports["tcp"])), TIMEOUT_S) as sock:
            sock.sendall(ROW)
            assert sock.recv(100) == b"OK\n"
        time.sleep(5)  # The first report was sent within this.
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    calls = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    bound = {int(port) for line in calls if " bind(" in line for port in re.findall(r"htons\((\d+)\)", line)}
    assert bound <= {0, *map(int, ports.values())}
    assert [line for line in calls if " bind(" not in line] == []
    assert "events" not in trace.read_text()
    assert list(home.rglob("*")) == []
