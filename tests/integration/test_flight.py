"""Arrow Flight on a real server: the same answers as from files, for whoever may ask, until it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import threading
import time
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from datasentinel.detector import Detector
from datasentinel.record_batches import RecordBatchScorer
from datasentinel.scoring import ScoringRequest, scoring_roles
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.guard import Guard
from datasentinel.serving.settings import Settings
from tests.certificates import Authority
from tests.integration.conftest import D

flight = pytest.importorskip("pyarrow.flight", reason="this pyarrow has no Flight")
from datasentinel.serving.flight.service import Service  # noqa: E402
from datasentinel.serving.flight.transport import FlightTransport  # noqa: E402

FLAGS = ("--flight-port", "0", "--no-tcp", "--no-grpc", "--backend", "fused")


@pytest.fixture(scope="module")
def server(start_server):
    with start_server(*FLAGS, "--flight-max-batch-bytes", str(4 << 20)) as process:
        yield process


@pytest.fixture
def client(server):
    with flight.connect(f"grpc://127.0.0.1:{server.ports['flight']}") as connected:
        yield connected


@pytest.fixture(scope="module")
def batch(rows):
    values = rows[:1000].astype(np.float64)
    values[17, 3] = np.nan
    columns = {f"f{i}": values[:, i] for i in reversed(range(D))}
    return pa.record_batch(columns | {"key": np.arange(1000)})


def exchange(client, batches, asked=None, options=None):
    """Send batches, and read all that comes back meanwhile."""
    descriptor = flight.FlightDescriptor.for_command(json.dumps(asked or {}))
    writer, reader = client.do_exchange(descriptor, options=options)
    with writer:
        writer.begin(batches[0].schema)
        for one in batches:
            writer.write_batch(one)
        writer.done_writing()
        return reader.read_all()


def test_answers_are_those_of_a_file(client, artifact, batch):
    asked = {"keep": ["key"], "explain": 1}
    request = ScoringRequest(scoring_roles(keep=["key"]), num_reasons=1)
    scorer = RecordBatchScorer(
        Detector.load(artifact, backend="fused"), batch.schema, request, with_rows=True
    )
    expected = pa.Table.from_batches([scorer.score(batch), scorer.score(batch)])
    answered = exchange(client, [batch, batch], asked)
    assert answered.equals(expected)
    assert answered["error"][17].as_py() == "row 17: column 'f3': nan is not finite"
    assert answered["error"][1017].as_py() == "row 1017: column 'f3': nan is not finite"


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ({"model": "nowhere"}, b"ModelNotFound", "unknown model 'nowhere'"),
        ({"keep": ["nowhere"]}, b"Data", "no column 'nowhere'"),
        ({"keep": "key"}, b"InvalidInput", "key 'keep' in the command: 'key' is of the wrong type"),
        ({"explain": True}, b"InvalidInput", "of the wrong type"),
        ({"speed": 1}, b"InvalidInput", "unknown key 'speed'"),
        ({"p_values": True}, b"UnsupportedModel", "score_table"),
        ([], b"InvalidInput", "not a JSON object"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_message_and_no_more(client, batch, asked, code, message):
    with pytest.raises(flight.FlightServerError, match=message) as caught:
        exchange(client, [batch], asked or [1])
    assert caught.value.extra_info == code
    assert "Traceback" not in str(caught.value)
    assert ".py" not in str(caught.value)
    assert len(exchange(client, [batch])) == 1000


def test_an_exchange_without_batches_is_told_so(client):
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b""))
    writer.done_writing()
    with pytest.raises(flight.FlightServerError, match="the record batches cannot be read"):
        reader.read_all()


def test_a_malformed_batch_is_refused_and_the_server_goes_on(client, batch):
    offsets = np.zeros(len(batch) + 1, np.int32)
    offsets[500] = 1 << 30
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"text")]
    bad = batch.append_column("host", pa.Array.from_buffers(pa.string(), len(batch), buffers))
    indices = pa.py_buffer(np.full(len(batch), 1 << 20, np.int32))
    codes = pa.Array.from_buffers(pa.int32(), len(batch), [None, indices])
    coded = batch.append_column("host", pa.DictionaryArray.from_arrays(codes, pa.array(["a"]), safe=False))
    for one in (bad, coded):
        with pytest.raises(
            flight.FlightServerError, match="a malformed record batch: column 'host': "
        ) as caught:
            exchange(client, [one], {"keep": ["host"]})
        assert caught.value.extra_info == b"InvalidInput"
    assert len(exchange(client, [batch])) == 1000


def test_a_fault_of_the_server_is_logged_and_told_without_what_it_was(detector, batch):
    class Broken:
        def find(self, name, version):
            raise LookupError("of /srv/secret")

    class Account:
        codes: ClassVar = []

        def add(self, requests, rows, anomalies, elapsed_s, *, errors, code):
            self.codes.append((requests, rows, errors, code))

    plane = SimpleNamespace(served=Broken(), account=lambda name: Account())

    async def ask():
        transport = FlightTransport(plane, Settings(flight_port=0), Guard())
        address = await transport.start()
        client = flight.connect(f"grpc://127.0.0.1:{address.port}")
        with pytest.raises(flight.FlightInternalError, match="its log says why") as caught:
            await asyncio.to_thread(exchange, client, [batch])
        client.close()
        await transport.stop(5.0)
        return caught.value

    told = asyncio.run(ask())
    assert "secret" not in str(told)
    assert "Traceback" not in str(told)
    assert Account.codes == [(1, 0, 1, "Internal")]


def test_an_exchange_that_is_cancelled_while_it_is_scored_ends_as_such(artifact, batch, monkeypatch):
    calls, ends = [], []
    begun, ended = threading.Event(), threading.Event()
    do_exchange, score = Service.do_exchange, RecordBatchScorer.score

    def watched(self, context, descriptor, reader, writer):
        calls.append(context)
        try:
            do_exchange(self, context, descriptor, reader, writer)
        except Exception as error:
            ends.append(error)
            raise
        finally:
            ended.set()

    def score_until_cancelled(self, part):
        begun.set()
        deadline_s = time.monotonic() + 60
        while not calls[0].is_cancelled() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return score(self, part)

    monkeypatch.setattr(Service, "do_exchange", watched)
    monkeypatch.setattr(RecordBatchScorer, "score", score_until_cancelled)

    async def ask():
        transport = FlightTransport(
            DataPlane(Detector.load(artifact, backend="fused")), Settings(flight_port=0), Guard()
        )
        address = await transport.start()
        client = flight.connect(f"grpc://127.0.0.1:{address.port}")
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b""))
        writer.begin(batch.schema)
        writer.write_batch(pa.Table.from_batches([batch] * 20).combine_chunks().to_batches()[0])
        assert await asyncio.to_thread(begun.wait, 60)
        reader.cancel()
        assert await asyncio.to_thread(ended.wait, 60)
        client.close()
        await transport.stop(5.0)

    asyncio.run(ask())
    assert [type(error) for error in ends] == [flight.FlightCancelledError]


def test_batches_are_bounded(client, batch):
    large = pa.Table.from_batches([batch] * 80).combine_chunks().to_batches()[0]
    with pytest.raises(flight.FlightServerError, match="larger than the 4194304 that are accepted"):
        exchange(client, [large])


def test_exchanges_side_by_side_all_get_their_own(server, batch):
    answers: dict[int, pa.Table] = {}

    def ask(number):
        part = batch.slice(number * 100, 100)
        with flight.connect(f"grpc://127.0.0.1:{server.ports['flight']}") as mine:
            answers[number] = exchange(mine, [part] * 5, {"keep": ["key"]})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert answers[number]["key"].to_pylist() == [*range(number * 100, number * 100 + 100)] * 5


def test_more_exchanges_than_are_allowed_are_told_so(start_server, batch):
    with start_server(*FLAGS, "--flight-max-exchanges", "1") as process:  # noqa: SIM117 - one needs the other
        with flight.connect(f"grpc://127.0.0.1:{process.ports['flight']}") as client:
            writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b""))
            writer.begin(batch.schema)
            writer.write_batch(batch)
            reader.read_chunk()
            with pytest.raises(flight.FlightUnavailableError, match="too many exchanges"):
                exchange(client, [batch])
            writer.done_writing()
            reader.read_all()


def test_a_client_that_sends_nothing_takes_no_place_and_is_cut_off(start_server, batch):
    with start_server(*FLAGS, "--flight-max-exchanges", "1", "--receive-timeout-s", "1") as process:
        where = f"grpc://127.0.0.1:{process.ports['flight']}"
        silent, stuck, busy = (flight.connect(where) for _ in range(3))
        _, unanswered = silent.do_exchange(flight.FlightDescriptor.for_command(b""))
        writer, reader = stuck.do_exchange(flight.FlightDescriptor.for_command(b""))
        writer.begin(batch.schema)
        writer.write_batch(batch)
        assert reader.read_chunk().data.num_rows == 1000
        with pytest.raises(flight.FlightUnavailableError, match="too many exchanges"):
            exchange(busy, [batch])
        for waiting in (unanswered, reader):
            with pytest.raises((pa.ArrowException, OSError)):
                waiting.read_chunk()
        process.wait_for_log("event=slow_sender_closed transport=flight")
        scored, deadline_s = None, time.monotonic() + 20
        while scored is None and time.monotonic() < deadline_s:  # Its place is free soon after it was told.
            with contextlib.suppress(flight.FlightUnavailableError):
                scored = exchange(busy, [batch])
        assert scored is not None
        assert len(scored) == 1000
        for client in (silent, stuck, busy):
            client.close()


def test_tls_and_tokens_guard_this_port_too(start_server, batch, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.sign("localhost")
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    flags = ("--tls-certificate", certificate, "--tls-key", key, "--token-file", tokens)
    with start_server(*FLAGS, *map(str, flags)) as process:
        where = f"grpc+tls://localhost:{process.ports['flight']}"
        with flight.connect(where, tls_root_certs=authority.file.read_bytes()) as client:
            with pytest.raises(flight.FlightUnauthenticatedError, match="a valid bearer token is needed"):
                exchange(client, [batch])
            options = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer secret")])
            assert len(exchange(client, [batch], options=options)) == 1000


def test_a_client_without_a_certificate_is_turned_away_where_one_is_asked_for(start_server, batch, tmp_path):
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.sign("localhost")
    shown, shown_key = (file.read_bytes() for file in authority.sign("client"))
    stranger, stranger_key = (file.read_bytes() for file in Authority(tmp_path / "stranger").sign("client"))
    flags = ("--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", authority.file)
    with start_server(*FLAGS, *map(str, flags)) as process:
        where = f"grpc+tls://localhost:{process.ports['flight']}"
        trusted = authority.file.read_bytes()
        known = {"cert_chain": shown, "private_key": shown_key}
        with flight.connect(where, tls_root_certs=trusted, **known) as client:
            assert len(exchange(client, [batch])) == 1000
        for unknown in ({}, {"cert_chain": stranger, "private_key": stranger_key}):
            with (
                flight.connect(where, tls_root_certs=trusted, **unknown) as client,
                pytest.raises(flight.FlightUnavailableError),
            ):
                exchange(client, [batch])


def test_one_of_several_workers_answers_and_has_a_successor(start_server, batch):
    def ask():
        with flight.connect(f"grpc://127.0.0.1:{process.ports['flight']}") as client:
            return len(exchange(client, [batch]))

    with start_server(*FLAGS, "--workers", "2") as process:
        assert [ask() for _ in range(10)] == [1000] * 10
        deadline_s = time.monotonic() + 60
        while b'requests_total{transport="flight"} 10.0' not in process.fetch("/metrics"):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        os.kill(int(re.search(r"worker_started worker=0 pid=(\d+)", process.log())[1]), signal.SIGKILL)
        process.wait_for_log("event=worker_died worker=0")
        while process.log().count("event=listening worker=0 transport=flight") < 2:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        assert ask() == 1000
        assert process.stop() == 0


def test_what_was_accepted_is_answered_when_the_server_stops(start_server, batch):
    with start_server(*FLAGS) as process:
        client = flight.connect(f"grpc://127.0.0.1:{process.ports['flight']}")
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b""))
        writer.begin(batch.schema)
        writer.write_batch(batch)
        assert reader.read_chunk().data.num_rows == 1000
        process.process.send_signal(signal.SIGTERM)
        process.wait_for_log("event=draining")
        writer.write_batch(batch)
        writer.done_writing()
        assert reader.read_all().num_rows == 1000
        assert process.process.wait(30) == 0
        client.close()


def test_an_exchange_that_never_ends_does_not_keep_the_server(start_server, batch):
    with start_server(*FLAGS, "--drain-timeout-s", "0.5") as process:
        client = flight.connect(f"grpc://127.0.0.1:{process.ports['flight']}")
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b""))
        writer.begin(batch.schema)
        writer.write_batch(batch)
        reader.read_chunk()
        begun_s = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(30) == 0
        assert time.monotonic() - begun_s < 20
        with pytest.raises(pa.ArrowException):
            reader.read_chunk()
        client.close()


HANG = """
import time
from datasentinel.record_batches import RecordBatchScorer
RecordBatchScorer.score = lambda *_: time.sleep(3600)
"""


def test_a_batch_that_is_never_scored_does_not_keep_the_server(start_server, batch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HANG)
    with start_server(*FLAGS, "--drain-timeout-s", "0.5", environ={"PYTHONPATH": str(tmp_path)}) as process:
        client = flight.connect(f"grpc://127.0.0.1:{process.ports['flight']}")
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b""))
        writer.begin(batch.schema)
        writer.write_batch(batch)
        assert reader.schema is not None
        assert process.stop() == 0
        assert "event=exchanges_left" in process.log()
        with pytest.raises(pa.ArrowException):
            reader.read_chunk()
        client.close()
