"""Brokers that say nothing, and clients that do not end: nothing is left behind, and nobody waits for long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest

from datasentinel import tasks
from datasentinel.distributed.brokers import base, open_sink, open_source
from datasentinel.distributed.brokers.base import BrokerUrl
from datasentinel.errors import BrokerError

TIMEOUT_S = 60
SCHEMES = ("amqp", "mqtt", "nats", "redis")


@contextlib.contextmanager
def silent_broker(scheme: str):
    """Accept connections, and answer nothing."""
    pytest.importorskip(f"datasentinel.distributed.brokers.{scheme}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        yield listener, BrokerUrl.parse(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/t")


async def all_other_tasks() -> None:
    """Wait until they have ended; what would try to connect for ever has not."""
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        _, left = await asyncio.wait(others, timeout=TIMEOUT_S)
        assert not left


def read_to_the_end(connection: socket.socket) -> None:
    with connection:
        connection.settimeout(TIMEOUT_S)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1 << 16):
                pass


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("is_sink", [False, True])
def test_who_no_longer_wants_to_connect_leaves_nothing_behind(scheme, is_sink):
    async def run() -> None:
        end = open_sink(url) if is_sink else open_source(url, "g")
        opening = asyncio.create_task(end.open())
        connection, _ = await asyncio.to_thread(listener.accept)
        await asyncio.wait_for(tasks.end(opening), TIMEOUT_S)
        await asyncio.wait_for(end.close(), TIMEOUT_S)
        await all_other_tasks()
        await asyncio.to_thread(read_to_the_end, connection)

    with silent_broker(scheme) as (listener, url):
        asyncio.run(run())


@pytest.mark.parametrize("scheme", sorted({*SCHEMES} - {"mqtt"}))
def test_a_broker_that_does_not_answer_in_time_is_given_up(scheme, monkeypatch):
    async def run() -> None:
        source = open_source(url, "g")
        with pytest.raises(BrokerError, match=str(url)):
            await source.open()
        await source.close()
        await all_other_tasks()

    with silent_broker(scheme) as (_, url):
        monkeypatch.setattr(f"datasentinel.distributed.brokers.{scheme}.REPLY_TIMEOUT_S", 0.1)
        asyncio.run(run())


def test_one_that_does_not_close_is_left_behind_and_the_others_are_closed(monkeypatch, caplog):
    monkeypatch.setattr(base, "CLOSE_TIMEOUT_S", 0.05)

    class End:
        def __init__(self, closing) -> None:
            self.close = closing

    async def run() -> None:
        go_on, closed = asyncio.Event(), asyncio.Event()

        async def close_never() -> None:
            while not go_on.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await go_on.wait()

        async def close() -> None:
            closed.set()

        await base.close(End(close_never), End(close))
        assert closed.is_set()
        go_on.set()

    asyncio.run(run())
    assert [record.msg for record in caplog.records] == ["not_disconnected"]


def test_a_client_of_kafka_is_not_closed_while_a_thread_still_uses_it():
    kafka = pytest.importorskip("datasentinel.distributed.brokers.kafka")
    entered, go_on = threading.Event(), threading.Event()
    events = []

    class Client:
        def poll(self, _timeout_s: float) -> None:
            entered.set()
            assert go_on.wait(TIMEOUT_S)
            events.append("polled")

        def close(self) -> None:
            events.append("closed")

    async def run() -> None:
        source = kafka.KafkaSource(BrokerUrl.parse("kafka://127.0.0.1/t"), "g")
        source._consumer = Client()
        taking = asyncio.create_task(source.take(1))
        assert await asyncio.to_thread(entered.wait, TIMEOUT_S)
        await asyncio.wait_for(tasks.end(taking), TIMEOUT_S)
        assert taking.cancelled()
        closing = asyncio.create_task(source.close())
        for _ in range(10):
            await asyncio.sleep(0)
        assert events == []
        go_on.set()
        await asyncio.wait_for(closing, TIMEOUT_S)

    asyncio.run(run())
    assert events == ["polled", "closed"]
