"""What a gRPC request costs the server: `python -m benchmarks.bench_grpc_wire`.

h2load (package nghttp2-client) sends one prepared ModelInfer message over and over to `datasentinel serve` in
both of its implementations and, where --reference names the built grpc_reference, to an empty grpc++ server:
one request in flight, 32 connections with one each, and 32 streams on one connection. The servers take turns,
each a process of its own; medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.models import SIZES, random_rows, write_autoencoder
from benchmarks.served import ROOT
from datasentinel.backend import grpc_library
from datasentinel.bench.machine import describe_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

METHOD = "inference.GRPCInferenceService/ModelInfer"
MODES = {"1 in flight": (1, 1), "32 connections": (32, 1), "32 streams": (1, 32)}


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def grpc_body(rows: np.ndarray) -> bytes:
    """A ModelInferRequest with raw contents, behind gRPC's prefix."""
    tensor = field(1, b"input") + field(2, b"FP32") + field(3, b"".join(map(varint, rows.shape)))
    message = field(5, tensor) + field(7, rows.astype("<f4").tobytes())
    return b"\0" + struct.pack(">I", len(message)) + message


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[tuple[int, int]]:
    """Run a server that prints a line with its port; gives its process id and port."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as server:
        try:
            found = re.search(r"(\d+)\s*$", server.stdout.readline())
            if found is None:
                raise SystemExit(f"{command[0]} did not start")
            yield server.pid, int(found[1])
        finally:
            server.kill()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(pid: int, port: int, body: Path, mode: str, count: int) -> dict[str, float]:
    connections, streams = MODES[mode]
    with tempfile.NamedTemporaryFile() as times:
        before = cpu_s(pid)
        finished = subprocess.run(
            [
                "h2load", "-c", str(connections), "-m", str(streams), "-n", str(count), "-d", str(body),
                "-H", "content-type: application/grpc", "-H", "te: trailers", "--log-file", times.name,
                f"http://127.0.0.1:{port}/{METHOD}",
            ],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        used_s = cpu_s(pid) - before
        latencies_us = np.loadtxt(times.name, usecols=2)
    if f"{count} succeeded" not in finished.stdout:
        raise SystemExit(f"requests failed:\n{finished.stdout}")
    rate = float(re.search(r"([\d.]+) req/s", finished.stdout)[1])
    return {
        "requests_per_s": rate,
        "server_cpu_us": 1e6 * used_s / count,
        "p50_us": float(np.median(latencies_us)),
        "p99_us": float(np.quantile(latencies_us, 0.99)),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model (default: small)")
    parser.add_argument("--rows", type=int, default=1, help="of a request (default: 1)")
    parser.add_argument("--count", type=int, default=40_000, help="requests of a run (default: 40000)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--reference", type=Path, help="the built grpc_reference")
    parser.add_argument("--grpcio", action="store_true", help="measure the grpcio implementation, too")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/grpc_wire.json")
    arguments = parser.parse_args()
    if not (0 < arguments.count <= 1_000_000 and 0 < arguments.repeat <= 20 and arguments.rows > 0):
        parser.error("--count must be at most 1,000,000, --repeat at most 20, --rows greater than 0")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    machine = describe_machine()
    widths = SIZES[arguments.size]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = write_autoencoder(folder / "model", widths)
        body = folder / "body"
        body.write_bytes(grpc_body(random_rows(arguments.rows, widths[0], seed=1)))
        serve = [sys.executable, "-m", "datasentinel", "serve", str(model), "--no-tcp", "--no-http"]
        serve += ["--grpc-port", "0", "--grpc-implementation"]
        commands = {"datasentinel, native": [*serve, "native"]} if grpc_library() else {}
        if arguments.grpcio:
            commands["datasentinel, grpcio"] = [*serve, "grpcio"]
        if arguments.reference:
            commands["empty grpc++"] = [str(arguments.reference.resolve())]
        servers = {name: stack.enter_context(running(command)) for name, command in commands.items()}
        runs: dict[tuple[str, str], list[dict[str, float]]] = {}
        for turn in range(-1, arguments.repeat):
            for mode in MODES:
                for name, (pid, port) in servers.items():
                    count = max(100, arguments.count // 20) if turn < 0 else arguments.count
                    run = measure(pid, port, body, mode, count)
                    if turn >= 0:  # The first turn warms up.
                        runs.setdefault((mode, name), []).append(run)

    medians = {
        key: {name: statistics.median(run[name] for run in found) for name in found[0]}
        for key, found in runs.items()
    }
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']:.1f} before the run")
    print(f"{arguments.rows} row(s) a request, {arguments.size} model; medians of {arguments.repeat}")
    print(f"{'':14}  {'server':22}  {'requests/s':>10}  {'CPU us/request':>14}  {'p50 us':>8}  {'p99 us':>8}")
    for (mode, name), run in medians.items():
        print(
            f"{mode:14}  {name:22}  {run['requests_per_s']:10,.0f}  {run['server_cpu_us']:14.1f}  "
            f"{run['p50_us']:8,.0f}  {run['p99_us']:8,.0f}"
        )
    document = {
        "benchmark": "grpc_wire",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "settings": {"size": arguments.size, "rows": arguments.rows, "count": arguments.count},
        "medians": [{"mode": mode, "server": name, **run} for (mode, name), run in medians.items()],
        "runs": [
            {"mode": mode, "server": name, **run} for (mode, name), found in runs.items() for run in found
        ],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
