"""A real server process to measure, and `datasentinel produce` as its load; standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(model: Path, backend: str, transport: str) -> Iterator[tuple[int, int]]:
    """Run a server with one transport only; gives its process id and port."""
    off = [f"--no-{other}" for other in ("tcp", "grpc", "http") if other != transport]
    command = [sys.executable, "-m", "datasentinel", "serve", str(model), "--backend", backend, *off]
    with subprocess.Popen(
        [*command, f"--{transport}-port", "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            ready = server.stdout.readline()
            found = re.search(rf"{transport}=127\.0\.0\.1:(\d+)", ready)
            if found is None:
                raise SystemExit(f"the server did not start: {ready!r}")
            yield server.pid, int(found[1])
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        finally:
            server.kill()


def produce(
    protocol: str, port: int, model: Path, *, count: int, rate: float = 0.0, window: int = 1
) -> dict[str, object]:
    """Send `count` valid samples; give the producer's summary.

    With a `rate` the loop is open: latency counts from the intended start, so a stalled server cannot hide
    its queue. Without one it is closed, `window` samples in flight.
    """
    finished = subprocess.run(
        [
            sys.executable, "-m", "datasentinel", "produce", "--json", "--protocol", protocol,
            "--port", str(port), "--model", str(model), "--invalid-every", "0", "--count", str(count),
            "--rate", str(rate), "--window", str(window),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    return json.loads(finished.stdout)


def save_runs(path: Path, benchmark: str, **found: object) -> None:
    """Write what a benchmark found, with today's date, as JSON."""
    document = {"benchmark": benchmark, "date": datetime.now(UTC).isoformat(timespec="seconds"), **found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")
