from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from datasentinel.distributed.prometheus.config import Endpoint, Exposition, Model, WatchConfig
from datasentinel.distributed.prometheus.dashboard import write_dashboard
from datasentinel.distributed.prometheus.presets import PRESETS
from datasentinel.distributed.prometheus.rules import write_rules

CONFIG = WatchConfig(
    directory=Path("watch"),
    source=Endpoint(url="http://localhost:9090"),
    models=(
        Model(name="nodes", preset="node-exporter", selector='job="node"', step=15.0),
        Model(name="servers", preset="datasentinel", step=15.0),
        Model(name="pumps-1", queries={"load": 'avg by (host) (load{kind="a\\\\b"})'}, step=60.0, by=("host", "model")),
        Model(name="plain", queries={"load": "load", "delay": "delay"}),
    ),
    exposition=Exposition(),
)  # fmt: skip


@pytest.fixture
def promtool(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: package prometheus)")

    def run(*arguments: str) -> None:
        done = subprocess.run(
            ["promtool", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_prometheus_takes_the_rules(promtool, tmp_path):
    (tmp_path / "rules.yml").write_text(write_rules(CONFIG))
    promtool("check", "rules", "rules.yml")


def test_prometheus_understands_every_query_of_presets_and_dashboard(promtool, tmp_path):
    dashboard = json.loads(write_dashboard(CONFIG))
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries = [query for model in CONFIG.models for query in model.queries.values()]
    assert len(shown) > len(queries) > sum(len(preset.queries) for preset in PRESETS.values())
    assert not [query for query in queries if "$" in query]
    rules = [{"record": f"r:{i}", "expr": query} for i, query in enumerate(shown + queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", "rules.yml")


def test_alerts_fire_when_they_should(promtool, tmp_path):
    (tmp_path / "rules.yml").write_text(write_rules(CONFIG))
    labels = {"model": "nodes", "job": "node"}
    series = {
        'anomaly{model="nodes",job="node",instance="a"}': "0x20 1 1 1 1 1 1 0x20",
        'anomaly{model="nodes",job="node",instance="b"}': "0x10 1 0x36",  # One alone is no alarm.
        'anomaly_score{model="nodes",job="node",instance="a"}': "0.5x46 _x60",
        'datasentinel_watch_series_left_out{model="nodes",reason="ambiguous"}': "0x106",
    }
    alert = {
        "exp_labels": {**labels, "instance": "a", "alertname": "SeriesAnomalous", "severity": "warning"},
        "exp_annotations": {
            "summary": "nodes: job=node instance=a is unlike its past",
            "description": "100% of its moments in 1m15s were anomalies. anomaly_reason says which queries, "
            "anomaly_expected what they would usually say.",
        },
    }
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": "5m15s", "alertname": "SeriesAnomalous", "exp_alerts": []},
            {"eval_time": "6m30s", "alertname": "SeriesAnomalous", "exp_alerts": [alert]},
            {"eval_time": "11m", "alertname": "SeriesAnomalous", "exp_alerts": []},
            {"eval_time": "11m", "alertname": "WatchLeavesOutSeries", "exp_alerts": []},
        ],
    }
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [test]})
    )
    promtool("test", "rules", "test.yml")


def test_rules_are_plain_yaml():
    read = yaml.safe_load(write_rules(CONFIG))
    assert [group["name"] for group in read["groups"]] == [
        f"datasentinel-watch-{model.name}" for model in CONFIG.models
    ]
    alerts = {rule["alert"] for rule in read["groups"][0]["rules"] if "alert" in rule}
    assert alerts == {"SeriesAnomalous", "WatchSilent", "WatchLeavesOutSeries"}


def test_panels_do_not_overlap():
    panels = json.loads(write_dashboard(CONFIG))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken
        taken |= cells
