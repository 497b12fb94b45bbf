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


def test_a_task_that_is_cancelled_again_while_it_ends_others_ends_them_all_the_same(monkeypatch):
    """Both wait for the same time before they cancel again."""
    monkeypatch.setattr(tasks, "_AGAIN_S", 0.01)

    async def lose(count: int) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                count -= 1
                if count < 0:
                    raise

    async def run() -> list[bool]:
        inner = asyncio.create_task(lose(5))

        async def clean_up() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await tasks.end(inner)

        outer = asyncio.create_task(clean_up())
        await asyncio.sleep(0)
        await asyncio.wait_for(tasks.end(outer), 30)
        return [outer.cancelled(), inner.cancelled()]

    assert asyncio.run(run()) == [True, True]


def test_work_that_does_not_mind_its_cancellation_is_left_behind():
    async def stubborn(go_on: asyncio.Event) -> None:
        while not go_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go_on.wait()

    async def run() -> list[bool]:
        go_on = asyncio.Event()
        ended = [
            await tasks.within(60, asyncio.sleep(0), asyncio.sleep(0)),
            await tasks.within(0.01, asyncio.sleep(0), stubborn(go_on)),
        ]
        (left,) = asyncio.all_tasks() - {asyncio.current_task()}
        go_on.set()
        await left
        return ended

    assert asyncio.run(run()) == [True, False]


def test_all_work_goes_on_when_some_of_it_fails_and_ends_with_whoever_waits():
    ended = []

    async def work(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(seconds)

    async def fail() -> None:
        raise ValueError("an error")

    async def run() -> None:
        with pytest.raises(ValueError, match="an error"):
            await tasks.within(60, fail(), work(0.01))
        assert ended == [0.01]
        waiting = asyncio.create_task(tasks.within(60, work(30)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await asyncio.sleep(0)
        assert ended == [0.01, 30]

    asyncio.run(run())
