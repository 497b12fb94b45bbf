"""Turns on an event loop: who asks for little is served soon, whatever the others bring."""

from __future__ import annotations

import asyncio

import pytest

from datasentinel.serving.connections import turns as module
from datasentinel.serving.connections.turns import Turns


class Clock:
    """Time as work makes it pass."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


class Worker:
    """Has so many turns of work to do."""

    def __init__(self, clock: Clock, turns: int, turn_s: float = 0.001) -> None:
        self.used_s = 0.0
        self.waiting = False
        self.left = turns
        self._clock = clock
        self._turn_s = turn_s

    def take_turn(self) -> bool:
        self._clock.now_s += self._turn_s
        self.left -= 1
        return self.left > 0


def test_work_is_done_at_once_where_nobody_else_has_any(clock):
    async def scenario() -> None:
        worker = Worker(clock, 1)
        Turns().ready(worker)
        assert worker.left == 0

    asyncio.run(scenario())


def test_who_asks_for_little_goes_before_a_crowd_that_asks_for_much(clock):
    async def scenario() -> None:
        turns = Turns()
        crowd = [Worker(clock, 20) for _ in range(50)]
        for worker in crowd:
            turns.ready(worker)
        while sum(worker.left for worker in crowd) > 800:
            await asyncio.sleep(0)
        polite = Worker(clock, 1)
        started_s = clock.now_s
        turns.ready(polite)
        while polite.left:
            await asyncio.sleep(0)
        # Of the crowd's 0.8 s of work, it waits for no more than what is under way.
        assert clock.now_s - started_s < 0.004
        while all(worker.left for worker in crowd):
            await asyncio.sleep(0)
        assert max(worker.left for worker in crowd) <= 2  # Equals among themselves: they end together.

    asyncio.run(scenario())


def test_many_who_ask_for_little_at_once_do_not_keep_the_loop_from_its_sockets(clock):
    async def scenario() -> None:
        turns = Turns()
        crowd = [Worker(clock, 1) for _ in range(100)]
        for worker in crowd:
            turns.ready(worker)
        longest_s = 0.0
        while any(worker.left for worker in crowd):
            before_s = clock.now_s
            await asyncio.sleep(0)
            longest_s = max(longest_s, clock.now_s - before_s)
        assert 0 < longest_s < 0.003

    asyncio.run(scenario())


def test_a_socket_that_is_read_again_and_again_does_not_keep_the_loop_from_the_others(clock):
    """An event loop may read one socket many times before it looks at the next (uvloop: 32 times)."""

    async def scenario() -> None:
        turns = Turns()
        worker = Worker(clock, 1)
        for _ in range(100):
            worker.left = 1
            clock.now_s += 0.0005  # Reading takes time, too.
            turns.ready(worker, 256_000)
            if worker.waiting:
                break
        assert clock.now_s < 0.004
        await asyncio.sleep(0)
        assert not worker.waiting

    asyncio.run(scenario())


def test_time_that_somebody_did_not_use_is_not_saved_up(clock):
    async def scenario() -> None:
        turns = Turns()
        old = Worker(clock, 100)
        turns.ready(old)
        while old.left:
            await asyncio.sleep(0)
        old.left = 100
        newcomer = Worker(clock, 100)
        for worker in (newcomer, old):
            turns.ready(worker)
        while newcomer.left and old.left:
            await asyncio.sleep(0)
        assert max(newcomer.left, old.left) <= 2

    asyncio.run(scenario())
