"""Real brokers, each on a free port, with its files in a folder of its own."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.certificates import Authority

START_TIMEOUT_S = 180.0


@dataclass
class Guard:
    """What a guarded broker asks for: a certificate of this authority, a user and a password."""

    authority: Authority
    user = "scorer"
    password = "s3cret/with@signs"

    def __post_init__(self) -> None:
        self.certificate, self.key = self.authority.sign("broker")


class Broker(ABC):
    """A broker in a process of its own, which keeps what it was given over a restart."""

    scheme: str
    program: str
    package: str
    restarts = True
    moves = True  # The messages of a lost consumer go to others.
    forgets = False  # What comes for a group before its consumers are back after a restart.
    many = 100_000  # Messages that make a long run.
    always: ClassVar[dict[str, object]] = {}
    # Options of what reads a topic alone.
    alone: ClassVar[dict[str, object]] = {}
    # Options that have a lost consumer's messages delivered again soon.
    soon: ClassVar[dict[str, object]] = {}

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        if shutil.which(self.program, path=f"{Path('/usr/sbin')}:{os.environ['PATH']}") is None:
            pytest.skip(f"{self.program} is not installed (Debian: {self.package})")
        self.folder = folder
        self.guard = guard
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it on `self.port`."""

    def member(self, name: str) -> dict[str, object]:
        """Options that tell this consumer of a group from the others, where the broker needs some."""
        return {}

    def url(self, topic: str, **options: object) -> str:
        query = "&".join(f"{name}={value}" for name, value in (self.always | options).items())
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
    many = 1_000_000
    soon: ClassVar[dict[str, object]] = {"ack_wait_s": 5}

    def command(self) -> list[str]:
        command = ["nats-server", "-js", "-sd", str(self.folder), "-a", "127.0.0.1", "-p", str(self.port)]
        if (guard := self.guard) is not None:
            command += [
                "--tlsverify",
                f"--tlscacert={guard.authority.file}",
                f"--tlscert={guard.certificate}",
            ]
            command += [f"--tlskey={guard.key}", f"--user={guard.user}", f"--pass={guard.password}"]
        return command


class Redis(Broker):
    scheme, program, package = "redis", "redis-server", "redis-server"
    soon: ClassVar[dict[str, object]] = {"ack_wait_s": 5}

    def command(self) -> list[str]:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": '""'}
        options |= {"appendonly": "yes", "appendfsync": "always"}
        if (guard := self.guard) is not None:
            options |= {"port": 0, "tls-port": self.port, "tls-ca-cert-file": guard.authority.file}
            options |= {"tls-cert-file": guard.certificate, "tls-key-file": guard.key}
            options |= {"user": f"{guard.user} on >{guard.password} ~* +@all"}
        (self.folder / "settings").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        return ["redis-server", str(self.folder / "settings")]


class Mosquitto(Broker):
    """Keeps messages for the sessions that it knows, and for each one its own."""

    scheme, program, package = "mqtt", "mosquitto", "mosquitto"
    moves = False
    # Debian's, 2.0.11, forgets shared subscriptions when it restarts, until their consumers are back.
    forgets = True
    alone: ClassVar[dict[str, object]] = {"shared": 0}

    def command(self) -> list[str]:
        settings = self.folder / "settings"
        text = (
            f"listener {self.port} 127.0.0.1\nuser root\npersistence true\n"
            f"persistence_location {self.folder}/\nautosave_interval 1\n"
            "max_queued_messages 0\nmax_inflight_messages 0\n"
        )
        if (guard := self.guard) is None:
            text += "allow_anonymous true\n"
        else:
            users = self.folder / "users"
            subprocess.run(["mosquitto_passwd", "-b", "-c", users, guard.user, guard.password], check=True)
            text += f"cafile {guard.authority.file}\ncertfile {guard.certificate}\nkeyfile {guard.key}\n"
            text += f"require_certificate true\nallow_anonymous false\npassword_file {users}\n"
        settings.write_text(text)
        return ["mosquitto", "-c", str(settings)]

    def member(self, name: str) -> dict[str, object]:
        return {"client_id": name}


class Kafka(Broker):
    """librdkafka's own mock cluster, which real clients speak to; it lives in a client of this process."""

    scheme = "kafka"
    always: ClassVar[dict[str, object]] = {
        "session.timeout.ms": 6000
    }  # Who leaves is waited for by the mock.
    restarts = False
    many = 20_000  # The mock keeps the last 5 MB of a partition.

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("confluent_kafka")
        self.folder = folder

    def command(self) -> list[str]:
        raise AssertionError("it is no process of its own")

    def start(self) -> None:
        from confluent_kafka import Producer

        self._cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "of the cluster itself"})
        (only,) = self._cluster.list_topics(timeout=START_TIMEOUT_S).brokers.values()
        self.port = only.port

    def stop(self) -> None:
        del self._cluster


# What Debian's command runs, after it has become another user.
_RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class RabbitMq(Broker):
    scheme, program, package = "amqp", "rabbitmq-server", "rabbitmq-server"

    def command(self) -> list[str]:
        name = f"datasentinel-{self.folder.name}-{os.getpid()}"
        environment = {
            "HOME": self.folder,
            "RABBITMQ_NODENAME": f"{name}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": free_port(),
            "ERL_EPMD_PORT": self.epmd_port,
            "RABBITMQ_MNESIA_BASE": self.folder / "data",
            "RABBITMQ_LOG_BASE": self.folder / "logs",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
            "RABBITMQ_CONF_ENV_FILE": self.folder / "environment",
        }
        if (guard := self.guard) is not None:
            del environment["RABBITMQ_NODE_PORT"]
            environment["RABBITMQ_CONFIG_FILE"] = self.folder / "settings.conf"
            (self.folder / "settings.conf").write_text(
                f"listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{self.port}\n"
                f"ssl_options.cacertfile = {guard.authority.file}\nssl_options.certfile = {guard.certificate}\n"
                f"ssl_options.keyfile = {guard.key}\nssl_options.verify = verify_peer\n"
                "ssl_options.fail_if_no_peer_cert = true\n"
                f"default_user = {guard.user}\ndefault_pass = {guard.password}\n"
            )
        return ["env", *(f"{key}={value}" for key, value in environment.items()), _RABBITMQ]

    def stop(self) -> None:
        super().stop()
        # Erlang's register of nodes, which the broker starts, outlives it.
        register = {"ERL_EPMD_PORT": str(self.epmd_port), "PATH": os.environ["PATH"]}
        subprocess.run(["epmd", "-kill"], env=register, capture_output=True, check=False)

    @functools.cached_property
    def epmd_port(self) -> int:
        return free_port()


BROKERS: dict[str, type[Broker]] = {
    broker.scheme: broker for broker in (Nats, Redis, Mosquitto, Kafka, RabbitMq)
}


def others_slowly(*names: str) -> pytest.MarkDecorator:
    """Run a test with these brokers, and with the others among the slow ones."""
    return pytest.mark.parametrize(
        "broker",
        [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in BROKERS],
        indirect=True,
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
