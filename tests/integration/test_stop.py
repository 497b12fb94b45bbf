"""A server ends when it is told to, whatever does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from tests.integration.server_process import clean_environment

TIMEOUT_S = 60

# A transport that does not behave, in a server of its own; each line that it prints has happened.
SCRIPT = """
import asyncio, contextlib, os, sys, time
from datasentinel.serving import process
from datasentinel.serving.logs import configure_logging
from datasentinel.serving.settings import Settings

class Transport:
    name = "odd"

    async def start(self):
        pass

    async def stop(self, timeout_s):
        pass

async def never(word):
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            say(word)
            await asyncio.sleep(3600)

def say(word):
    os.write(1, f"{{word}}\\n".encode())  # At once, whoever else says something.

{transport}

process._OVERDUE_S = {overdue_s}
settings = Settings(model=sys.argv[1], tcp=False, grpc=False, http_port=0, drain_timeout_s=0)
configure_logging(settings)
process.serve(settings, lambda _: say("ready"), make_transport=lambda *_: Odd())
"""
STARTS_NEVER = """
class Odd(Transport):
    async def start(self):
        await never("starting")
"""
STOPS_NEVER = """
class Odd(Transport):
    async def stop(self, timeout_s):
        await never("stopping")
"""
LEAVES_A_THREAD = """
class Odd(Transport):
    async def start(self):
        self.work = asyncio.create_task(asyncio.to_thread(lambda: (say("working"), time.sleep(3600))))
"""
LEAVES_A_TASK = """
class Odd(Transport):
    async def start(self):
        self.work = asyncio.create_task(never("working"))

    async def stop(self, timeout_s):
        raise ValueError("a fault")
"""


@pytest.mark.parametrize(
    ("transport", "signal_at", "code", "events"),
    [
        (STARTS_NEVER, ["starting", "starting"], 1, ["drain_cut_short reason=signal"]),
        (STOPS_NEVER, ["ready"], 1, ["drain_cut_short reason=overdue", "tasks_left"]),
        (LEAVES_A_TASK, ["working"], 0, ["stop_failed transport=odd", "stopped", "tasks_left"]),
        (LEAVES_A_THREAD, ["working"], 0, ["stopped"]),
    ],
    ids=["start", "stop", "task", "thread"],
)
def test_a_server_ends_whatever_does_not(artifact, transport, signal_at, code, events):
    """It is sent SIGTERM at each of these words."""
    overdue_s = 0.2 if transport is STOPS_NEVER else 3600
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(transport=transport, overdue_s=overdue_s), artifact],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as server:
        patience = threading.Timer(TIMEOUT_S, server.kill)
        patience.start()
        try:
            for word in signal_at:
                assert f"{word}\n" in iter(server.stdout.readline, ""), server.stderr.read()
                server.send_signal(signal.SIGTERM)
            _, log = server.communicate()
        finally:
            patience.cancel()
            server.kill()
    assert server.returncode == code, log
    for event in events:
        assert f"event={event}" in log, log
