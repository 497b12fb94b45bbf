"""`datasentinel produce` through real brokers."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from datasentinel.distributed.brokers.base import BrokerUrl
from datasentinel.errors import BrokerError
from datasentinel.producer import broker_client
from tests.integration.stream.brokers import others_slowly
from tests.integration.stream.pipeline import Pipeline, consuming, read

COUNT = 200


@others_slowly("nats")
def test_the_producer_reads_what_became_of_its_samples(broker, topic, artifact):
    pipeline = Pipeline(broker, topic)

    async def run():
        await pipeline.make_topics()
        async with consuming(artifact, pipeline.options):
            return await produce(
                *(
                    "--to",
                    pipeline.source,
                    "--results",
                    pipeline.sink,
                    "--dead-letters",
                    pipeline.dead_letters,
                ),
                *("--group", f"{topic}-producers", "--model", str(artifact), "--streams", "3"),
                *("--count", str(COUNT), "--invalid-every", "10", "--json"),
            )

    code, output, errors = asyncio.run(run())
    assert code == 0, errors
    summary = json.loads(output)
    assert (summary["sent"], summary["answered"], summary["unanswered"]) == (COUNT, COUNT, 0)
    assert summary["invalid"] == {"refused": COUNT // 10, "not_refused": 0}
    assert summary["replies"]["ERROR"] == COUNT // 10
    assert summary["valid_refused"]["count"] == 0
    assert summary["latency_us"]["p50"] > 0


@pytest.mark.parametrize("broker", ["nats"], indirect=True)
def test_samples_have_names_times_and_the_streams_as_keys(broker, topic, tmp_path):
    pipeline = Pipeline(broker, topic)
    table = tmp_path / "rows.csv"
    table.write_text("host,load,heat\na,0.1,2\nb,0.3,4\n")

    async def run():
        await pipeline.make_topics()
        process = await start(
            *("--to", pipeline.source, "--results", pipeline.sink, "--group", f"{topic}-producers"),
            *("--file", str(table), "--id", "host", "--time", "at", "--invalid-every", "0"),
        )
        messages = await read(pipeline.source, lambda found: len(found) >= 2)
        process.terminate()  # It waits for results that nobody makes.
        assert await process.wait() == 128 + signal.SIGTERM
        return messages

    messages = asyncio.run(run())
    told = [json.loads(message.payload) for message in messages]
    assert [message.key for message in messages] == ["a", "b"]
    assert [(one["load"], one["heat"]) for one in told] == [(0.1, 2.0), (0.3, 4.0)]
    assert all(one["at"].endswith("+00:00") for one in told)
    assert len({message.headers["id"] for message in messages}) == 2


async def produce(*arguments: str) -> tuple[int, str, str]:
    process = await start(*arguments)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def start(*arguments: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "datasentinel", "produce", *arguments]
    return await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("option", "expiry_s"), [("", "60"), ("?session_expiry_s=5", "5")])
def test_an_mqtt_broker_soon_forgets_a_producer(option, expiry_s, monkeypatch):
    opened = []

    class Unreachable:
        async def open(self):
            raise BrokerError("gone")

        async def close(self):
            pass

    def note(url, group):
        opened.append(url)
        return Unreachable()

    monkeypatch.setattr(broker_client, "open_source", note)
    monkeypatch.setattr(broker_client, "open_sink", lambda _: Unreachable())
    urls = [BrokerUrl.parse(f"mqtt://127.0.0.1/{topic}{option}") for topic in ("in", "out", "dead")]
    connect = broker_client.broker_connector(broker_client.Topics(*urls), broker_client.Payloads())
    with pytest.raises(BrokerError, match="gone"):
        asyncio.run(connect(lambda *_: None))
    assert [url.options["session_expiry_s"] for url in opened] == [expiry_s, expiry_s]
