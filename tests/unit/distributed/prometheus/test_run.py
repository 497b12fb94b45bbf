"""Several models at once: none waits for another, and a fault of one harms no other."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from datasentinel.distributed.prometheus import run
from datasentinel.errors import MissingDependencyError

TIMEOUT_S = 60


class Model:
    """What a watcher is to its thread."""

    due_s = 0.0
    is_training = False

    def __init__(self, look) -> None:
        self._look = look
        self.looks = threading.Semaphore(0)
        self.failures = []

    def look(self, now_s: float) -> None:
        self.looks.release()
        self._look()

    def fail(self, operation: str, error: Exception) -> None:
        self.failures.append((operation, error))


def take(looks: threading.Semaphore, count: int) -> None:
    for _ in range(count):
        assert looks.acquire(timeout=TIMEOUT_S)


def test_a_model_that_takes_long_does_not_keep_the_others_waiting(monkeypatch):
    monkeypatch.setattr(run, "_AFTER_FAULT_S", 0.01)
    go_on, stop = threading.Event(), threading.Event()

    def fail() -> None:
        raise ZeroDivisionError("nobody thought of it")

    slow, quick, faulty = Model(go_on.wait), Model(lambda: time.sleep(0.001)), Model(fail)
    watching = threading.Thread(target=run._look_for_ever, args=([slow, quick, faulty], stop))
    watching.start()
    take(slow.looks, 1)
    take(quick.looks, 20)
    take(faulty.looks, 3)
    assert not slow.looks.acquire(blocking=False)
    assert faulty.failures[0][0] == "look"
    assert isinstance(faulty.failures[0][1], ZeroDivisionError)
    assert not quick.failures
    stop.set()
    go_on.set()
    watching.join(TIMEOUT_S)
    assert not watching.is_alive()


def test_what_time_will_not_mend_ends_the_watch():
    def lack() -> None:
        raise MissingDependencyError("torch is not installed")

    stop = threading.Event()
    with pytest.raises(MissingDependencyError, match="torch"):
        run._look_for_ever([Model(lack), Model(lambda: time.sleep(0.001))], stop)
    assert stop.is_set()


def test_a_training_ends_with_a_watch_that_is_killed(tmp_path):
    silent = socket.create_server(("127.0.0.1", 0))  # Takes questions, and answers none.
    script = f"""
import multiprocessing, sys, time
from pathlib import Path
from datasentinel.distributed.prometheus.config import load_config
from datasentinel.distributed.prometheus.training_process import TrainingProcess

if __name__ == "__main__":
    config = load_config(Path({str(tmp_path / "watch.toml")!r}))
    TrainingProcess(config.source, config.models[0], Path({str(tmp_path)!r}), 1000)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep({TIMEOUT_S * 10})
"""
    (tmp_path / "watch.toml").write_text(
        f"""
[source]
url = "http://127.0.0.1:{silent.getsockname()[1]}"
timeout = "1h"

[models.pumps]
by = ["host"]
step = "1s"
fit_window = "30m"

[models.pumps.queries]
load = "load"
"""
    )
    file = tmp_path / "script.py"
    file.write_text(script)
    with subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, text=True) as watch:
        training = int(watch.stdout.readline())
        silent.settimeout(TIMEOUT_S)
        connection, _ = silent.accept()  # It has begun, and waits.
        watch.send_signal(signal.SIGKILL)
    deadline_s = time.monotonic() + TIMEOUT_S
    while is_running(training):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    connection.close()
    silent.close()


def is_running(number: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False
