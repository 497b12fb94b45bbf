"""TCP round trips per second and their latency: `python -m benchmarks.bench_tcp`.

Starts `datasentinel serve` on a small autoencoder (8-6-3-6-8; --model takes another) and drives it from a
second process with 1 and 32 clients, 1 and 16 lines in flight each. See benchmarks/README.md for what the
numbers include.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.models import SMALL, random_rows, write_autoencoder
from benchmarks.served import ROOT, save_runs, serving
from datasentinel import Detector
from datasentinel.bench.machine import describe_machine

DISTINCT_LINES = 1024


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run the load generator once."""
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.tcp_load"],
        input=json.dumps(spec), stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    return json.loads(finished.stdout)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="artifact folder; default: a random 8-6-3-6-8 autoencoder")
    parser.add_argument("--backend", default="auto", help="backend of the server (default: auto)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32], help="default: 1 32")
    parser.add_argument(
        "--depth", type=int, nargs="+", default=[1, 16], help="lines in flight; default: 1 16"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of a run (default: 3)")
    parser.add_argument("--warm-up-s", type=float, default=0.5, help="time before it, not counted")
    parser.add_argument("--max-requests", type=int, default=2_000_000, help="end a run after so many")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each setting; the median is shown")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/tcp.json")
    arguments = parser.parse_args()
    for name, limit in (("seconds", 60), ("max_requests", 10_000_000), ("repeat", 100)):
        if not 0 < getattr(arguments, name) <= limit:
            parser.error(f"--{name.replace('_', '-')} must be greater than 0 and at most {limit}")
    if not all(1 <= count <= 512 for count in (*arguments.clients, *arguments.depth)):
        parser.error("--clients and --depth must be between 1 and 512")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    machine = describe_machine()
    with contextlib.ExitStack() as stack:
        model = arguments.model
        if model is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            model = write_autoencoder(Path(folder), SMALL)
        detector = Detector.load(model, backend=arguments.backend)
        rows = random_rows(DISTINCT_LINES, detector.input_dim, seed=1)
        # A score this close to the threshold may fall on either side of it, depending on the batch size.
        rows = rows[~np.isclose(detector.score(rows), detector.threshold, rtol=1e-4)]
        spec = {
            "lines": [" ".join(map(str, row)) + "\n" for row in rows],
            "replies": ["ANOMALY" if decision else "OK" for decision in detector.predict(rows)],
            "seconds": arguments.seconds,
            "warm_up_s": arguments.warm_up_s,
            "max_requests": arguments.max_requests,
        }
        spec["server_pid"], spec["port"] = stack.enter_context(serving(model, arguments.backend, "tcp"))
        settings = [(clients, depth) for clients in arguments.clients for depth in arguments.depth]
        runs: dict[tuple[int, int], list[dict[str, float]]] = {setting: [] for setting in settings}
        # In turns, so that a busy minute of the machine does not fall on one setting alone.
        for _ in range(arguments.repeat):
            for clients, depth in settings:
                runs[clients, depth].append(measure(spec | {"clients": clients, "depth": depth}))

    medians = [
        sorted(found, key=lambda run: run["requests_per_s"])[len(found) // 2] for found in runs.values()
    ]
    name = detector.artifact.config.name or model
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']:.1f} before the run")
    print(f"model {name}, {detector.input_dim} values a line, {detector.backend}")
    print("clients  depth  requests/s   p50 us   p90 us   p99 us  server us/request  server CPU  load CPU")
    for run in medians:
        print(
            f"{run['clients']:7}  {run['depth']:5}  {run['requests_per_s']:10,.0f}  {run['p50_us']:7,.1f}  "
            f"{run['p90_us']:7,.1f}  {run['p99_us']:7,.1f}  {run['server_cpu_us_per_request']:17.2f}  "
            f"{run['server_cpu_share']:10.0%}  {run['load_cpu_share']:8.0%}"
        )
    save_runs(
        arguments.out,
        "tcp",
        machine=machine,
        model=detector.info(),
        settings={key: spec[key] for key in ("seconds", "warm_up_s", "max_requests")},
        medians=medians,
        runs=[run for found in runs.values() for run in found],
    )


if __name__ == "__main__":
    main()
