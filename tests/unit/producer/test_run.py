"""A run that is told to stop while it connects."""

from __future__ import annotations

import asyncio

from datasentinel.producer import Producer, run


def test_a_stop_ends_a_run_whose_attempt_to_connect_is_being_given_up(monkeypatch):
    monkeypatch.setattr(run, "_CONNECT_TIMEOUT_S", 0.01)

    async def stop_meanwhile():
        cleaning_up, go_on = asyncio.Event(), asyncio.Event()

        async def connect(_listener):
            try:
                await asyncio.sleep(60)
            finally:
                cleaning_up.set()
                await go_on.wait()

        producer = Producer(iter([object()]), connect)
        running = asyncio.create_task(producer.run())
        await asyncio.wait_for(cleaning_up.wait(), 60)
        producer.stop()
        go_on.set()
        summary = await asyncio.wait_for(running, 60)
        assert summary.interrupted

    asyncio.run(stop_meanwhile())
