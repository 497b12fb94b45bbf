"""`datasentinel stream` on NATS beside a plain Python consumer with ONNX Runtime: CPU, throughput, latency.

python -m benchmarks.bench_brokers [--messages N] [--rate R] [--turns T]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nats
import numpy as np

from benchmarks.models import SMALL, random_autoencoder
from benchmarks.served import cpu_s
from datasentinel.artifact import Config, save_artifact
from tests.integration.stream.brokers import Nats

D = SMALL[0]
THRESHOLD = 1.0
LATENCY_S = 5.0


def command(system, folder, port, rows):
    if system == "plain":
        module = [
            "benchmarks.plain_consumer",
            str(folder / "model.onnx"),
            str(THRESHOLD),
            str(port),
            str(rows),
        ]
    else:
        urls = ["--from", f"nats://127.0.0.1:{port}/in", "--to", f"nats://127.0.0.1:{port}/out"]
        module = ["datasentinel", "stream", str(folder), *urls, "--http-port", "0", "--log-level", "error"]
    return [sys.executable, "-m", *module]


@contextlib.contextmanager
def running(*arguments):
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().startswith("ready")
            yield process
        finally:
            process.kill()


async def results(jetstream):
    return (await jetstream.stream_info("out")).state.messages


async def backlog(jetstream, system, folder, port, payloads, rows):
    """A consumer meets messages that wait: messages/s, and its CPU time in us a message."""
    for first in range(0, len(payloads), 1000):
        sent = [await jetstream.publish_async("in", one) for one in payloads[first : first + 1000]]
        await asyncio.gather(*sent)
    with running(system, folder, port, rows) as process:
        before = await results(jetstream)
        began_s, began_cpu_s = time.perf_counter(), cpu_s(process.pid)
        while (done := await results(jetstream)) < len(payloads):
            await asyncio.sleep(0.02)
        elapsed_s = time.perf_counter() - began_s
        return (done - before) / elapsed_s, 1e6 * (cpu_s(process.pid) - began_cpu_s) / (done - before)


async def latency(client, system, folder, port, payloads, rows, rate):
    """Messages at a rate: from publishing one to getting its result, p50 and p99 in ms."""
    took_s, arrived = [], asyncio.Event()
    due_s = []

    async def receive(_message):
        took_s.append(time.perf_counter() - due_s[len(took_s)])  # Both are in order.
        if len(took_s) == count:
            arrived.set()

    subscription = await client.subscribe("out", cb=receive)
    count = int(rate * LATENCY_S)
    with running(system, folder, port, rows):
        began_s = time.perf_counter()
        for number in range(count):
            due_s.append(began_s + number / rate)  # What is sent late has waited since then.
            await asyncio.sleep(max(0.0, due_s[-1] - time.perf_counter()))
            await client.publish("in", payloads[number % len(payloads)])
        await asyncio.wait_for(arrived.wait(), 60)
    await subscription.unsubscribe()
    return np.percentile(took_s, [50, 99]) * 1e3


async def measure(folder, options):
    broker = Nats(Path(tempfile.mkdtemp()))
    broker.start()
    client = await nats.connect(broker.url(""))
    jetstream = client.jetstream()
    random = np.random.default_rng(0)
    found = {}
    try:
        for rows in (1, 100):
            count = options.messages if rows == 1 else options.messages // 10
            values = random.normal(size=(count, rows, D)).astype(np.float32)
            payloads = [json.dumps(one[0].tolist() if rows == 1 else one.tolist()).encode() for one in values]
            for _turn in range(options.turns):
                for system in ("datasentinel", "plain"):
                    for name in ("in", "out"):
                        await jetstream.add_stream(name=name, subjects=[name])
                    told = await backlog(jetstream, system, folder, broker.port, payloads, rows)
                    await jetstream.purge_stream("in")
                    waits = await latency(client, system, folder, broker.port, payloads, rows, options.rate)
                    found.setdefault((rows, system), []).append((*told, *waits))
                    for name in ("in", "out"):
                        await jetstream.delete_stream(name)
    finally:
        await client.close()
        broker.stop()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = Config(input_dim=D, output_dim=D, latent_dim=3, threshold=THRESHOLD)
        save_artifact(folder, random_autoencoder(SMALL).to_onnx(), config)
        found = asyncio.run(measure(folder, options))
    print("rows a message, consumer: messages/s, CPU us a message, p50 ms, p99 ms (medians)")
    for (rows, system), turns in found.items():
        rate, cost, p50, p99 = (statistics.median(column) for column in zip(*turns, strict=True))
        print(f"{rows:4} {system:13} {rate:8,.0f} {cost:8.1f} {p50:8.2f} {p99:8.2f}")


if __name__ == "__main__":
    main()
