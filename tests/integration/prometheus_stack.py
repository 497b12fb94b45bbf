"""A real Prometheus with a past, a real Alertmanager, machines to scrape, and `datasentinel watch` beside them."""

from __future__ import annotations

import json
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.integration.server_process import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

TIMEOUT_S = 120.0
_LISTENING = re.compile(r'msg="Listening on" address=127\.0\.0\.1:(\d+)')


def require(*programs: str) -> None:
    """Skip where a program is missing, saying which."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(
                f"{program} is not installed (Debian: prometheus, prometheus-alertmanager, "
                "prometheus-node-exporter)"
            )


def wait_for(what: str, ask: Callable[[], object], timeout_s: float = TIMEOUT_S):
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"still no {what}"
        time.sleep(0.05)
    return answer


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read().decode()


class Program:
    """A program of the Prometheus family, on a port of its own choice, the same after a restart."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = list(command)
        self._log = folder / f"{command[0]}.log"
        self._folder = folder
        self.port = 0
        self.start()

    def start(self) -> None:
        address = f"--web.listen-address=127.0.0.1:{self.port}"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*self._command, address], cwd=self._folder, stderr=log, stdout=log
            )
        self.port = wait_for(f"{self._command[0]} listening", self._listening)

    def _listening(self) -> int:
        log = self._log.read_text()
        assert self.process.poll() is None, log
        found = _LISTENING.search(log)
        return int(found[1]) if found else 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)


class Prometheus(Program):
    """A Prometheus that takes remote writes."""

    def __init__(self, folder: Path, configuration: str) -> None:
        (folder / "prometheus.yml").write_text(configuration)
        super().__init__(
            ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             "--web.enable-remote-write-receiver", "--web.enable-lifecycle"],
            folder,
        )  # fmt: skip

    def start(self) -> None:
        super().start()
        wait_for("a ready Prometheus", self._ready)

    def _ready(self) -> bool:
        try:
            return get(f"{self.url}/-/ready") != ""
        except urllib.error.HTTPError:
            return False

    def reload(self) -> None:
        urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/-/reload", method="POST"), timeout=30
        ).close()

    def query(self, query: str, **parameters: object) -> list[dict]:
        """Return the result of an instant query."""
        form = urllib.parse.urlencode({"query": query, **parameters})
        return json.loads(get(f"{self.url}/api/v1/query?{form}"))["data"]["result"]

    def samples(self, query: str) -> dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]:
        """Return all raw samples of a selector, by labels; those that say that a series ended are none."""
        found = {}
        for series in self.query(f"{query}[1h]"):
            labels = tuple(sorted(series["metric"].items()))
            found[labels] = [(time_s, float(value)) for time_s, value in series["values"]]
        return found

    def value(self, query: str) -> float | None:
        result = self.query(query)
        return float(result[0]["value"][1]) if result else None


def backfill(folder: Path, lines: Iterable[str]) -> None:
    """Give a Prometheus that has not started yet a past, in OpenMetrics' text format."""
    text = folder / "history.om"
    with text.open("w") as file:
        file.writelines(f"{line}\n" for line in (*lines, "# EOF"))
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


class Machines:
    """Machines whose load goes up and down, and whose latency follows it, scraped over HTTP."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.broken: set[str] = set()  # Their latency does not follow any more.
        machines = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = "\n".join(machines.lines(time.time(), stamped=False)) + "\n"
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def lines(self, time_s: float, *, stamped: bool) -> list[str]:
        # As Prometheus labels what it scrapes.
        target = f',job="machines",instance="{self.address}"' if stamped else ""
        stamp = f" {time_s:.3f}" if stamped else ""
        found = []
        for number, name in enumerate(self.names):
            noise = np.random.default_rng([int(time_s * 1000), number]).normal(size=2)
            load = 20 + 5 * np.sin(2 * np.pi * time_s / 40 + number) + 0.3 * noise[0]
            latency = 9.0 if name in self.broken else 0.1 * load + 0.05 * noise[1]
            found += [f'machine_load{{host="{name}"{target}}} {load:.6f}{stamp}',
                      f'machine_latency{{host="{name}"{target}}} {latency:.6f}{stamp}']  # fmt: skip
        return found

    def history(self, first_s: float, last_s: float, step_s: float = 1.0) -> list[str]:
        times_s = np.arange(first_s, last_s, step_s)
        return [line for time_s in times_s.tolist() for line in self.lines(time_s, stamped=True)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Watch:
    """A running `datasentinel watch`."""

    def __init__(self, process: subprocess.Popen[str], log_file: Path) -> None:
        self.process = process
        self._log_file = log_file
        readable, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
        line = process.stdout.readline() if readable else ""
        assert line.startswith("ready exposition="), self.log()
        self.address = line.strip().removeprefix("ready exposition=")

    def log(self) -> str:
        return self._log_file.read_text()

    def metrics(self) -> str:
        return get(f"http://{self.address}/metrics")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def watch_command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "datasentinel", "watch", *arguments]


@contextmanager
def watching(config: Path) -> Iterator[Watch]:
    """Start it, and stop it again if it still runs."""
    log_file = config.with_suffix(".log")
    with log_file.open("a") as log:
        process = subprocess.Popen(
            watch_command(str(config)), stdout=subprocess.PIPE, stderr=log, text=True, env=clean_environment()
        )
    with process:
        try:
            yield Watch(process, log_file)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
    assert "Traceback" not in log_file.read_text(), log_file.read_text()
