"""Whatever appears in a watched folder: the good models serve on, the watch goes on, SIGTERM ends the server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.abuse.artifacts import D, config, endless_loop, missing_input, put, put_raw, sound
from tests.integration.server_process import ANY_PORT, clean_environment, command

WATCHED = ("--no-grpc", "--watch", "--watch-interval-s", "0.05", "--default-model", "good")
ROW = b" ".join([b"1"] * D) + b"\n"

HUGE = b"9" * 400
KINDS = {
    "a node without its input": lambda folder: put(folder, missing_input()),
    "a sum of one": lambda folder: put(folder, missing_input("Add")),
    "1e9 columns": lambda folder: put_raw(folder, config(input_dim=10**9, output_dim=10**9)),
    "1e30 columns": lambda folder: put_raw(folder, config(input_dim=10**30, output_dim=10**30)),
    "a whole number beyond float64": lambda folder: put_raw(
        folder,
        config(calibration={"rows": 5, "features": {"edges": [[10**400]] * D, "counts": [[1, 1]] * D}}),
    ),
    "a threshold beyond float64": lambda folder: put_raw(folder, config().replace(b"1.0", HUGE)),
    "a time zone that is not known": lambda folder: put_raw(folder, config(calendar={"time_zone": "Mars/X"})),
    "a lone surrogate": lambda folder: put_raw(folder, config(name="a\ud800b", version="\udfff")),
    "a long name": lambda folder: put_raw(folder, config(name="n" * 5_000_000)),
    "depth": lambda folder: put_raw(folder, b"[" * 100_000),
    "half an artifact": lambda folder: (put(folder, sound()) / "model.onnx").unlink(),
}


def wait_until(condition, server, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, server.log()
        assert server.process.poll() is None, server.log()
        time.sleep(0.02)


def failed_reloads(server) -> float:
    return server.metrics()["datasentinel_model_reloads_total", ("result", "failed")]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    put(folder / "good" / "1", sound())
    return folder


@pytest.fixture(scope="module")
def watched(start_server, repository):
    with start_server(*WATCHED, artifact=repository) as server:
        yield server
        assert server.stop() == 0, server.log()


@pytest.mark.parametrize("kind", KINDS)
def test_the_watch_survives(watched, repository, kind):
    name = "bad-" + re.sub(r"\W", "-", kind)
    before = failed_reloads(watched)
    KINDS[kind](repository / name / "1")
    wait_until(lambda: f"event=model_not_loaded name={name} " in watched.log(), watched)
    assert failed_reloads(watched) == before + 1
    (entry,) = [m for m in json.loads(watched.fetch("/v2/repository/index", b"")) if m["name"] == name]
    assert entry["state"] == "UNAVAILABLE"
    assert entry["reason"]
    assert watched.ask(ROW) == b"OK\n"
    shutil.rmtree(repository / name)


def test_a_bad_model_is_tried_again_when_its_files_change(watched, repository):
    put(repository / "mended" / "1", missing_input())
    wait_until(lambda: "event=model_not_loaded name=mended " in watched.log(), watched)
    shutil.rmtree(repository / "mended")
    put(repository / "mended" / "1", sound())
    wait_until(lambda: "event=model_loaded name=mended " in watched.log(), watched)


def test_a_folder_name_that_is_not_text_harms_nobody(watched, repository):
    odd = os.fsencode(repository) + b"/odd_\xff\xfe"
    shutil.copytree(os.fsencode(repository) + b"/good", odd)
    wait_until(lambda: "not UTF-8" in watched.log(), watched)
    assert b"odd_" in watched.fetch("/v2/repository/index", b"")
    shutil.rmtree(odd)
    put(repository / "after" / "1", sound())
    wait_until(lambda: "event=model_loaded name=after " in watched.log(), watched)


def test_a_model_that_never_ends_loading_is_given_up(start_server, tmp_path):
    put(tmp_path / "good" / "1", sound())
    with start_server(*WATCHED, "--load-timeout-s", "3", artifact=tmp_path) as server:
        put(tmp_path / "endless" / "1", endless_loop())
        wait_until(lambda: "event=model_not_loaded name=endless " in server.log(), server)
        assert "had not loaded after 3 s" in server.log()

        # The watch goes on. A busy machine may not load even a sound model in so little time: then its next version.
        def refused() -> int:
            return server.log().count("event=model_not_loaded name=next ")

        for version in range(1, 21):
            put(tmp_path / "next" / str(version), sound())
            wait_until(
                lambda past=version - 1: refused() > past or "model_loaded name=next " in server.log(), server
            )
            if refused() < version:
                break
        assert "event=model_loaded name=next " in server.log()


def test_sigterm_ends_a_server_while_a_model_loads(start_server, tmp_path):
    put(tmp_path / "good" / "1", sound())
    with start_server(*WATCHED, artifact=tmp_path) as server:
        put(tmp_path / "endless" / "1", endless_loop())
        time.sleep(1.5)
        before = time.monotonic()
        assert server.stop() == 0, server.log()
        assert time.monotonic() - before < 15


def test_sigterm_ends_a_server_while_its_only_model_loads(tmp_path):
    put(tmp_path / "endless" / "1", endless_loop())
    serve = command(tmp_path, *ANY_PORT, "--backend", "onnxruntime")
    with subprocess.Popen(serve, env=clean_environment(), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not catches(process, signal.SIGTERM):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def catches(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether a process handles a signal itself, as a server does from when it starts to load."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)[1], 16)
    return bool(caught >> (number - 1) & 1)


def test_a_start_with_a_bad_model_serves_the_good_ones(start_server, tmp_path):
    put(tmp_path / "bad" / "1", missing_input())
    put(tmp_path / "good" / "1", sound())
    with start_server("--no-grpc", artifact=tmp_path) as server:
        assert "event=model_not_loaded name=bad " in server.log()
        assert json.loads(server.fetch("/v2/models/good"))["name"] == "good"
        # Nobody asked for "good" when they named no model.
        assert server.ask(ROW).startswith(b"ERROR: ")
        assert server.stop() == 0


def test_workers_do_not_die_of_a_bad_model(start_server, tmp_path):
    put(tmp_path / "good" / "1", sound())
    with start_server(*WATCHED, "--workers", "2", artifact=tmp_path) as server:
        put(tmp_path / "bad" / "1", missing_input())
        wait_until(lambda: server.log().count("event=model_not_loaded ") == 2, server)
        assert "worker_died" not in server.log()
        assert server.ask(ROW) == b"OK\n"
        assert server.stop() == 0
