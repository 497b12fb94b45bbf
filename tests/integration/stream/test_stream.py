"""What every broker has to do for a stream, against real ones."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from tests.integration.stream.brokers import others_slowly
from tests.integration.stream.pipeline import Pipeline, consuming

D = 8
NAMES = [f"f{column}" for column in range(D)]


def samples(rows: np.ndarray) -> list[bytes]:
    return [json.dumps(dict(zip(NAMES, row, strict=True))).encode() for row in rows.tolist()]


def test_every_message_is_answered_in_the_order_of_its_series(
    broker, topic, artifact, network, rows, detector
):
    keys = [f"pump-{number % 3}" for number in range(300)]
    pipeline = Pipeline(broker, topic)

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(samples(rows[:300]), keys)
        async with consuming(artifact, replace(pipeline.options, max_batch=64, num_reasons=2)):
            return await pipeline.results(300)

    results = asyncio.run(run())
    assert len(results) == 300
    expected, _ = network.reference(rows[:300])
    by_id = {result["id"]: result for result in results}
    for number, (key, score) in enumerate(zip(keys, expected, strict=True)):
        result = by_id[f"sample-{number}"]
        np.testing.assert_allclose(result["score"], score, rtol=1e-4, atol=1e-5)
        assert result["anomaly"] == (score > detector.threshold)
        assert result["threshold"] == detector.threshold
        assert result["key"] == key
        assert len(result["reasons"]) == 2
    for key in set(keys):
        order = [int(result["id"].removeprefix("sample-")) for result in results if result["key"] == key]
        assert order == sorted(order)


def test_what_cannot_be_scored_is_a_dead_letter_and_harms_no_other(broker, topic, artifact, rows):
    payloads = samples(rows[:50])
    bad = {
        7: b"",
        8: b"\xff\xfe",
        20: b'{"f0": 1}',
        30: b'{"f0": "' + b"x" * 10_000 + b'"}',
        49: b"[" * 50_000,
    }
    for number, payload in bad.items():
        payloads[number] = payload
    pipeline = Pipeline(broker, topic)

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(payloads)
        async with consuming(artifact, pipeline.options):
            return await pipeline.results(50 - len(bad)), await pipeline.letters(len(bad))

    results, letters = asyncio.run(run())
    assert {result["id"] for result in results} == {f"sample-{n}" for n in range(50) if n not in bad}
    assert {letter.headers["id"]: letter.payload for letter in letters} == {
        f"sample-{number}": payload for number, payload in bad.items()
    }
    reasons = {letter.headers["id"]: letter.headers["reason"] for letter in letters}
    assert reasons["sample-20"] == "column 'f1': is empty"
    assert "not a number" in reasons["sample-30"]
    assert "is not JSON" in reasons["sample-49"]


@others_slowly("nats", "redis")
def test_a_broker_that_restarts_loses_nothing(broker, topic, artifact, rows):
    if not broker.restarts:
        pytest.skip("a mock cluster does not restart")
    pipeline = Pipeline(broker, topic, **broker.soon, **broker.alone)
    payloads = samples(rows[:2000])

    async def run():
        await pipeline.make_topics()
        async with consuming(artifact, replace(pipeline.options, max_batch=50)):
            publishing = asyncio.create_task(pipeline.publish(payloads))
            first = await pipeline.results(200)
            await asyncio.to_thread(broker.stop)
            await asyncio.to_thread(broker.start)
            missing = {f"sample-{number}" for number in range(2000)} - {result["id"] for result in first}
            await pipeline.results_of(missing)
            await publishing

    asyncio.run(run())


@others_slowly("nats", "redis")
def test_a_consumer_that_stops_has_answered_what_it_took(broker, topic, artifact, rows):
    pipeline = Pipeline(broker, topic)
    payloads = samples(rows[:2000])

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(payloads)
        results = []
        async with consuming(artifact, replace(pipeline.options, max_batch=100)):
            results += await pipeline.results(300)
        async with consuming(artifact, pipeline.options):
            missing = {f"sample-{number}" for number in range(2000)} - {result["id"] for result in results}
            results += await pipeline.results_of(missing)
        return [result["id"] for result in results]

    ids = asyncio.run(run())
    assert set(ids) == {f"sample-{number}" for number in range(2000)}
    assert len(ids) <= 2000 + 100  # What the first one took, it has answered; a lost word repeats one batch.
