"""Consumers that are slower than what comes, messages that are large, and messages that kill who takes them."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from dataclasses import replace

import pytest

from datasentinel.distributed.brokers import open_source
from datasentinel.distributed.brokers.base import BrokerUrl
from datasentinel.distributed.stream.answers import Answerer
from tests.integration.stream.brokers import others_slowly
from tests.integration.stream.pipeline import Pipeline, consuming, eventually, persistently
from tests.integration.stream.test_stream import samples


@others_slowly("nats")
def test_what_a_slow_consumer_has_not_taken_waits_at_the_broker(broker, topic, artifact, rows, monkeypatch):
    if broker.scheme == "mqtt":
        pytest.skip("MQTT does not tell how much waits")
    monkeypatch.setattr("datasentinel.distributed.stream.consumer._LAG_INTERVAL_S", 0.1)
    pipeline = Pipeline(broker, topic, **broker.soon)
    held, sizes = threading.Event(), []
    answer = Answerer.answer

    def answer_later(self, model, messages, shadow=None):
        sizes.append(len(messages))
        held.wait()
        return answer(self, model, messages, shadow)

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(samples(rows[:500]))
        monkeypatch.setattr(Answerer, "answer", answer_later)
        async with consuming(artifact, replace(pipeline.options, max_batch=10)) as url:

            async def lags(count: int) -> bool:
                return await asyncio.to_thread(lag_at, url) == count

            try:
                if broker.scheme != "amqp":  # It tells only of what it has not sent ahead.
                    await eventually(lambda: lags(500), "the lag is not told")
            finally:
                held.set()
            await pipeline.results(500)
            await eventually(lambda: lags(0), "the lag does not end")

    asyncio.run(run())
    assert max(sizes) <= 10


def lag_at(url: str) -> float | None:
    with urllib.request.urlopen(url, timeout=30) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith("datasentinel_stream_lag "):
                return float(line.split()[1])
    return None


@others_slowly()
def test_a_message_that_nobody_survives_is_given_up_and_no_other(broker, topic, artifact, rows):
    if broker.scheme not in ("nats", "redis"):
        pytest.skip(f"{broker.scheme} does not count deliveries")
    pipeline = Pipeline(broker, topic, ack_wait_s=0.3)

    async def die_of(poison: str) -> None:
        """Take all messages, answer all but one, and be gone."""
        source = open_source(BrokerUrl.parse(pipeline.source), pipeline.group)
        await persistently(source.open)
        taken = []
        while poison not in {message.headers["id"] for message in taken}:
            taken += await source.take(100)
        if others := [message for message in taken if message.headers["id"] != poison]:
            await source.acknowledge(others)
        await source.close()

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(samples(rows[:5]))
        for _ in range(3):
            await die_of("sample-2")
        await pipeline.publish(samples(rows[:9]))
        async with consuming(artifact, replace(pipeline.options, max_deliveries=3)):
            (letter,) = await pipeline.letters(1)
            return letter, await pipeline.results_of({f"sample-{number}" for number in range(5, 9)})

    letter, _ = asyncio.run(run())
    assert letter.headers["id"] == "sample-2"
    assert "times and never answered" in letter.headers["reason"]


@others_slowly("nats")
def test_large_messages_come_in_small_batches(broker, topic, artifact, rows, monkeypatch):
    pipeline = Pipeline(broker, topic)
    payloads = [payload + b" " * 10_000 for payload in samples(rows[:300])]
    sizes = []
    answer = Answerer.answer

    def note(self, model, messages, shadow=None):
        sizes.append(sum(len(message.payload) for message in messages))
        return answer(self, model, messages, shadow)

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(payloads)
        monkeypatch.setattr(Answerer, "answer", note)
        async with consuming(artifact, replace(pipeline.options, max_batch_bytes=100_000)):
            return await pipeline.results(300)

    asyncio.run(run())
    # The first two are taken before the size of a message is known.
    assert max(sizes[2:]) <= 100_000
