"""Real brokers, each on a free port, with its files in a folder of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import pytest

START_TIMEOUT_S = 60.0


class Broker(ABC):
    """A broker in a process of its own, which keeps what it was given over a restart."""

    scheme: str
    program: str
    package: str
    soon: ClassVar[
        dict[str, object]
    ] = {}  # Options that have a lost consumer's messages delivered again soon.

    def __init__(self, folder: Path) -> None:
        if shutil.which(self.program, path=f"{Path('/usr/sbin')}:{shutil.os.environ['PATH']}") is None:
            pytest.skip(f"{self.program} is not installed (Debian: {self.package})")
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it on `self.port`."""

    def url(self, topic: str, **options: object) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{self.scheme}://127.0.0.1:{self.port}/{topic}" + (f"?{query}" if query else "")

    def start(self) -> None:
        """Start it on the port it had or, the first time, on a free one, which another may take meanwhile."""
        is_first = self.port == 0
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if is_first:
                self.port = free_port()
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder)
            while self.process.poll() is None and time.monotonic() < deadline_s:
                if self.is_ready():
                    return
                time.sleep(0.05)
        self.stop()
        raise AssertionError(f"{self.program} did not start: {(self.folder / 'log').read_text()}")

    def is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(START_TIMEOUT_S)


class Nats(Broker):
    scheme, program, package = "nats", "nats-server", "nats-server"
    soon: ClassVar[dict[str, object]] = {"ack_wait_s": 3}

    def command(self) -> list[str]:
        return ["nats-server", "-js", "-sd", str(self.folder), "-a", "127.0.0.1", "-p", str(self.port)]


BROKERS: dict[str, type[Broker]] = {broker.scheme: broker for broker in (Nats,)}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
