"""A long soak of a real server, and what it shows: `python -m benchmarks.soak --minutes 30`.

The clients are those of `tests/integration/test_soak.py`: two hundred, over lines, HTTP and gRPC, good and
bad. While they talk, a worker is killed every 20 s, the server reloads every 2 s, and one corner sends what
is meant to starve others, a kind at a time for 3 s, then nothing for 6. A client in a process of its own asks
for one line and one `/healthz` at a time and measures how long it waits, by the clock: all share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import multiprocessing
import socket
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel import Detector
from tests.abuse.test_fairness import ABUSE, abusing
from tests.integration.server_process import clear_threshold, serving, to_line, to_replies
from tests.integration.soak import Chaos, open_files, pid_of, soak_for, stop_under_load
from tests.integration.soak_clients import MAX_LINE_BYTES, Soak
from tests.networks import Network, write_artifact

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

    from tests.integration.server_process import ServerProcess

D = 8
KILL_EVERY_S, RELOAD_EVERY_S = 20.0, 2.0
ABUSE_S, PEACE_S = 3.0, 6.0
_PAUSE_S = 0.01


def _abuse(host: str, ports: dict[str, int], stop: Event) -> None:
    """Send one kind of abuse after the other until it is stopped."""

    def connect(transport: str) -> socket.socket:
        return socket.create_connection((host, ports[transport]), timeout=30)

    corner = SimpleNamespace(connect=connect)
    for transport, connections, make in itertools.cycle(ABUSE.values()):
        with contextlib.suppress(OSError), abusing(corner, transport, connections, make()):
            if stop.wait(ABUSE_S):
                return
        if stop.wait(PEACE_S):
            return


def _ask(host: str, ports: dict[str, int], row: bytes, stop: Event, waits: Queue[list[float]]) -> None:
    """Ask for one line and one `/healthz` at a time; hand over how long each took, in ms."""
    took_ms: list[float] = []
    while not stop.is_set():
        client = http.client.HTTPConnection(host, ports["http"], timeout=30)
        # A worker that is killed takes its connections along: connect again, and ask again.
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(client),
            socket.create_connection((host, ports["tcp"]), timeout=30) as lines,
        ):
            while not stop.is_set():
                asked_s = time.perf_counter()
                lines.sendall(row)
                if not lines.recv(100):
                    break
                answered_s = time.perf_counter()
                client.request("GET", "/healthz")
                client.getresponse().read()
                took_ms += [(answered_s - asked_s) * 1e3, (time.perf_counter() - answered_s) * 1e3]
                time.sleep(_PAUSE_S)
    waits.put(took_ms)


@contextlib.contextmanager
def beside(server: ServerProcess, row: bytes):
    """Run the corner of abuse and the asking client; gives a list that holds the waits at the end."""
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    waits: Queue[list[float]] = spawn.Queue()
    processes = [
        spawn.Process(target=_abuse, args=(server.host, server.ports, stop)),
        spawn.Process(target=_ask, args=(server.host, server.ports, row, stop, waits)),
    ]
    for process in processes:
        process.start()
    took_ms: list[float] = []
    try:
        yield took_ms
        stop.set()
        took_ms += waits.get(timeout=60)
    finally:
        stop.set()
        for process in processes:
            process.join(60)


def slope_mib_per_hour(resident_mib: list[float], interval_s: float) -> float:
    """Least squares over the second half, when every pool has its size."""
    late = np.array(resident_mib[len(resident_mib) // 2 :])
    slope, _ = np.polyfit(np.arange(len(late)) * interval_s / 3600, late, 1)
    return float(slope)


def soak(server: ServerProcess, rows: np.ndarray, detector: Detector, seconds: float) -> dict[str, object]:
    """Soak a server with two workers; return the figures.

    Raises
    ------
    AssertionError
        An answer was wrong, or a connection broke while no worker had been killed.
    """
    scores = np.array([float(detector.score(row)[0]) for row in rows])
    state = Soak(server, rows, to_replies(detector.predict(rows)), scores)
    chaos = Chaos(state, KILL_EVERY_S, RELOAD_EVERY_S)
    survivor = pid_of(server, 0)
    files = open_files(survivor)
    with beside(server, to_line(rows[0])) as waits_ms:
        asyncio.run(soak_for(state, chaos, seconds))
    time.sleep(5)  # Connections that linger go.
    left_open = open_files(survivor) - files
    code = asyncio.run(stop_under_load(state))
    log = server.log()
    ordered = sorted(waits_ms)
    quarter = len(chaos.resident_mib) // 4
    early = statistics.median(chaos.resident_mib[quarter : 2 * quarter])
    late = statistics.median(chaos.resident_mib[-quarter:])
    return {
        **dict(sorted(state.counts.items())),
        "waits of the asking client": len(ordered),
        "p50, p99, most of them, ms": [round(ordered[int(len(ordered) * q)], 2) for q in (0.5, 0.99)]
        + [round(ordered[-1], 1)],
        "resident memory of the worker that lived on, early and late, MiB": [round(early, 1), round(late, 1)],
        "its slope in the second half, MiB an hour": round(slope_mib_per_hour(chaos.resident_mib, 0.5), 2),
        "descriptors left open in it": left_open,
        "exit code at SIGTERM under load": code,
        "drains cut off": log.count("event=drain_cut_off"),
        "errors logged, but for workers killed": sum(
            "level=error" in line and "event=worker_died" not in line for line in log.splitlines()
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    rows = np.random.default_rng(1).normal(0, 3, (2000, D)).astype(np.float32)
    network = Network.random([D, 6, 3, 6, D])
    with tempfile.TemporaryDirectory() as folder:
        # Named as the corner of abuse asks for it.
        artifact = write_artifact(
            Path(folder) / "models",
            network.to_onnx(with_contributions=True),
            input_dim=D,
            threshold=clear_threshold(network.reference(rows)[0]),
        )
        flags = ("--workers", "2", "--tcp-max-line-bytes", str(MAX_LINE_BYTES), "--receive-timeout-s", "3")
        with serving(artifact, Path(folder) / "log", *flags) as server:
            figures = soak(server, rows, Detector.load(artifact), arguments.minutes * 60)
    for what, figure in figures.items():
        print(f"| {what} | {figure if not isinstance(figure, int) else format(figure, ',')} |")


if __name__ == "__main__":
    main()
