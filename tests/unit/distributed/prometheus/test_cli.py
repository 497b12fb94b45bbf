from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading

import yaml

from tests.integration.prometheus_stack import watching
from tests.integration.server_process import clean_environment
from tests.unit.distributed.prometheus.fake_server import matrix, serving

CONFIG = """
[source]
url = "{url}"
retries = 0
[models.hosts.queries]
load = "node_load1{{"
"""


def run_watch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "datasentinel", "watch", *arguments]
    environment = clean_environment()
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_a_query_that_is_refused_ends_it_with_one_line(tmp_path):
    config = tmp_path / "watch.toml"
    with serving(lambda _: (400, b'{"error": "parse error"}')) as server:
        config.write_text(CONFIG.format(url=server.url))
        done = run_watch(str(config))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: query node_load1{{: {server.url}: status 400")
    assert len(done.stderr.splitlines()) == 1


def test_rules_and_dashboard_are_written_without_a_server(tmp_path):
    config = tmp_path / "watch.toml"
    config.write_text(CONFIG.format(url="http://localhost:1"))
    rules, dashboard = tmp_path / "rules.yml", tmp_path / "dashboard.json"
    done = run_watch(str(config), "--rules-out", str(rules), "--dashboard-out", str(dashboard))
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(rules.read_text())["groups"]
    assert json.loads(dashboard.read_text())["panels"]
    done = run_watch(str(config), "--rules-out", str(tmp_path / "no" / "rules.yml"))
    assert done.returncode == 1
    assert "rules.yml: cannot be written" in done.stderr


def test_a_directory_is_used_by_one_at_a_time(tmp_path):
    config = tmp_path / "watch.toml"
    config.write_text(CONFIG.format(url="http://localhost:1"))
    (tmp_path / "watch").mkdir()
    with (tmp_path / "watch" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run_watch(str(config), "--once")
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {tmp_path}/watch: another watch uses this directory\n",
    )
    done = run_watch(str(config), "--once")
    assert done.returncode == 1
    assert done.stderr.startswith("error: http://localhost:1: no answer")


def test_it_ends_at_once_while_a_training_runs(tmp_path):
    asked, go_on = threading.Event(), threading.Event()

    def answer(_):
        if len(server.requests) > 1:  # The first one sees whether the query is sound.
            asked.set()
            go_on.wait(120)
        return matrix()

    config = tmp_path / "watch.toml"
    with serving(answer) as server:
        config.write_text("[exposition]\nport = 0\n" + CONFIG.format(url=server.url))
        with watching(config) as watch:
            assert asked.wait(120)
            assert watch.stop() == 0
        go_on.set()
