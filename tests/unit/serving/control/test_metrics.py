"""The page of metrics: fresh for who asks now and then, and cheap for who asks all the time."""

from __future__ import annotations

from datasentinel.serving.control import metrics as module
from datasentinel.serving.control.metrics import Metrics
from datasentinel.serving.data_plane import DataPlane

OPEN_METRICS = "application/openmetrics-text"


def test_a_flood_of_questions_gets_the_last_page(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now_s)
    plane = DataPlane()
    metrics = Metrics(plane)

    def failed() -> int:
        body, _ = metrics.render()
        (line,) = (line for line in body.splitlines() if b'result="failed"' in line)
        return int(float(line.split()[-1]))

    for count in range(10):
        plane.reloads["failed"] = count
        assert failed() == count
    plane.reloads["failed"] = 77
    assert failed() == 9
    now_s += 0.05
    assert failed() == 9
    now_s += 0.06
    assert failed() == 77
    plane.reloads["failed"] = 78
    assert failed() == 77
    now_s += 3600.0
    assert [failed() for plane.reloads["failed"] in range(11)] == [*range(10), 9]


def test_each_format_has_a_page_of_its_own(monkeypatch):
    monkeypatch.setattr(module, "monotonic", lambda: 100.0)
    metrics = Metrics(DataPlane())
    for _ in range(20):
        plain, plain_type = metrics.render()
        opened, open_type = metrics.render(OPEN_METRICS)
        assert plain_type.startswith("text/plain")
        assert open_type.startswith(OPEN_METRICS)
        assert opened.endswith(b"# EOF\n")
        assert not plain.endswith(b"# EOF\n")
