"""`datasentinel watch` beside a real Prometheus, Alertmanager and exporters."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.served import cpu_s
from datasentinel.detector import Detector
from datasentinel.distributed.prometheus.client import Grid, PrometheusClient
from datasentinel.distributed.prometheus.config import Endpoint, load_config
from datasentinel.distributed.prometheus.presets import PRESETS
from datasentinel.distributed.prometheus.samples import fetch
from datasentinel.streams import StreamDetector
from tests.integration.prometheus_stack import (
    Machines,
    Program,
    Prometheus,
    backfill,
    get,
    require,
    wait_for,
    watch_command,
    watching,
)
from tests.integration.server_process import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

PAST_S = 1300  # of one sample a second
CONFIG = """
[source]
url = "{source}"
{publish}
[models.machines]
by = ["host"]
step = "1s"
offset = "{offset}"
fit_window = "20m"
alert_window = "5s"
[models.machines.queries]
load = "machine_load"
latency = "machine_latency"
"""


def run_watch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        watch_command(*arguments), capture_output=True, text=True, env=clean_environment(), check=False, timeout=240
    )  # fmt: skip


@pytest.fixture
def programs():
    """What is to be stopped at the end."""
    started = []
    yield started
    for program in reversed(started):
        program.stop(signal.SIGKILL)


@pytest.fixture
def machines():
    machines = Machines(["a", "b", "c"])
    yield machines
    machines.close()


def test_an_anomaly_on_a_scraped_machine_raises_an_alert(machines, programs, server, tmp_path):
    require("prometheus", "promtool", "prometheus-alertmanager", "prometheus-node-exporter")
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    alertmanager = Program(
        ["prometheus-alertmanager", "--config.file=alertmanager.yml", "--cluster.listen-address="], tmp_path
    )
    programs.append(alertmanager)
    exporter = Program(["prometheus-node-exporter"], tmp_path)
    programs.append(exporter)
    now = int(time.time())
    backfill(tmp_path, machines.history(now - PAST_S, now))
    config = tmp_path / "watch.toml"
    config.write_text(
        CONFIG.format(source="http://localhost:1", publish="[exposition]\nport = 0", offset="3s")
    )
    assert run_watch(str(config), "--rules-out", str(tmp_path / "rules.yml")).returncode == 0
    targets = tmp_path / "targets.json"
    targets.write_text("[]")
    prometheus = Prometheus(
        tmp_path,
        f"""
global: {{scrape_interval: 1s}}
rule_files: [rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager.port}"]}}]}}]}}
scrape_configs:
  - job_name: machines
    static_configs: [{{targets: ["{machines.address}"]}}]
  - job_name: node
    static_configs: [{{targets: ["127.0.0.1:{exporter.port}"]}}]
  - job_name: server
    static_configs: [{{targets: ["127.0.0.1:{server.http_port}"]}}]
  - job_name: watch
    honor_labels: true
    file_sd_configs: [{{files: [targets.json]}}]
""",
    )
    programs.append(prometheus)
    config.write_text(CONFIG.format(source=prometheus.url, publish="[exposition]\nport = 0", offset="3s"))
    with watching(config) as watch:
        targets.write_text(json.dumps([{"targets": [watch.address]}]))
        wait_for("scrape", lambda: prometheus.value("sum(up) == 4"))
        wait_for("score of three machines", lambda: prometheus.value("count(anomaly_score) == 3"))
        machines.broken.add("b")
        wait_for("clear anomaly", lambda: prometheus.value('max_over_time(anomaly_score{host="b"}[1m]) > 10'))
        alert = wait_for("alert", lambda: firing(alertmanager.url, "b"))
        assert alert["labels"]["model"] == "machines"
        assert alert["annotations"]["summary"] == "machines: host=b is unlike its past"
        expected = prometheus.value('anomaly_expected{host="b",query="latency"}')
        assert 0 < expected < 9
    _check_presets(prometheus)


def firing(url: str, host: str) -> dict | None:
    alerts = json.loads(get(f"{url}/api/v2/alerts"))
    named = {(alert["labels"]["alertname"], alert["labels"].get("host")): alert for alert in alerts}
    return named.get(("SeriesAnomalous", host))


def _check_presets(prometheus: Prometheus) -> None:
    """Every query of a preset has a value of a real exporter."""
    client = PrometheusClient(Endpoint(url=prometheus.url))
    for name, job in (("node-exporter", "node"), ("datasentinel", "server")):
        queries = load_queries(name, job)
        assert len(queries) == len(PRESETS[name].queries)
        for column, query in queries.items():
            if column.startswith(("disk_", "network_")) and not prometheus.query(series_of(query)):
                continue  # A machine without disks of its own, or without a network.
            (series,) = client.query_range(query, Grid(1.0, int(time.time()) - 1, 1))
            assert np.isfinite(series.values).all(), column
            assert set(series.labels) == {"job", "instance"}


def load_queries(preset: str, job: str) -> dict[str, str]:
    from datasentinel.distributed.prometheus.config import Model

    return dict(Model(name="x", preset=preset, selector=f'job="{job}"', step=1.0).queries)


def series_of(query: str) -> str:
    """The selector of a query such as sum by (x) (rate(metric{...}[1m]))."""
    return query[query.index("rate(") + len("rate(") : query.rindex("[")]


@pytest.fixture
def read_and_write(machines, programs, tmp_path):
    """A Prometheus whose samples are the same whenever it is asked, and one to write to."""
    require("prometheus", "promtool")
    source_folder, target_folder = tmp_path / "source", tmp_path / "target"
    source_folder.mkdir()
    target_folder.mkdir()
    now = int(time.time())
    backfill(source_folder, machines.history(now - PAST_S, now + 900))
    source = Prometheus(source_folder, "global: {}\n")
    programs.append(source)
    target = Prometheus(target_folder, "global: {}\n")
    programs.append(target)
    config = tmp_path / "watch.toml"
    publish = f'[exposition]\nport = 0\n[remote_write]\nurl = "{target.url}/api/v1/write"\nretries = 100'
    config.write_text(CONFIG.format(source=source.url, publish=publish, offset="0s"))
    return source, target, config


def test_restarts_lose_nothing_and_score_nothing_twice(read_and_write, tmp_path):
    source, target, config = read_and_write

    def last_s() -> float:
        return target.value('timestamp(anomaly_score{host="a"})') or 0.0

    done = run_watch(str(config), "--once")
    assert done.returncode == 0, done.stderr
    with watching(config) as watch:
        wait_for("score", last_s)
        watch.stop(signal.SIGKILL)
    with watching(config) as watch:
        before_s = last_s()
        wait_for("score after a crash", lambda: last_s() >= before_s + 2)
        source.stop()
        source.start()
        before_s = last_s()
        wait_for("score after a restart of the source", lambda: last_s() >= before_s + 2)
        target.stop(signal.SIGKILL)
        target.start()
        before_s = last_s()
        wait_for("score after a crash of the target", lambda: last_s() >= before_s + 2)
        assert watch.stop() == 0
        assert "event=fitted " not in watch.log()  # The model of the first run did for all.
    _check_against_one_pass(source, target, config)


def _check_against_one_pass(source: Prometheus, target: Prometheus, config) -> None:
    """A moment that was scored twice, or not, would have left its mark on the states after it."""
    (model,) = load_config(config).models
    detector = Detector.load(config.parent / "watch" / "machines")
    facts = detector.artifact.config.training["watch"]
    warm_up, fitted_to = detector.artifact.config.warm_up_rows, facts["fitted_to"]
    written = target.samples("anomaly_score")
    assert {dict(labels)["host"] for labels in written} == {"a", "b", "c"}
    for labels, samples in written.items():
        times_s, severities = np.array(samples).T
        # Nothing is missing: a score for every second since training.
        np.testing.assert_array_equal(times_s, fitted_to + 1 + np.arange(len(samples)))
        first = fitted_to - warm_up
        grid = Grid(1.0, first, int(times_s[-1]) - first + 1)
        read = fetch(PrometheusClient(Endpoint(url=source.url)), model.queries, grid, model.by)
        rows = read.values[read.keys.index((dict(labels)["host"],))].astype(np.float32)
        scores, _ = StreamDetector(detector).scan(rows)
        expected = detector.severity_of_scores(scores)[-len(samples) :]
        np.testing.assert_allclose(severities, expected, rtol=1e-3)


SERIES = 10_000
WIDE_STEP_S = 15
WIDE_CONFIG = """
[source]
url = "{source}"
[exposition]
port = 0
[remote_write]
url = "{target}/api/v1/write"
[models.wide]
by = ["instance", "path"]
step = "15s"
fit_window = "15m"
half_lives = [4, 8]
[models.wide.queries]
requests = "requests"
delay = "delay"
"""


def wide_history(first_s: int, last_s: int) -> Iterator[str]:
    """Two metrics of many series, every fifteen seconds."""
    random = np.random.default_rng(0)
    times_s = np.arange(first_s, last_s, WIDE_STEP_S)
    load = 20 + 5 * np.sin(times_s / 90) + random.normal(0, 0.3, (SERIES, len(times_s)))
    delay = 0.1 * load + random.normal(0, 0.05, load.shape)
    for name, values in (("requests", load), ("delay", delay)):
        yield f"# TYPE {name} gauge"
        for series, row in enumerate(values.tolist()):
            labels = f'job="shop",instance="10.0.{series // 100}.1:8080",path="/shelf/{series % 100}"'
            for time_s, value in zip(times_s.tolist(), row, strict=True):
                yield f"{name}{{{labels}}} {value:.4f} {time_s}"


def test_ten_thousand_series_every_fifteen_seconds_take_less_than_half_a_core(programs, tmp_path):
    require("prometheus", "promtool")
    source_folder, target_folder = tmp_path / "source", tmp_path / "target"
    source_folder.mkdir()
    target_folder.mkdir()
    now = int(time.time()) // WIDE_STEP_S * WIDE_STEP_S
    backfill(source_folder, wide_history(now - 1000, now + 1800))
    source = Prometheus(source_folder, "global: {}\n")
    programs.append(source)
    target = Prometheus(target_folder, "global: {}\n")
    programs.append(target)
    config = tmp_path / "watch.toml"
    config.write_text(WIDE_CONFIG.format(source=source.url, target=target.url))

    def scored_rows() -> float:
        metrics = text_string_to_metric_families(watch.metrics())
        return next(s.value for f in metrics for s in f.samples if s.name == "datasentinel_watch_rows_total")

    with watching(config) as watch:
        wait_for("first scores", lambda: scored_rows() >= 2 * SERIES, timeout_s=600)
        rows, used_s, began_s = scored_rows(), cpu_s(watch.process.pid), time.monotonic()
        wait_for("eight looks", lambda: time.sleep(5) or scored_rows() >= rows + 8 * SERIES, timeout_s=600)
        used_s, took_s = cpu_s(watch.process.pid) - used_s, time.monotonic() - began_s
        looks = (scored_rows() - rows) / SERIES
        assert "level=error" not in watch.log(), watch.log()
    per_look_s = used_s / looks
    print(
        f"{SERIES} series of 2 queries: {per_look_s:.2f} s of CPU a look, scrapes every 5 s included: "
        f"{per_look_s / WIDE_STEP_S:.1%} of a core; {looks:.0f} looks in {took_s:.0f} s"
    )
    assert per_look_s / WIDE_STEP_S < 0.5
    assert target.value("count(anomaly_score)") == SERIES
