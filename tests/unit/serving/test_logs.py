"""Structured log lines: one line an event, fields that a program can read back."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys

from datasentinel.serving import logs
from datasentinel.serving.logs import RateLimitedLog

SCRIPT = """
import logging
from datasentinel.serving.logs import configure_logging, log
from datasentinel.serving.settings import Settings

configure_logging(Settings(log_format="{format}", log_level="info"))
logger = logging.getLogger("datasentinel.test")
log(logger, logging.DEBUG, "hidden")
log(logger, logging.INFO, "shown", count=3, path="a b", text='say "hi"\\nbye', empty="")
try:
    1 / 0
except ZeroDivisionError as error:
    log(logger, logging.ERROR, "failed", exception=error)
logging.getLogger("another.library").info("hidden too")
"""


def lines_of(log_format: str) -> list[str]:
    script = SCRIPT.replace("{format}", log_format)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_text_lines():
    shown, failed = lines_of("text")
    assert shown.startswith("time=20")
    assert shown.endswith(
        r' level=info logger=datasentinel.test event=shown count=3 path="a b" text="say \"hi\"\nbye" empty=""'
    )
    assert " level=error " in failed
    assert r"\nZeroDivisionError: division by zero" in failed


def test_json_lines():
    shown, failed = map(json.loads, lines_of("json"))
    assert shown.pop("time").endswith("Z")
    assert shown == {
        "level": "info",
        "logger": "datasentinel.test",
        "event": "shown",
        "count": 3,
        "path": "a b",
        "text": 'say "hi"\nbye',
        "empty": "",
    }
    assert "ZeroDivisionError: division by zero" in failed["exception"]


def test_a_rate_limited_event_says_how_often_it_happened(caplog):
    logger = logging.getLogger("datasentinel.test")
    often = RateLimitedLog(logger, logging.ERROR, "broken", interval_s=1000.0)
    for number in range(5):
        often(number=number)
    assert [record.fields for record in caplog.records] == [{"number": 0}]
    often._next_s = 0.0
    often(number=5)
    assert caplog.records[-1].fields == {"number": 5, "suppressed_before": 4}


def test_a_flood_of_one_kind_is_thinned_out_and_says_so(monkeypatch):
    now_s = logs.time.monotonic()
    monkeypatch.setattr(logs.time, "monotonic", lambda: now_s)
    flood = logs._BurstFilter()

    def passes(event):
        record = logging.makeLogRecord({"name": "datasentinel.test", "msg": event})
        return record if flood.filter(record) else None

    shown = [passes("broken") for _ in range(1000)]
    count = sum(record is not None for record in shown)
    assert 0 < count < 1000
    assert all(shown[:count])
    assert passes("another")
    now_s += 1.0
    assert passes("broken").fields == {"suppressed_before": 1000 - count}
    assert passes("broken") is None


def test_lines_go_to_a_socket_as_those_of_a_supervisor_do():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        script = SCRIPT.replace("{format}", "text")
        subprocess.run([sys.executable, "-c", script], stderr=theirs, check=True, timeout=60)
        theirs.close()
        lines = b"".join(iter(lambda: ours.recv(4096), b"")).splitlines()
    assert [b" event=shown " in lines[0], b" event=failed " in lines[1]] == [True, True]
