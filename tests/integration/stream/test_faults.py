"""What happens to a stream when its parts fail: every message is answered, and what is answered twice says so."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from datasentinel.distributed.brokers import open_source
from datasentinel.distributed.brokers.base import BrokerUrl
from tests.integration.server_process import ServerProcess, serving
from tests.integration.stream.brokers import others_slowly
from tests.integration.stream.pipeline import Pipeline, eventually, persistently, readers_of
from tests.integration.stream.test_stream import samples

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replicas(
    pipeline: Pipeline, artifact, tmp_path, count: int, *flags: str
) -> Iterator[list[ServerProcess]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(replica(pipeline, artifact, tmp_path, number, *flags))
            for number in range(count)
        ]


def replica(pipeline: Pipeline, artifact, tmp_path, number: int, *flags: str):
    return serving(artifact, tmp_path / f"{number}.log", *pipeline.flags(number), *flags, subcommand="stream")


def check_repeats(results: list[dict[str, object]], most: int) -> None:
    """Repeats are few, and the same but for what another batch rounds differently."""
    seen: dict[object, dict[str, object]] = {}
    for result in results:
        first = seen.setdefault(result["id"], result)
        assert result == first | {"score": pytest.approx(first["score"], rel=1e-5)}
    assert len(results) - len(seen) <= most


@others_slowly("nats")
@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_what_a_lost_replica_had_taken_is_answered(broker, topic, artifact, rows, tmp_path, fault):
    """By another one or, where the broker keeps it for that replica alone, when it is back."""
    count, batch = 4000, 100
    pipeline = Pipeline(broker, topic, members=2, **broker.soon)
    payloads = samples(rows) * 2

    async def run():
        await pipeline.make_topics()
        with replicas(pipeline, artifact, tmp_path, 2, "--max-batch", str(batch)) as (first, _second):
            publishing = asyncio.create_task(pipeline.publish(payloads))
            results = await pipeline.results(500)
            first.process.send_signal(signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
            await publishing
            missing = {f"sample-{number}" for number in range(count)} - {result["id"] for result in results}
            with ExitStack() as stack:
                if not broker.moves:
                    if fault == "paused":
                        first.process.send_signal(signal.SIGCONT)
                    else:
                        stack.enter_context(replica(pipeline, artifact, tmp_path, 0))
                results += await pipeline.results_of(missing)
            if fault == "paused" and broker.moves:
                first.process.send_signal(signal.SIGCONT)
            return results

    results = asyncio.run(run())
    check_repeats(results, 2 * batch + batch)
    scores = np.empty(count)
    for result in results:
        scores[int(result["id"].removeprefix("sample-"))] = result["score"]
    np.testing.assert_allclose(scores[:2000], scores[2000:], rtol=1e-5)


@others_slowly()
def test_what_waits_while_the_broker_restarts_is_taken(broker, topic, rows):
    """Also what a broker has sent ahead, and sends again: nothing is acknowledged that was not taken."""
    if not broker.restarts or broker.forgets:
        pytest.skip(f"{broker.scheme}: nothing to restart, or the group is forgotten")
    count = 3000
    pipeline = Pipeline(broker, topic, **broker.soon)

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(samples(rows) + samples(rows[: count - len(rows)]))
        source = open_source(BrokerUrl.parse(pipeline.source), pipeline.group)
        await source.open()
        while not (first := await source.take(10)):
            pass
        await source.acknowledge(first)
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        seen = {message.headers["id"] for message in first}
        while len(seen) < count:
            messages = await persistently(lambda: source.take(100))
            seen |= {message.headers["id"] for message in messages}
            if messages:
                await persistently(lambda messages=messages: source.acknowledge(messages))
        await source.close()

    asyncio.run(asyncio.wait_for(run(), 240))


@others_slowly("nats")
def test_a_stream_tells_its_health_and_its_counts(broker, topic, artifact, rows, tmp_path):
    pipeline = Pipeline(broker, topic)
    payloads = [*samples(rows[:200]), b"nonsense"]

    async def run():
        await pipeline.make_topics()
        await pipeline.publish(payloads)
        with replicas(pipeline, artifact, tmp_path, 1, "--log-format", "json") as (process,):
            await pipeline.results(200)
            (letter,) = await pipeline.letters(1)
            # What is published is counted a moment later.
            url = f"http://127.0.0.1:{process.http_port}"
            page = ""

            async def is_counted() -> bool:
                nonlocal page
                page = await asyncio.to_thread(get, f"{url}/metrics")
                return f'requests_total{{transport="{broker.scheme}"}} 201.0' in page

            await eventually(is_counted, "not all requests are counted")
            ready = get(f"{url}/v2/health/ready")
            code = process.stop()
            return page, ready, code, process.log(), letter

    page, ready, code, log, letter = asyncio.run(run())
    label = f'{{transport="{broker.scheme}"}}'
    assert f"datasentinel_rows_total{label} 200.0" in page
    assert f"datasentinel_errors_total{label} 1.0" in page
    assert "datasentinel_stream_retries_total 0.0" in page
    assert json.loads(ready) == {"ready": True}
    assert code == 0
    events = Counter(json.loads(line)["event"] for line in log.splitlines())
    assert events["dead_letter"] == events["draining"] == events["stopped"] == 1
    assert letter.headers["reason"] == "expected 8 values, got 1"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as reply:
        return reply.read().decode()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_of_many_messages_none_is_lost_whatever_happens(broker, topic, artifact, rows, tmp_path):
    """One replica is killed, one is paused and goes on, the broker restarts, and one message in 1,000 is bad."""
    count, batch = broker.many, 1024
    soon = dict.fromkeys(broker.soon, 10)
    pipeline = Pipeline(broker, topic, members=3, **soon)
    payloads = [*samples(rows[:999]), b"[1, 2]"]
    answered = np.zeros(count, np.int64)

    async def read(url: str) -> None:
        url = BrokerUrl.parse(url)
        source = open_source(url, readers_of(url))
        await persistently(source.open)
        while not answered.all():
            messages = await persistently(lambda: source.take(5000))
            for message in messages:
                name = message.headers.get("id") or message.headers["Nats-Msg-Id"]
                answered[int(name.removeprefix("sample-"))] += 1
            if messages:
                await persistently(lambda messages=messages: source.acknowledge(messages))
        await source.close()

    async def wait_for(share: float) -> None:
        while answered.astype(bool).mean() < share:
            await asyncio.sleep(0.5)

    async def run():
        await pipeline.make_topics()
        flags = ("--max-batch", str(batch))
        with (
            replicas(pipeline, artifact, tmp_path, 3, *flags) as (first, second, _third),
            ExitStack() as stack,
        ):
            reading = [asyncio.create_task(read(url)) for url in (pipeline.sink, pipeline.dead_letters)]
            publishing = asyncio.create_task(pipeline.publish(payloads * (count // 1000)))
            await wait_for(0.2)
            first.process.kill()
            if not broker.moves:
                stack.enter_context(replica(pipeline, artifact, tmp_path, 0, *flags))
            await wait_for(0.4)
            second.process.send_signal(signal.SIGSTOP)
            await wait_for(0.6)
            second.process.send_signal(signal.SIGCONT)
            if broker.restarts and not broker.forgets:
                await asyncio.to_thread(broker.stop)
                await asyncio.to_thread(broker.start)
            await publishing
            await asyncio.gather(*reading)

    asyncio.run(run())
    print(f"{broker.scheme}: {count:,} messages, {int((answered - 1).sum()):,} repeats")
