"""The load generator of the TCP benchmark counts what really happened, and notices wrong replies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import SMALL, random_rows, write_autoencoder
from benchmarks.tcp_load import percentile
from datasentinel import Detector

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_autoencoder(tmp_path_factory.mktemp("model"), SMALL)


@pytest.fixture(scope="module")
def server(model):
    command = [sys.executable, "-m", "tests.line_server", str(model), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield {"port": int(process.stdout.readline().split()[1]), "server_pid": process.pid}
        process.kill()


def drive(server: dict[str, int], model: Path, *, flip: bool = False, **spec) -> subprocess.CompletedProcess:
    rows = random_rows(100, SMALL[0], seed=1)
    decisions = Detector.load(model).predict(rows)
    assert 0.2 < decisions.mean() < 0.8
    spec = server | spec | {
        "lines": [" ".join(map(str, row)) + "\n" for row in rows],
        "replies": ["ANOMALY" if decision != flip else "OK" for decision in decisions],
        "warm_up_s": 0.05,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.tcp_load"],
        input=json.dumps(spec), capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("clients", "depth"), [(1, 1), (8, 16)])
def test_it_measures(server, model, clients, depth):
    finished = drive(server, model, clients=clients, depth=depth, seconds=0.2, max_requests=100_000)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert result["requests"] > 10
    assert result["requests_per_s"] == pytest.approx(result["requests"] / result["elapsed_s"])
    assert 0 < result["p50_us"] <= result["p90_us"] <= result["p99_us"]
    # Little's law for a closed loop: lines in flight = throughput x mean latency, near the median here.
    in_flight = result["requests_per_s"] * result["p50_us"] * 1e-6
    assert in_flight < 3 * clients * depth


def test_it_ends_at_the_number_of_requests_asked_for(server, model):
    finished = drive(server, model, clients=1, depth=4, seconds=20, max_requests=200)
    assert 200 <= json.loads(finished.stdout)["requests"] < 204


def test_a_wrong_reply_ends_it(server, model):
    finished = drive(server, model, flip=True, clients=1, depth=1, seconds=1, max_requests=100)
    assert finished.returncode != 0
    assert "wrong reply to line 0" in finished.stderr


def test_percentiles_are_the_nearest_rank():
    values = sorted(np.random.default_rng(0).exponential(size=997).tolist())
    for percent in (50, 90, 99, 100):
        assert percentile(values, percent) == np.quantile(values, percent / 100, method="inverted_cdf")
