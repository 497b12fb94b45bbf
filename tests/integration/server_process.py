"""A real `datasentinel serve` in a process of its own."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.samples import Sample

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
ANY_PORT = ("--tcp-port", "0", "--grpc-port", "0", "--http-port", "0")


@dataclass
class ServerProcess:
    """A running server: where it listens, and what it logs."""

    process: subprocess.Popen[str]
    log_file: Path
    ready_line: str
    ports: dict[str, int] = field(default_factory=dict)
    host: str = "127.0.0.1"

    @property
    def tcp_port(self) -> int:
        return self.ports["tcp"]

    @property
    def grpc_port(self) -> int:
        return self.ports["grpc"]

    @property
    def http_port(self) -> int:
        return self.ports["http"]

    def connect(self, transport: str = "tcp", timeout_s: float = 30.0) -> socket.socket:
        return socket.create_connection((self.host, self.ports[transport]), timeout=timeout_s)

    def ask(self, data: bytes, transport: str = "tcp") -> bytes:
        """Send everything, end the stream, and read everything."""
        with self.connect(transport) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def fetch(self, path: str, body: bytes | None = None) -> bytes:
        """Ask by HTTP, by POST with a body; raises `HTTPError` where that is refused."""
        url = f"http://{self.host}:{self.http_port}{path}"
        with urllib.request.urlopen(url, body, timeout=STOP_TIMEOUT_S) as reply:
            return reply.read()

    def samples(self) -> list[Sample]:
        """Fetch its metrics."""
        families = text_string_to_metric_families(self.fetch("/metrics").decode())
        return [sample for family in families for sample in family.samples]

    def metrics(self) -> dict[tuple, float]:
        """Fetch the same by name and labels, sorted."""
        return {(one.name, *sorted(one.labels.items())): one.value for one in self.samples()}

    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for_log(self, text: str, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log():
            assert time.monotonic() < deadline, f"no {text!r} in the log:\n{self.log()}"
            time.sleep(0.01)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and give its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def until_stopped(self) -> Iterator[ServerProcess]:
        """For fixtures: yield it, and assert that it then stops as it should and has logged no error."""
        yield self
        assert self.stop() == 0, self.log()
        assert "level=error" not in self.log(), self.log()

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(
    artifact: Path,
    log_file: Path,
    *flags: str,
    environ: Mapping[str, str] | None = None,
    subcommand: str = "serve",
) -> Iterator[ServerProcess]:
    """Start a server on free ports, and stop it again if it still runs."""
    ports = ANY_PORT if subcommand == "serve" else ANY_PORT[-2:]
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command(artifact, *ports, *flags, subcommand=subcommand),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=clean_environment() | (environ or {}),
        )
    with process:
        try:
            readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
            line = process.stdout.readline() if readable else ""
            assert line.startswith("ready "), f"the server did not start: {log_file.read_text()}"
            ports = {name: int(port) for name, port in re.findall(r"(\w+)=\S+:(\d+)", line)}
            yield ServerProcess(process, log_file, line.strip(), ports)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
    for trouble in ("Traceback", "Exception ignored", "event=unhandled_error"):
        assert trouble not in log_file.read_text(), log_file.read_text()


def command(artifact: Path, *flags: str, subcommand: str = "serve") -> list[str]:
    return [sys.executable, "-W", "error", "-m", "datasentinel", subcommand, str(artifact), *flags]


def clean_environment() -> dict[str, str]:
    """This environment without settings of ours.

    The cache stays: all processes then follow one measured plan, and their scores agree to the bit.
    """
    keep = {"DATASENTINEL_CACHE_DIR", "DATASENTINEL_ISA", "DATASENTINEL_ONNXRUNTIME_LIBRARY"}
    return {
        key: text for key, text in os.environ.items() if not key.startswith("DATASENTINEL_") or key in keep
    }


def read_all(sock: socket.socket) -> bytes:
    """Read until the server ends the stream."""
    chunks = []
    while chunk := sock.recv(1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def clear_threshold(scores: np.ndarray) -> float:
    """A threshold that about half of the scores exceed, and from which all keep clear.

    Backends and batch sizes may differ in a score's last bits; no decision should hang on those.
    """
    quarter = len(scores) // 4
    middle = np.sort(scores)[quarter:-quarter]
    widest = int(np.argmax(np.diff(middle)))
    return float(middle[widest : widest + 2].mean())


def to_line(row: np.ndarray) -> bytes:
    """One row as a line; nine digits bring every float32 back unchanged."""
    return " ".join(f"{value:.9g}" for value in row).encode() + b"\n"


def to_lines(rows: np.ndarray) -> bytes:
    return b"".join(map(to_line, rows))


def to_replies(decisions: np.ndarray) -> list[bytes]:
    return [b"ANOMALY" if decision else b"OK" for decision in decisions]
