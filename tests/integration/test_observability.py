"""Dashboard and alert rules against what a running server really exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from datasentinel.calibration import calibrate
from tests.integration.server_process import to_line, to_lines
from tests.networks import write_artifact

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
ALERTS = FOLDER / "prometheus" / "alerts.yml"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "datasentinel.json"
ADDED_BY_PROMETHEUS = {"job", "instance"}
# The names of metrics that our expressions may use: the server's own, its process's, and Prometheus' "up".
METRIC = re.compile(r"\b(?:datasentinel|process|python)_\w+|\bup\b")
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")


@pytest.fixture(scope="module")
def calibrated(network, detector, rows, tmp_path_factory) -> Path:
    """The usual artifact with a calibration, whose scores the server can compare with."""
    calibration = calibrate(detector.score(rows), method="conformal", target_fpr=0.01)
    folder = tmp_path_factory.mktemp("calibrated") / "models"
    return write_artifact(
        folder,
        network.to_onnx(),
        input_dim=rows.shape[1],
        threshold=calibration.threshold,
        calibration=calibration.facts(),
    )


@pytest.fixture(scope="module")
def exported(start_server, calibrated, rows) -> dict[str, set[str]]:
    """Every sample name, with its label names, of servers that have had traffic; one has two workers."""
    samples: dict[str, set[str]] = {"up": set()}
    for flags in ([], ["--workers", "2"]):
        with start_server(*flags, artifact=calibrated) as server:
            server.ask(to_lines(rows) + b"1 2 x\n")
            for sample in server.samples():
                samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


def test_a_live_column_that_drifts_is_told_by_name(start_server, network, detector, rows, tmp_path):
    width = rows.shape[1]
    calibration = calibrate(detector.score(rows), method="conformal", target_fpr=0.01, rows=rows)
    artifact = write_artifact(
        tmp_path / "models",
        network.to_onnx(),
        input_dim=width,
        threshold=calibration.threshold,
        calibration=calibration.facts(),
        feature_names=[f"sensor {i}" for i in range(width)],
    )
    generator = np.random.default_rng(2)
    deadline_s = time.monotonic() + 60
    samples = []
    # A row a millisecond at most is looked at, and 500 of those are needed.
    with start_server(artifact=artifact) as server, server.connect() as sock, sock.makefile("rb") as replies:
        while "datasentinel_feature_psi" not in {s.name for s in samples}:
            assert time.monotonic() < deadline_s
            live = generator.normal(0, 3, (200, width)).astype(np.float32)
            live[:, 1] += 3.0
            for row in live:
                sock.sendall(to_line(row))
                assert replies.readline()
            samples = server.samples()
    drift = {s.labels["feature"]: s.value for s in samples if s.name == "datasentinel_feature_psi"}
    assert len(drift) == width
    assert {name for name, value in drift.items() if value >= 0.25} == {"sensor 1"}
    assert max(value for name, value in drift.items() if name != "sensor 1") < 0.1
    assert {s.value for s in samples if s.name == "datasentinel_retrain"} == {1.0}


def alert_rules() -> list[dict]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict]:
    return json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> dict[str, str]:
    found = {f"alert {rule['alert']}": rule["expr"] for rule in alert_rules()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            found[f"variable {variable['name']}"] = variable["definition"]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions().items(), ids=expressions())
def test_metrics_and_labels_are_exported(exported, where, expression):
    names = METRIC.findall(expression)
    assert names, where
    for name in names:
        assert name in exported, f"{where}: the server exports no {name}"
    for name, matchers in SELECTOR.findall(expression):
        for label in re.findall(r"(\w+)\s*[=!]", matchers):
            assert label in exported[name] | ADDED_BY_PROMETHEUS, f"{where}: {name} has no label {label}"
    for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
        labels = set(grouping.replace(" ", "").split(","))
        assert labels <= exported[names[0]] | ADDED_BY_PROMETHEUS, where


def test_alerts_say_what_and_how_bad():
    names = [rule["alert"] for rule in alert_rules()]
    assert len(names) == len(set(names)) >= 7
    for rule in alert_rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_alerts_fire_when_they_should():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]):
        finished = subprocess.run(
            [promtool, *arguments], cwd=ALERTS.parent, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
