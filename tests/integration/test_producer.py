"""The producer against real servers on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.errors import InvalidInputError
from datasentinel.producer import PROTOCOLS, Producer, Summary, Telemetry, connector, new_event_loop, stream
from datasentinel.v1 import inference_pb2
from tests.line_server import talk_lines, tcp_server
from tests.networks import Network, write_artifact

ROOT = Path(__file__).parents[2]
DIM = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model whose threshold parts the telemetry of seed 0 in two halves."""
    network = Network.random([DIM, 6, 3, 6, DIM], seed=1)
    rows = [row.values for row in itertools.islice(Telemetry(DIM), 2000)]
    scores, _ = network.reference(np.array(rows))
    return write_artifact(
        tmp_path_factory.mktemp("model"), network.to_onnx(), input_dim=DIM, threshold=float(np.median(scores))
    )


@pytest.fixture(scope="module")
def detector(model) -> Detector:
    return Detector.load(model)


def evaluate_with(detector: Detector) -> grpc.GenericRpcHandler:
    """Serve `Evaluate` and nothing else."""

    async def evaluate(request, context):
        try:
            score = detector.score(np.array(request.values, np.float32))[0]
        except InvalidInputError as error:
            return inference_pb2.EvaluateResponse(status=inference_pb2.ERROR, message=str(error))
        abnormal = score > detector.threshold
        return inference_pb2.EvaluateResponse(
            status=inference_pb2.ANOMALY if abnormal else inference_pb2.OK, mse=score
        )

    method = grpc.unary_unary_rpc_method_handler(
        evaluate,
        request_deserializer=inference_pb2.EvaluateRequest.FromString,
        response_serializer=inference_pb2.EvaluateResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("datasentinel.v1.InferenceService", {"Evaluate": method})


@contextlib.asynccontextmanager
async def serving(protocol: str, detector: Detector, port: int = 0, **options):
    """Serve in this process; gives the port."""
    if protocol == "tcp":
        async with tcp_server(partial(talk_lines, detector, **options), port) as port:
            yield port
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((evaluate_with(detector),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def run(coroutine):
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(coroutine)


def telemetry(protocol: str, count: int | None, *, invalid_every: int = 10, dim: int = DIM):
    samples = stream(Telemetry(dim), invalid_every=invalid_every, faults=PROTOCOLS[protocol])
    return itertools.islice(samples, count)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize("protocol", ["tcp", "grpc"])
def test_every_sample_gets_its_own_reply(protocol, detector):
    got = {}

    async def main() -> Summary:
        async with serving(protocol, detector) as port:
            return await Producer(
                telemetry(protocol, 500),
                connector(protocol, "127.0.0.1", port),
                on_reply=lambda sample, reply: got.setdefault(sample.index, reply),
            ).run()

    summary = run(main())
    samples = list(telemetry(protocol, 500))
    valid = [sample for sample in samples if sample.fault is None]
    values = np.array([sample.values for sample in valid])
    decisions = detector.predict(values)
    assert 0.2 < decisions.mean() < 0.8
    assert [got[sample.index].status == "ANOMALY" for sample in valid] == decisions.tolist()
    if protocol == "grpc":
        scores = [got[sample.index].score for sample in valid]
        np.testing.assert_allclose(scores, detector.score(values), rtol=1e-5)

    assert summary.ok
    assert (summary.sent, summary.resent, summary.unanswered) == (500, 0, 0)
    assert (summary.invalid_refused, summary.invalid_not_refused, summary.valid_refused) == (50, 0, 0)
    anomalies = int(decisions.sum())
    assert summary.replies == {"OK": 450 - anomalies, "ANOMALY": anomalies, "ERROR": 50}
    labels = np.array([sample.label for sample in valid])
    assert summary.agreement["accuracy"] == pytest.approx((labels == decisions).mean())
    assert summary.agreement["recall"] == pytest.approx(decisions[labels].mean())
    assert summary.latency.count == 500
    assert summary.send_delay.count == 0


@pytest.mark.parametrize("protocol", ["tcp", "grpc"])
def test_a_model_of_another_width_refuses_everything(protocol, detector):
    async def main() -> Summary:
        async with serving(protocol, detector) as port:
            samples = telemetry(protocol, 20, invalid_every=0, dim=DIM + 1)
            return await Producer(samples, connector(protocol, "127.0.0.1", port)).run()

    summary = run(main())
    assert summary.valid_refused == 20
    assert not summary.ok
    (reason,) = summary.reasons
    assert str(DIM) in reason


def test_samples_wait_for_a_server_that_is_not_up_yet(detector):
    port = free_port()
    notes = []

    async def main() -> Summary:
        tried = asyncio.Event()

        def note(text: str) -> None:
            notes.append(text)
            tried.set()

        producer = Producer(telemetry("tcp", 50), connector("tcp", "127.0.0.1", port), on_note=note)
        running = asyncio.create_task(producer.run())
        await asyncio.wait_for(tried.wait(), 60)
        async with serving("tcp", detector, port):
            return await running

    summary = run(main())
    assert summary.ok
    assert (summary.sent, summary.resent, summary.reconnects) == (50, 0, 0)
    assert "next attempt" in notes[0]
    assert notes[-1] == "connected"


def test_dropped_connections_lose_no_sample(detector):
    order = []

    async def main() -> Summary:
        async with serving("tcp", detector, max_replies=30) as port:
            return await Producer(
                telemetry("tcp", 200),
                connector("tcp", "127.0.0.1", port),
                window=16,
                on_reply=lambda sample, reply: order.append((sample.index, reply.status)),
            ).run()

    summary = run(main())
    assert summary.ok
    assert summary.reconnects >= 6  # 200 replies, at most 30 a connection
    assert summary.resent > 0
    assert [index for index, _ in order] == list(range(200))
    samples = list(telemetry("tcp", 200))
    expected = [
        "ERROR" if sample.fault else ("ANOMALY" if detector.predict(sample.values)[0] else "OK")
        for sample in samples
    ]
    assert [status for _, status in order] == expected


def test_grpc_survives_a_server_that_restarts(detector):
    async def main() -> Summary:
        under_way = asyncio.Event()
        async with serving("grpc", detector) as port:
            producer = Producer(
                telemetry("grpc", 300),
                connector("grpc", "127.0.0.1", port),
                rate=600,
                window=8,
                on_reply=lambda _sample, _reply: under_way.set(),
            )
            running = asyncio.create_task(producer.run())
            await under_way.wait()
        await asyncio.sleep(0.2)
        async with serving("grpc", detector, port):
            return await running

    summary = run(main())
    assert summary.ok
    assert summary.reconnects >= 1
    assert sum(summary.replies.values()) == 300
    # Samples meant for the time of the outage carry it in their latency.
    assert summary.latency.percentiles_us()["max"] > 150_000


def start_server_process(model: Path, port: int) -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.line_server", str(model), str(port)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert server.stdout.readline().startswith("ready ")
    return server


def end(server: subprocess.Popen) -> None:
    server.kill()
    server.wait()
    server.stdout.close()


def test_a_killed_and_restarted_server_answers_everything_in_the_end(model):
    port = free_port()
    half_way = threading.Event()
    summaries = []

    def produce() -> None:
        producer = Producer(
            telemetry("tcp", 3000),
            connector("tcp", "127.0.0.1", port),
            rate=1500,
            on_reply=lambda sample, _: half_way.set() if sample.index == 700 else None,
        )
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            summaries.append(runner.run(producer.run()))

    server = start_server_process(model, port)
    try:
        thread = threading.Thread(target=produce)
        thread.start()
        assert half_way.wait(120)
        end(server)
        server = start_server_process(model, port)
        thread.join(120)
    finally:
        end(server)
    (summary,) = summaries
    assert summary.ok
    assert summary.reconnects >= 1
    assert sum(summary.replies.values()) == 3000
    assert summary.invalid_refused == 300


@pytest.mark.parametrize("protocol", ["tcp", "grpc"])
def test_a_server_that_stays_away_is_given_up(protocol):
    async def main() -> Summary:
        return await Producer(
            telemetry(protocol, 10), connector(protocol, "127.0.0.1", free_port()), give_up_s=0.4
        ).run()

    start = time.monotonic()
    summary = run(main())
    assert 0.4 <= time.monotonic() - start < 30
    assert not summary.ok
    assert "gave up after" in summary.failure
    assert summary.sent == 0


def test_a_server_that_accepts_and_hangs_up_is_given_up_too(detector):
    async def main() -> Summary:
        async with serving("tcp", detector, max_replies=0) as port:
            return await Producer(
                telemetry("tcp", 10), connector("tcp", "127.0.0.1", port), give_up_s=0.5
            ).run()

    summary = run(main())
    assert "gave up after" in summary.failure
    assert summary.unanswered == 10
    assert 1 <= summary.reconnects < 20  # it backs off between attempts


def test_a_silent_server_counts_as_lost():
    async def main() -> Summary:
        async def swallow(reader, writer):
            await reader.read()

        async with tcp_server(swallow) as port:
            connect = connector("tcp", "127.0.0.1", port)
            return await Producer(telemetry("tcp", 3), connect, reply_timeout_s=0.1, give_up_s=2.0).run()

    summary = run(main())
    assert "no reply for 0.1 s" in summary.failure
    assert summary.unanswered == 3
    assert summary.reconnects >= 1


@pytest.mark.parametrize(
    ("greeting", "failure"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak the line protocol"),
        (b"OK\nOK\n", "more replies than it was sent"),
    ],
)
def test_a_server_of_another_kind_ends_the_run_at_once(greeting, failure):
    async def main() -> Summary:
        async def greet(reader, writer):
            await reader.readline()
            writer.write(greeting)
            await writer.drain()
            await reader.read()

        async with tcp_server(greet) as port:
            return await Producer(telemetry("tcp", 1), connector("tcp", "127.0.0.1", port)).run()

    summary = run(main())
    assert failure in summary.failure
    assert not summary.ok


def test_a_refused_connection_is_tried_again(detector):
    async def main() -> Summary:
        async def refuse(reader, writer):
            writer.write(b"ERROR: too many connections, try again later\n")

        async with tcp_server(refuse) as port:
            connect = connector("tcp", "127.0.0.1", port)
            running = asyncio.create_task(Producer(telemetry("tcp", 20), connect).run())
            await asyncio.sleep(0.3)
        async with serving("tcp", detector, port):
            return await running

    summary = run(main())
    assert summary.ok
    assert summary.replies["ERROR"] == 2


def test_grpc_tells_when_the_service_is_missing():
    async def main() -> Summary:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            return await Producer(telemetry("grpc", 10), connector("grpc", "127.0.0.1", port)).run()
        finally:
            await server.stop(None)

    assert "does not offer datasentinel.v1.InferenceService" in run(main()).failure


def test_the_rate_is_kept(detector):
    async def main() -> Summary:
        async with serving("tcp", detector) as port:
            return await Producer(telemetry("tcp", 400), connector("tcp", "127.0.0.1", port), rate=400).run()

    summary = run(main())
    # The last sample starts 399 / 400 s after the first; never earlier.
    assert summary.elapsed_s >= 0.9975
    assert summary.send_delay.count == 400
    assert summary.send_delay.percentiles_us()["p50"] < 500_000


def test_latency_includes_the_wait_behind_a_slow_server(detector):
    """100 samples/s are asked of a server that needs 20 ms each, one at a time: the queue grows."""

    async def main() -> Summary:
        async with serving("tcp", detector, delay_s=0.02) as port:
            connect = connector("tcp", "127.0.0.1", port)
            return await Producer(telemetry("tcp", 40), connect, rate=100, window=1).run()

    summary = run(main())
    # Sample i starts at 10 i ms and is answered at 20 (i + 1) ms or later.
    assert summary.latency.percentiles_us()["max"] >= 400_000
    assert summary.latency.percentiles_us()["p50"] >= 200_000
    assert summary.send_delay.percentiles_us()["max"] >= 380_000


def command(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "datasentinel", "produce", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def port(model):
    port = free_port()
    server = start_server_process(model, port)
    yield port
    end(server)


def test_the_command_prints_its_summary_as_json(port, model):
    with command("--model", model, "--count", "200", "--json", env={"ENGINE_PORT": str(port)}) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["ok"] is True
    assert summary["answered"] == summary["sent"] == 200
    assert summary["invalid"] == {"refused": 20, "not_refused": 0}
    assert summary["agreement"]["labelled"] == 180
    assert list(summary["latency_us"]) == ["p50", "p90", "p99", "max"]
    assert summary["throughput_per_s"] > 0


def test_the_command_sends_the_rows_of_a_file(port, detector, tmp_path):
    rows = np.array([row.values for row in itertools.islice(Telemetry(DIM), 30)])
    decisions = detector.predict(rows)
    table = np.column_stack([rows, decisions])
    path = tmp_path / "rows.csv"
    header = ",".join([*(f"f{index}" for index in range(DIM)), "label"])
    np.savetxt(path, table, delimiter=",", header=header, comments="", fmt="%.9g")
    options = ["--normal", "0", "--invalid-every", "4", "--replies"]  # No row of this detector may be normal.
    with command("--port", port, "--file", path, *options) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    replies = [line.split(" ")[1].rstrip(":") for line in out.splitlines() if line[:1].isdigit()]
    assert [status for status in replies if status != "ERROR"] == [
        "ANOMALY" if decision else "OK" for decision in decisions
    ]
    assert replies[3::4] == ["ERROR"] * 10
    assert "accuracy 100.00%" in out


def test_ctrl_c_prints_the_summary(port):
    with command("--port", port, "--dim", DIM, "--rate", "200", "--replies") as process:
        replies = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert replies[9].startswith("9 ERROR: ")
    answered = int(re.search(r"(\d+) sent, \1 answered", out)[1])
    assert answered == 20 + out.split("Summary")[0].count("\n")


def test_ctrl_c_ends_the_wait_for_a_server():
    with command("--port", free_port(), "--dim", DIM) as process:
        assert "next attempt" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 130


def test_the_command_fails_when_no_server_comes():
    with command("--port", free_port(), "--dim", DIM, "--count", "5", "--give-up-s", "0.2") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: gave up after" in err
