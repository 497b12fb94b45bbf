"""compose.yaml and the Dockerfile: what they promise in the documents, read from the files themselves."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from datasentinel.cli.produce import command as produce
from datasentinel.cli.stream import command as stream
from datasentinel.cli.watch import command as watch
from datasentinel.distributed.brokers.base import BrokerUrl
from datasentinel.distributed.prometheus.config import load_config
from datasentinel.serving.setting_sources import load_settings
from datasentinel.serving.settings import Settings
from datasentinel.tables import Roles, open_table
from tests.integration.server_process import clean_environment
from tests.integration.stream.brokers import Nats, free_port
from tests.networks import Network, write_artifact

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = (REPOSITORY / "docker" / "Dockerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.DOTALL | re.MULTILINE))
# Our services and the image of each.
OURS = {
    "trainer": "trainer",
    "server": "server",
    "producer": "producer",
    "trainer-gpu": "trainer",
    "server-gpu": "server",
    "stream": "server",
    "stream-producer": "producer",
    "watch": "trainer",
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "models"
    return write_artifact(folder, Network.random([8, 6, 3, 6, 8]).to_onnx(), input_dim=8, threshold=5.0)


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((REPOSITORY / "compose.yaml").read_text())


def environment_of(service: dict) -> dict[str, str]:
    """The variables with their defaults; an empty one counts as not set."""
    filled = {
        name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
        for name, text in service.get("environment", {}).items()
    }
    return {name: text for name, text in filled.items() if text}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_locked_down(compose, name):
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["build"]["target"] == OURS[name]
    assert service["build"]["target"] in STAGES


def test_each_starts_when_what_it_needs_is_there(compose):
    services = compose["services"]
    trained = {"trainer": {"condition": "service_completed_successfully"}}
    assert services["server"]["depends_on"] == services["server-gpu"]["depends_on"] == trained
    assert services["producer"]["depends_on"] == {"server": {"condition": "service_healthy"}}


def test_only_profiles_start_what_is_not_everybodys(compose):
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert {name for name, profile in profiles.items() if profile is None} == {
        "trainer",
        "server",
        "producer",
    }
    assert {name for name, profile in profiles.items() if profile == ["gpu"]} == {"trainer-gpu", "server-gpu"}
    streams = {name for name, profile in profiles.items() if profile == ["stream"]}
    assert streams == {"nats", "stream", "stream-producer"}
    assert {name for name, profile in profiles.items() if profile == ["observability"]} == {
        "prometheus",
        "watch",
        "grafana",
    }


def test_only_the_trainer_may_write_models_and_as_the_folders_owner(compose):
    for name, service in compose["services"].items():
        mounts = [mount for mount in service.get("volumes", ()) if mount.startswith("./models:")]
        if name.startswith("trainer"):
            assert mounts == ["./models:/models"]
            assert service["user"] == "${HOST_UID:-1000}:${HOST_GID:-1000}"
        else:
            assert all(mount.endswith(":ro") for mount in mounts), name


def test_published_ports_are_the_servers_and_local(compose):
    defaults = Settings()
    ports = {defaults.tcp_port, defaults.grpc_port, defaults.http_port}
    for name in ("server", "server-gpu"):
        published = compose["services"][name]["ports"]
        assert {int(mapping.rpartition(":")[2]) for mapping in published} == ports
        assert all(mapping.startswith("${BIND_ADDRESS:-127.0.0.1}:") for mapping in published)
    hosts = [
        mapping.rsplit(":", 2)[1]
        for service in compose["services"].values()
        for mapping in service.get("ports", ())
    ]
    assert len(hosts) == len(set(hosts))


def test_the_server_accepts_its_environment_and_has_time_to_drain(compose):
    service = compose["services"]["server"]
    settings = load_settings(environ=image_environment("server") | environment_of(service))
    assert settings.host == "0.0.0.0"
    assert settings.model == "/models"
    assert float(service["stop_grace_period"].removesuffix("s")) > settings.drain_timeout_s


def test_the_producer_reads_the_variables_of_old(compose):
    service = compose["services"]["producer"]
    brokers = "DATASENTINEL_PRODUCE_"
    known = {name for option in produce.params if (name := option.envvar) and not name.startswith(brokers)}
    assert known == set(service["environment"])
    arguments = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in service["command"]]
    with produce.make_context("produce", arguments[1:]) as context:
        assert context.params["model"] == Path("/models")
        assert context.params["rate"] == 100


def test_the_producer_of_streams_writes_and_reads_what_the_stream_reads_and_writes(compose, monkeypatch):
    services = compose["services"]
    needs = services["stream"]["depends_on"]
    assert needs["trainer"] == {"condition": "service_completed_successfully"}
    assert needs["nats"] == {"condition": "service_healthy"}
    assert services["stream-producer"]["depends_on"] == {"stream": {"condition": "service_healthy"}}
    for name in ("stream", "stream-producer"):
        for variable, text in environment_of(services[name]).items():
            monkeypatch.setenv(variable, text)
    with stream.make_context("stream", services["stream"]["command"][1:]) as context:
        source, sink = (BrokerUrl.parse(context.params[end]) for end in ("source", "sink"))
    arguments = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in services["stream-producer"]["command"]]
    with produce.make_context("produce", arguments[1:]) as context:
        assert BrokerUrl.parse(context.params["to"]) == source
        assert BrokerUrl.parse(context.params["results"]) == sink
        assert context.params["model"] == Path("/models")
    assert source.host == sink.host == "nats"
    assert source.topic != sink.topic
    server = {"DATASENTINEL_BACKEND": "auto", "DATASENTINEL_LOG_FORMAT": "json"}
    assert server.items() <= environment_of(services["stream"]).items()


def test_the_watch_asks_and_is_scraped_by_our_prometheus(compose):
    service = compose["services"]["watch"]
    (mount,) = [mount for mount in service["volumes"] if mount.startswith("./deploy")]
    file, inside, mode = mount.split(":")
    assert mode == "ro"
    with watch.make_context("watch", service["command"][1:]) as context:
        assert context.params["config"] == Path(inside)
    config = load_config(REPOSITORY / file)
    assert config.source.url == "http://prometheus:9090"
    assert f"watch:{config.directory}" in service["volumes"]
    assert "install --directory --owner=10001 --group=10001 /models" in STAGES["runtime"]
    settings = yaml.safe_load((REPOSITORY / "deploy/observability/prometheus/prometheus.yml").read_text())
    (scraped,) = [job for job in settings["scrape_configs"] if job["job_name"] == "watch"]
    assert scraped["honor_labels"] is True
    (found,) = scraped["dns_sd_configs"]
    assert (found["names"], found["port"]) == (["watch"], config.exposition.port)
    assert service["ports"] == [f"${{BIND_ADDRESS:-127.0.0.1}}:{found['port']}:{found['port']}"]


class ComposeNats(Nats):
    """Debian's NATS by the command of a service; its folder and its ports are those of this machine."""

    def __init__(self, folder: Path, service: dict) -> None:
        super().__init__(folder)
        self.service = service

    def command(self) -> list[str]:
        self.health_port = free_port()
        return [
            self.program,
            *map(self.here, self.service["command"]),
            *("-a", "127.0.0.1", "-p", str(self.port)),
        ]

    def here(self, text: str) -> str:
        return re.sub("(?<=[:=])8222", str(self.health_port), text).replace("/data", str(self.folder))


def test_the_profile_stream_runs_by_its_commands(compose, tmp_path, artifact):
    services = compose["services"]
    nats = ComposeNats(tmp_path, services["nats"])

    def started(name: str, *more: str) -> subprocess.Popen:
        variables = {
            key: text.replace("nats://nats/", f"nats://127.0.0.1:{nats.port}/")
            for key, text in environment_of(services[name]).items()
        }
        command = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in services[name]["command"]]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "datasentinel"),
                *(word.replace("/models", str(artifact)) for word in command),
                *more,
            ],
            env=clean_environment() | {"DATASENTINEL_MODEL": str(artifact)} | variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        return process

    with ExitStack() as stack:
        stack.callback(nats.stop)
        nats.start()
        wait_for_answer(nats.here(services["nats"]["healthcheck"]["test"][-1]))
        stream = started("stream", "--http-port", "0")
        ready = re.match(r"ready http=(\S+) nats=", stream.stdout.readline())
        producer = started("stream-producer", "--json")
        scored = r'^datasentinel_requests_total{transport="nats"} [1-9]'
        wait_for_answer(f"http://{ready[1]}/metrics", scored, while_runs=producer)
        producer.terminate()
        summary = json.loads(producer.communicate(timeout=60)[0])
        assert producer.returncode == 128 + signal.SIGTERM
        assert summary["answered"] > 0
        assert summary["replies"].keys() <= {"OK", "ANOMALY", "ERROR"}
        assert summary["replies"]["OK"] > 0
        stream.terminate()
        assert stream.wait(60) == 0


def wait_for_answer(url: str, holding: str = "", *, while_runs: subprocess.Popen | None = None) -> None:
    """Wait until something answers with what is looked for, a regular expression, while a process runs."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        assert while_runs is None or while_runs.poll() is None
        with suppress(OSError), urllib.request.urlopen(url, timeout=30) as reply:
            if re.search(holding, reply.read().decode(), re.MULTILINE):
                return
        time.sleep(0.1)
    raise AssertionError(f"no answer with {holding!r} from {url}")


def image_environment(stage: str) -> dict[str, str]:
    (block,) = re.findall(r"^ENV (.*?[^\\])$", STAGES[stage], re.DOTALL | re.MULTILINE)
    pairs = dict(word.split("=", 1) for word in shlex.split(block.replace("\\\n", " ")))
    return {name: text for name, text in pairs.items() if name.startswith("DATASENTINEL_")}


def test_the_health_check_asks_the_real_endpoint():
    assert re.search(r'^HEALTHCHECK .*CMD \["datasentinel", "health"\]$', STAGES["server"], re.MULTILINE)


def test_images_of_others_are_pinned(compose):
    images = [compose["services"][name]["image"] for name in ("prometheus", "grafana", "nats")]
    images.append(re.search(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)[1])
    images.append(re.search(r":-(.*)\}$", compose["x-gpu"]["BASE_IMAGE"])[1])
    for image in images:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_users_are_numbers_and_not_root():
    assert re.findall(r"^USER (\S+)$", STAGES["runtime"], re.MULTILINE)[-1] == "10001:10001"
    for stage in ("trainer", "producer", "server"):
        assert re.findall(r"^USER (\S+)$", STAGES[stage], re.MULTILINE)[-1:] in ([], ["10001:10001"])


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "docker" / "requirements").glob("*.txt")), ids=lambda p: p.stem
)
def test_locks_pin_every_package_with_hashes(path):
    requirements = re.split(r"\n(?=\S)", path.read_text().strip())
    assert len(requirements) > 5
    for requirement in requirements:
        assert re.match(r"[\w.-]+==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
    names = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE)
    if path.stem.endswith("-cpu"):
        assert not [name for name, _ in names if re.match("nvidia|cuda|triton", name)]
    if path.stem == "trainer-cpu":
        constraint = (REPOSITORY / "constraints.txt").read_text().split()[-1]
        assert f"{constraint}+cpu" in {f"{name}=={version}" for name, version in names}


def test_locks_hold_what_the_package_needs():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w.-]+", requirement)[0] for requirement in project["dependencies"]}
    for path in (REPOSITORY / "docker" / "requirements").glob("*.txt"):
        if path.stem != "build":
            locked = set(re.findall(r"^([\w.-]+)==", path.read_text(), re.MULTILINE))
            assert needed <= locked, f"{path.name}: run docker/lock.sh"


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("producer", ["grpc", "nats"]),
        ("server-cpu", ["cpu", "nats"]),
        ("server-gpu", ["gpu", "nats"]),
        ("trainer-cpu", ["cpu", "train", "parquet", "prometheus"]),
        ("trainer-gpu", ["gpu", "train", "parquet", "prometheus"]),
    ],
)
def test_locks_pin_versions_that_the_package_and_its_extras_accept(lock, extras):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    pinned: dict[str, list[str]] = {}
    text = (REPOSITORY / "docker" / "requirements" / f"{lock}.txt").read_text()
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        pinned.setdefault(canonicalize_name(name), []).append(version)
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"]:
            versions = pinned.get(canonicalize_name(requirement.name), [])
            assert versions, f"{lock}.txt lacks {requirement}: run docker/lock.sh"
            for version in versions:
                assert requirement.specifier.contains(version, prereleases=True), (requirement, version)


def test_scripts_are_shell_that_parses():
    scripts = [*REPOSITORY.glob("docker/*.sh"), REPOSITORY / "docker" / "train-once"]
    assert len(scripts) >= 4
    for script in scripts:
        interpreter = script.read_text().splitlines()[0].split()[-1].rpartition("/")[2]
        subprocess.run([interpreter, "-n", script], check=True)
        assert script.stat().st_mode & 0o111, f"{script} cannot be executed"


def test_the_sample_that_the_trainer_makes_is_a_labelled_table(tmp_path):
    script = REPOSITORY / "docker" / "sample.py"
    made = subprocess.run([sys.executable, script, "500"], check=True, capture_output=True, text=True)
    (path := tmp_path / "sample.csv").write_text(made.stdout)
    data = open_table(path, roles=Roles(label="label")).read()
    assert data.values.shape == (500, 8)
    assert 0 < np.sum(data.labels) < 250


def test_an_images_bill_of_materials_names_its_base_its_packages_and_those_locked_for_its_python(tmp_path):
    script = REPOSITORY / "docker" / "sbom.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    documents = {path.name.split(".")[0]: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert sorted(documents) == ["datasentinel-producer", "datasentinel-server", "datasentinel-trainer"]
    digest = re.search("@(sha256:[0-9a-f]{64})$", DOCKERFILE, re.MULTILINE)[1]
    for name, document in documents.items():
        assert document["metadata"]["component"]["name"] == name
        parts = {part["name"]: part for part in document["components"]}
        assert len(parts) == len(document["components"]), "a package is listed twice"
        assert parts["debian"]["purl"] == f"pkg:docker/debian@{digest}"
        assert {"python3", "tini", "libnghttp2-14", "numpy", "datasentinel"} <= set(parts)
        assert "g++" not in parts, "a package of the stages that only build"
        (root,) = document["dependencies"]
        assert root["dependsOn"] == [part["bom-ref"] for part in document["components"]]
    torch = next(part for part in documents["datasentinel-trainer"]["components"] if part["name"] == "torch")
    assert torch["version"].endswith("+cpu")


def test_an_images_bill_of_materials_is_not_made_for_another_base(tmp_path):
    (docker := tmp_path / "docker").mkdir()
    (docker / "Dockerfile").write_text(DOCKERFILE.replace("debian:bookworm", "debian:trixie"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    script = shutil.copy(REPOSITORY / "docker" / "sbom.py", docker)
    done = subprocess.run([sys.executable, script, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the base image is debian:trixie-" in done.stderr
    assert not list(tmp_path.glob("*.json"))
