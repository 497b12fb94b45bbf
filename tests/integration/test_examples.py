"""The examples do what they say: the notebook makes a model, and each client gets rows judged by it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.server_process import ServerProcess, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIMEOUT_S = 240


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_by(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join("".join(output.get("text", "")) for output in outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the notebook has run, and left its model."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(EXAMPLES / "telemetry.ipynb", folder)
    run(Path(sys.executable).with_name("jupyter-execute"), "--inplace", "telemetry.ipynb", folder=folder)
    return folder


@pytest.fixture(scope="module")
def server(folder) -> Iterator[ServerProcess]:
    with serving(folder / "models", folder / "server.log") as process:
        yield process


def test_the_notebook_finds_both_faults_and_says_why(folder):
    alarms = [line for line in printed_by(folder / "telemetry.ipynb").splitlines() if " to " in line]
    assert [line.partition(": ")[2].partition("=")[0] for line in alarms] == [
        "vibration_mm_s",
        "pressure_bar",
    ]


def test_grpc_client(server, folder):
    address = f"{server.host}:{server.grpc_port}"
    normal, worn = run(sys.executable, EXAMPLES / "client_grpc.py", address, folder=folder).splitlines()
    assert normal.startswith("OK score ")
    assert worn.startswith("ANOMALY score ")
    assert "vibration_mm_s=3.2 (expected " in worn


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_http_client(server, folder):
    address = f"{server.host}:{server.http_port}"
    reply = json.loads(run(EXAMPLES / "client_http.sh", address, folder=folder))
    decisions = {output["name"]: output["data"] for output in reply["outputs"]}
    assert decisions["anomaly"] == [False, True]


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_lines_client(server, folder):
    compiler = ("g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-o", "client_lines")
    run(*compiler, EXAMPLES / "client_lines.cpp", folder=folder)
    assert run("./client_lines", server.host, str(server.tcp_port), folder=folder) == "OK\nANOMALY\n"
