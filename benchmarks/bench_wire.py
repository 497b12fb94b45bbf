"""What a request costs the server: `python -m benchmarks.bench_wire`.

h2load (package nghttp2-client) sends one prepared inference request over and over to `datasentinel serve`
and to the references that are there: an empty grpc++ server (--reference names the built grpc_reference) and
Triton (--triton names its `tritonserver`, --triton-backend the built libtriton_empty.so) with a backend that
computes nothing. Three protocols: `grpc` (ModelInfer, raw contents), `binary` (HTTP with the binary tensor
extension) and `json`. One request in flight, 32 connections with one each, and, for gRPC, 32 streams on one
connection. The servers take turns, each a process of its own; medians over the rounds, and the medians of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np

from benchmarks.models import SIZES, random_rows, write_autoencoder
from benchmarks.served import ROOT, cpu_s, save_runs
from datasentinel import Detector
from datasentinel.bench.machine import describe_machine
from datasentinel.oip.grpc_predict_v2_pb2 import ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "model"
MODES = {"1 in flight": (1, 1), "32 connections": (32, 1), "32 streams": (1, 32)}
ENGINE = "engine alone"
PROTOCOLS = ("grpc", "binary", "json")
START_TIMEOUT_S = 30.0


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(data)) + data


@dataclass(frozen=True)
class Request:
    """What h2load sends: where to, with which headers, and the body."""

    path: str
    headers: tuple[str, ...]
    body: bytes


def request_of(protocol: str, rows: np.ndarray) -> Request:
    """Ask for the scores of `rows` [N, D]."""
    path = f"v2/models/{MODEL}/infer"
    tensor = {"name": "input", "datatype": "FP32", "shape": list(rows.shape)}
    output = {"name": "score"}
    raw = rows.astype("<f4").tobytes()
    if protocol == "grpc":
        about = field(1, b"input") + field(2, b"FP32") + field(3, b"".join(map(varint, rows.shape)))
        message = field(1, MODEL.encode()) + field(5, about) + field(6, field(1, b"score")) + field(7, raw)
        return Request(
            "inference.GRPCInferenceService/ModelInfer",
            ("content-type: application/grpc", "te: trailers"),
            b"\0" + struct.pack(">I", len(message)) + message,
        )
    if protocol == "json":
        tensor["data"] = [float(f"{value:.6g}") for value in rows.ravel()]
        body = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
        return Request(path, ("content-type: application/json",), body)
    tensor["parameters"] = {"binary_data_size": len(raw)}
    output["parameters"] = {"binary_data": True}
    about = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    headers = ("content-type: application/octet-stream", f"inference-header-content-length: {len(about)}")
    return Request(path, headers, about + raw)


@contextlib.contextmanager
def stopping(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, cwd=ROOT, stderr=subprocess.DEVNULL, **options) as server:
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[tuple[int, int]]:
    """Run a server that prints a line with its port; gives its process id and port."""
    with stopping(command, stdout=subprocess.PIPE) as server:
        found = re.search(r"(\d+)\s*$", server.stdout.readline())
        if found is None:
            raise SystemExit(f"{command[0]} did not start")
        yield server.pid, int(found[1])


@contextlib.contextmanager
def running_triton(
    program: Path, backend: Path, folder: Path, dim: int, protocol: str
) -> Iterator[tuple[int, int]]:
    """Run Triton with the empty backend as the model; gives its process id and port."""
    backends, models = folder / "backends", folder / "triton"
    (backends / "empty").mkdir(parents=True)
    (backends / "empty" / "libtriton_empty.so").symlink_to(backend.resolve())
    (models / MODEL / "1").mkdir(parents=True)
    (models / MODEL / "config.pbtxt").write_text(
        f'name: "{MODEL}"\nbackend: "empty"\nmax_batch_size: 0\n'
        f'input {{ name: "input" data_type: TYPE_FP32 dims: [-1, {dim}] }}\n'
        'output { name: "score" data_type: TYPE_FP32 dims: [-1] }\n'
        "instance_group { count: 1 kind: KIND_CPU }\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    used, unused = ("grpc", "http") if protocol == "grpc" else ("http", "grpc")
    command = [str(program), "--model-repository", str(models), "--backend-directory", str(backends)]
    command += [f"--{used}-port", str(port), f"--{used}-address", "127.0.0.1", f"--allow-{unused}", "false"]
    with stopping([*command, "--allow-metrics", "false"], stdout=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + START_TIMEOUT_S
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if time.monotonic() > deadline or server.poll() is not None:
                raise SystemExit(f"{program} did not start")
            time.sleep(0.1)
        yield server.pid, port


def check(port: int, request: Request, rows: int) -> None:
    """Ask once: h2load takes any reply for a success, one with an error in gRPC's trailers, too."""
    if not request.path.startswith("inference"):
        headers = dict(header.split(": ") for header in request.headers)
        url = f"http://127.0.0.1:{port}/{request.path}"
        with urllib.request.urlopen(urllib.request.Request(url, request.body, headers)) as reply:
            reply.read()
        return
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        raw = channel.unary_unary(f"/{request.path}")(request.body[5:], timeout=10.0)
    # The empty server's reply is empty.
    scores = ModelInferResponse.FromString(raw).raw_output_contents
    if raw and [len(content) for content in scores] != [4 * rows]:
        raise SystemExit(f"not {rows} scores: {raw!r}")


def measure(pid: int, port: int, request: Request, mode: str, count: int) -> dict[str, float]:
    connections, streams = MODES[mode]
    with tempfile.NamedTemporaryFile() as times, tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(request.body)
        command = ["h2load", "-c", str(connections), "-m", str(streams), "-n", str(count)]
        command += ["-d", body.name, "--log-file", times.name]
        if not request.path.startswith("inference"):
            command.append("--h1")
        for header in request.headers:
            command += ["-H", header]
        before = cpu_s(pid)
        finished = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/{request.path}"],
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


def measure_engine(detector: Detector, rows: np.ndarray, count: int) -> dict[str, float]:
    """Score the same rows `count` times in this process: what of the server is no overhead."""
    scores = np.empty(len(rows), np.float32)
    took_s = []
    before_s = time.process_time()
    for _ in range(count):
        start_s = time.perf_counter()
        detector.score(rows, out=scores)
        took_s.append(time.perf_counter() - start_s)
    used_s = time.process_time() - before_s
    return {
        "requests_per_s": count / sum(took_s),
        "server_cpu_us": 1e6 * used_s / count,
        "p50_us": 1e6 * float(np.median(took_s)),
        "p99_us": 1e6 * float(np.quantile(took_s, 0.99)),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="grpc", help="(default: grpc)")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model (default: small)")
    parser.add_argument("--rows", type=int, default=1, help="of a request (default: 1)")
    parser.add_argument("--count", type=int, default=40_000, help="requests of a run (default: 40000)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--reference", type=Path, help="the built grpc_reference")
    parser.add_argument("--triton", type=Path, help="tritonserver, as in the wheel nvidia-pytriton")
    parser.add_argument("--triton-backend", type=Path, help="the built libtriton_empty.so")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/wire.json")
    arguments = parser.parse_args()
    if not (0 < arguments.count <= 1_000_000 and 0 < arguments.repeat <= 20 and arguments.rows > 0):
        parser.error("--count must be at most 1,000,000, --repeat at most 20, --rows greater than 0")
    if (arguments.triton is None) != (arguments.triton_backend is None):
        parser.error("--triton and --triton-backend go together")
    return arguments


def start_servers(
    arguments: argparse.Namespace, model: Path, folder: Path, stack: contextlib.ExitStack
) -> dict[str, tuple[int, int]]:
    """Start all that take part; gives the process id and port of each, ours first."""
    dim = SIZES[arguments.size][0]
    serve = [sys.executable, "-m", "datasentinel", "serve", str(model), "--no-tcp"]
    commands = {}
    if arguments.protocol == "grpc":
        commands["datasentinel"] = [*serve, "--no-http", "--grpc-port", "0"]
        if arguments.reference:
            commands["empty grpc++"] = [str(arguments.reference.resolve())]
    else:
        commands["datasentinel"] = [*serve, "--no-grpc", "--http-port", "0"]
    servers = {name: stack.enter_context(running(command)) for name, command in commands.items()}
    if arguments.triton:
        servers["Triton, empty model"] = stack.enter_context(
            running_triton(arguments.triton, arguments.triton_backend, folder, dim, arguments.protocol)
        )
    return servers


def main() -> None:
    arguments = parse_arguments()
    machine = describe_machine()
    widths = SIZES[arguments.size]
    rows = random_rows(arguments.rows, widths[0], seed=1)
    request = request_of(arguments.protocol, rows)
    modes = [mode for mode, (_, streams) in MODES.items() if streams == 1 or arguments.protocol == "grpc"]
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = write_autoencoder(folder / MODEL, widths, name=MODEL)
        servers = start_servers(arguments, model, folder, stack)
        detector = Detector.load(model)
        for _, port in servers.values():
            check(port, request, arguments.rows)
        for turn in range(-1, arguments.repeat):
            for mode in modes:
                for name, (pid, port) in servers.items():
                    count = max(100, arguments.count // 20) if turn < 0 else arguments.count
                    run = measure(pid, port, request, mode, count)
                    if turn >= 0:  # The first turn warms up.
                        runs.setdefault((mode, name), []).append(run)
                if turn >= 0:
                    run = measure_engine(detector, rows, arguments.count // 10)
                    runs.setdefault((mode, ENGINE), []).append(run)

    medians = {
        key: {name: statistics.median(run[name] for run in found) for name in found[0]}
        for key, found in runs.items()
    }
    ours = next(iter(servers))
    ratios = {
        (mode, name): {
            what: statistics.median(
                mine[what] / theirs[what] for mine, theirs in zip(runs[mode, ours], found, strict=True)
            )
            for what in ("requests_per_s", "server_cpu_us", "p50_us")
        }
        for (mode, name), found in runs.items()
        if name != ours
    }
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']:.1f} before the run")
    print(f"{arguments.protocol}, {arguments.rows} row(s) a request, {arguments.size} model; ", end="")
    print(f"medians of {arguments.repeat}")
    print(f"{'':14}  {'server':22}  {'requests/s':>10}  {'CPU us/request':>14}  {'p50 us':>8}  {'p99 us':>8}")
    for (mode, name), run in medians.items():
        print(
            f"{mode:14}  {name:22}  {run['requests_per_s']:10,.0f}  {run['server_cpu_us']:14.1f}  "
            f"{run['p50_us']:8,.0f}  {run['p99_us']:8,.0f}"
        )
    for (mode, name), ratio in ratios.items():
        print(
            f"{mode:14}  {ours} / {name}: {ratio['requests_per_s']:.2f} x requests/s, "
            f"{ratio['server_cpu_us']:.2f} x CPU, {ratio['p50_us']:.2f} x p50"
        )
    save_runs(
        arguments.out,
        "wire",
        machine=machine,
        settings={name: getattr(arguments, name) for name in ("protocol", "size", "rows", "count", "repeat")},
        medians=[{"mode": mode, "server": name, **run} for (mode, name), run in medians.items()],
        ratios=[{"mode": mode, "to": name, **ratio} for (mode, name), ratio in ratios.items()],
        runs=[{"mode": mode, "server": name, **run} for (mode, name), found in runs.items() for run in found],
    )


if __name__ == "__main__":
    main()
