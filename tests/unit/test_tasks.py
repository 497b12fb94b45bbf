"""Tasks end when they are to, also where a cancellation gets lost."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from datasentinel import tasks


def test_a_task_ends_that_loses_its_first_cancellation(monkeypatch):
    monkeypatch.setattr(tasks, "_AGAIN_S", 0.01)
    lost = []

    async def lose_one() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append(True)

    async def run() -> asyncio.Task[None]:
        task = asyncio.create_task(lose_one())
        await asyncio.sleep(0)
        await asyncio.wait_for(tasks.end(task), 30)
        return task

    assert asyncio.run(run()).cancelled()
    assert lost


def test_a_cancellation_that_comes_with_a_reply_ends_a_loop_all_the_same(monkeypatch):
    """The loop that hung a consumer's stop: `wait_for` of Python 3.11 returns the reply and goes on."""
    monkeypatch.setattr(tasks, "_AGAIN_S", 0.01)

    async def run() -> None:
        replies: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

        async def ask_for_ever() -> None:
            while True:
                reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                replies.put_nowait(reply)
                await asyncio.wait_for(reply, 60)

        asking = asyncio.create_task(ask_for_ever())
        reply = await replies.get()
        await asyncio.sleep(0)
        reply.set_result(1)
        await asyncio.wait_for(tasks.end(asking), 30)
        assert asking.cancelled()

    asyncio.run(run())


def test_errors_stay_with_their_tasks_and_clean_up_is_not_cut_short():
    cleaned = []

    async def fail() -> None:
        raise ValueError("an error")

    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(True)

    async def run() -> asyncio.Task[None]:
        failing, cleaning = asyncio.create_task(fail()), asyncio.create_task(clean_up())
        await asyncio.sleep(0)
        await tasks.end(failing, cleaning)
        await tasks.end()
        return failing

    failing = asyncio.run(run())
    assert cleaned
    with pytest.raises(ValueError, match="an error"):
        failing.result()


def test_whoever_waits_for_the_end_can_be_cancelled():
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.2)
                return

    async def run() -> bool:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        ending = asyncio.create_task(tasks.end(task))
        await asyncio.sleep(0.01)
        ending.cancel()
        await asyncio.wait({ending})
        await task
        return ending.cancelled()

    assert asyncio.run(run())
