"""gRPC Evaluate, and both protocols under a steady rate: `python -m benchmarks.bench_grpc`.

Starts `datasentinel serve` and drives it with `datasentinel produce` from a second process: closed loop with
a fixed number of samples in flight, then open loop at fixed rates, where latency counts from the intended
start.
The producer is a Python client and often the limit; see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks.models import SMALL, write_autoencoder
from benchmarks.served import ROOT, produce, save_runs, serving
from datasentinel.bench.machine import describe_machine

# Open loop: more than ever wait at a rate the server can hold, so that the window never closes the loop.
OPEN_WINDOW = 4096


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="artifact folder; default: a random 8-6-3-6-8 autoencoder")
    parser.add_argument("--backend", default="auto", help="backend of the server (default: auto)")
    parser.add_argument("--protocols", nargs="+", choices=("tcp", "grpc"), default=["tcp", "grpc"])
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 32], help="closed loop; default: 1 32")
    parser.add_argument("--rates", type=float, nargs="+", default=[200, 500], help="open loop, samples/s")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of an open-loop run (default: 3)")
    parser.add_argument("--count", type=int, default=2000, help="samples of a closed-loop run")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/grpc.json")
    arguments = parser.parse_args()
    if not 0 < arguments.seconds <= 60 or not 0 < arguments.count <= 1_000_000:
        parser.error("--seconds must be at most 60, --count at most 1,000,000")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    machine = describe_machine()
    runs: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        model = arguments.model
        if model is None:
            model = write_autoencoder(Path(stack.enter_context(tempfile.TemporaryDirectory())), SMALL)
        for protocol in arguments.protocols:
            with serving(model, arguments.backend, protocol) as (_, port):
                produce(protocol, port, model, count=min(arguments.count, 500))  # warm-up
                for window in arguments.windows:
                    summary = produce(protocol, port, model, count=arguments.count, window=window)
                    runs.append({"protocol": protocol, "loop": f"closed, {window} in flight", **summary})
                for rate in arguments.rates:
                    count = max(1, int(rate * arguments.seconds))
                    summary = produce(protocol, port, model, count=count, rate=rate, window=OPEN_WINDOW)
                    runs.append({"protocol": protocol, "loop": f"open, {rate:g} a second", **summary})

    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']:.1f} before the run")
    print(f"{'protocol':8}  {'loop':22}  {'samples/s':>10}  {'p50 us':>9}  {'p90 us':>9}  {'p99 us':>9}")
    for run in runs:
        latency = run["latency_us"]
        print(
            f"{run['protocol']:8}  {run['loop']:22}  {run['throughput_per_s']:10,.0f}  "
            f"{latency['p50']:9,.0f}  {latency['p90']:9,.0f}  {latency['p99']:9,.0f}"
        )
    save_runs(arguments.out, "grpc", machine=machine, runs=runs)


if __name__ == "__main__":
    main()
