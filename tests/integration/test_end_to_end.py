"""The whole way on real data: train on the Server Machine Dataset, serve, stream every test row."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from datasentinel import Detector

sklearn_metrics = pytest.importorskip("sklearn.metrics")
pytest.importorskip("torch")


def run_cli(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "datasentinel", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def model(shared_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smd")
    data = shared_data / "demo/smd-machine-1-6-train.csv"
    run_cli("train", data, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def test_lines(model, shared_data) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The model's columns of the test rows as text and as float32, and their labels."""
    features = Detector.load(model).feature_names
    with (shared_data / "demo/smd-machine-1-6-test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [[row[feature] for feature in features] for row in rows]
    values = np.array(texts, dtype=np.float64).astype(np.float32)
    return [",".join(text) for text in texts], values, np.array([int(row["label"]) for row in rows])


def stream(port: int, lines: list[str]) -> list[str]:
    """Send all lines over one connection while a second thread reads, and give the replies."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:

        def send() -> None:
            for start in range(0, len(lines), 100):
                connection.sendall(("\n".join(lines[start : start + 100]) + "\n").encode())
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        with connection.makefile("r", encoding="ascii") as reader:
            replies = reader.read().splitlines()
        sender.join()
    return replies


def test_every_row_is_judged_in_order_and_as_the_detector_does(model, test_lines):
    lines, values, labels = test_lines
    assert len(lines) == 23_000
    command = [sys.executable, "-m", "datasentinel", "serve", str(model)]
    ports = ["--tcp-port", "0", "--no-grpc", "--no-http"]
    with subprocess.Popen(command + ports, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        ready = server.stdout.readline()
        replies = stream(int(re.search(r"tcp=127\.0\.0\.1:(\d+)", ready)[1]), lines)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0

    detector = Detector.load(model)
    assert replies == ["ANOMALY" if decision else "OK" for decision in detector.predict(values)]
    scores = detector.score(values)
    assert sklearn_metrics.roc_auc_score(labels, scores) >= 0.94
    assert sklearn_metrics.average_precision_score(labels, scores) >= 0.87
