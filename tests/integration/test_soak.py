"""A soak: nothing is lost but what a killed worker held, and nothing leaks."""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import time
from pathlib import Path

import pytest

from tests.integration.server_process import to_replies
from tests.integration.soak import Chaos, open_files, pid_of, soak_for, stop_under_load
from tests.integration.soak_clients import MAX_LINE_BYTES, Soak

LONG_S = float(os.environ.get("DATASENTINEL_SOAK_S", "600"))
_SETTLE_S = 30.0
_SPARE_FILES = 8  # Libraries open some of their own at first use; a leak would show in the hundreds.

if not Path("/proc/self/fd").exists():
    pytest.skip("this system has no /proc to look into a process", allow_module_level=True)


@pytest.mark.parametrize(
    ("seconds", "kill_every_s", "allowed_growth_mib"),
    [
        pytest.param(12.0, 5.0, 40.0, id="short"),
        pytest.param(
            LONG_S, 20.0, 10.0, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(LONG_S + 300)]
        ),
    ],
)
def test_nothing_is_lost_and_nothing_leaks(
    start_server, detector, rows, seconds, kill_every_s, allowed_growth_mib
):
    flags = ("--workers", "2", "--tcp-max-line-bytes", str(MAX_LINE_BYTES), "--receive-timeout-s", "3")
    with start_server(*flags) as server:
        scores = [float(detector.score(row)[0]) for row in rows]
        soak = Soak(server, rows, to_replies(detector.predict(rows)), scores)
        watched = {"worker": pid_of(server, 0), "supervisor": server.process.pid}
        files = {name: open_files(pid) for name, pid in watched.items()}
        chaos = Chaos(soak, kill_every_s, reload_every_s=2.0)
        asyncio.run(soak_for(soak, chaos, seconds))

        assert pid_of(server, 0) == watched["worker"], "the worker that nobody killed died"
        deadline = time.monotonic() + _SETTLE_S
        while any(open_files(pid) > files[name] + _SPARE_FILES for name, pid in watched.items()):
            assert time.monotonic() < deadline, "file descriptors were left open"
            time.sleep(0.1)
        quarter = len(chaos.resident_mib) // 4
        early, late = (
            statistics.median(part)
            for part in (chaos.resident_mib[quarter : 2 * quarter], chaos.resident_mib[-quarter:])
        )
        assert late - early < allowed_growth_mib, f"resident memory grew from {early:.1f} to {late:.1f} MiB"

        assert asyncio.run(stop_under_load(soak)) == 0
        log = server.log()
    for event in ("drain_cut_off", "workers_killed", "tasks_left", "connection_failed", "request_failed"):
        assert f"event={event}" not in log
    errors = {re.search(r"event=(\S+)", line)[1] for line in log.splitlines() if "level=error" in line}
    assert errors <= {"worker_died"}
    for what in (
        "lines answered",
        "calls answered",
        "lines refused",
        "HTTP requests answered",
        "workers killed",
    ):
        assert soak.counts[what] > 0, what
    facts = ", ".join(f"{what}: {count:,}" for what, count in sorted(soak.counts.items()))
    print(f"{seconds:.0f} s; {facts}; resident {early:.1f} MiB early, {late:.1f} MiB late")
