"""A soak: two hundred connections of every kind while a worker is killed and the server reloads."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from pathlib import Path

from tests.integration.server_process import STOP_TIMEOUT_S, ServerProcess
from tests.integration.soak_clients import CLIENTS, Soak, repeat


def pid_of(server: ServerProcess, worker: int) -> int:
    """The process that fills a worker's place now."""
    return int(re.findall(rf"event=worker_started worker={worker} pid=(\d+)", server.log())[-1])


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Chaos:
    """Kills worker 1 and sends SIGHUP, again and again, and watches worker 0, which must live on."""

    def __init__(self, soak: Soak, kill_every_s: float, reload_every_s: float) -> None:
        self._soak = soak
        self._kill_every_s = kill_every_s
        self._reload_every_s = reload_every_s
        self._watched = pid_of(soak.server, 0)
        self.resident_mib: list[float] = []

    async def kill(self) -> None:
        while True:
            await asyncio.sleep(self._kill_every_s)
            ready = self._soak.server.log().count("event=ready ")
            # Noted before and after, so that whoever is hit in between is excused.
            self._soak.killed_s = time.monotonic()
            os.kill(pid_of(self._soak.server, 1), signal.SIGKILL)
            self._soak.counts["workers killed"] += 1
            while self._soak.server.log().count("event=ready ") == ready:
                await asyncio.sleep(0.05)
                self._soak.killed_s = time.monotonic()

    async def reload(self) -> None:
        while True:
            await asyncio.sleep(self._reload_every_s)
            self._soak.server.process.send_signal(signal.SIGHUP)
            self._soak.counts["reloads"] += 1

    async def watch(self) -> None:
        while True:
            self.resident_mib.append(resident_mib(self._watched))
            await asyncio.sleep(0.5)


async def soak_for(soak: Soak, chaos: Chaos, seconds: float) -> None:
    """Run everything for so long; then stop the clients, let all settle, and stop the server under load."""
    generator = random.Random(5)
    clients = [
        asyncio.create_task(repeat(client, soak, random.Random(generator.random())))
        for client, count in CLIENTS
        for _ in range(count)
    ]
    trouble = [asyncio.create_task(chaos.kill()), asyncio.create_task(chaos.reload())]
    watcher = asyncio.create_task(chaos.watch())
    everything = [*clients, *trouble, watcher]
    done, _ = await asyncio.wait(everything, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in (*trouble, watcher):
        task.cancel()
    soak.stopping.set()
    for task in done:
        task.result()
    await asyncio.gather(*trouble, watcher, return_exceptions=True)
    await asyncio.gather(*clients)


async def stop_under_load(soak: Soak) -> int:
    """Start good clients again and stop the server while they talk; every answer that comes is right."""
    soak.stopping.clear()
    picked = [client for client, count in CLIENTS[:3] for _ in range(count)]
    clients = [
        asyncio.create_task(repeat(client, soak, random.Random(number)))
        for number, client in enumerate(picked)
    ]
    before = soak.counts["lines answered"]
    while soak.counts["lines answered"] < before + 2000:
        await asyncio.sleep(0.01)
    soak.server_stopping = True
    soak.server.process.send_signal(signal.SIGTERM)
    soak.stopping.set()
    code = await asyncio.to_thread(soak.server.process.wait, STOP_TIMEOUT_S)
    await asyncio.gather(*clients)
    return code
