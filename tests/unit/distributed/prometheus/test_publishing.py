from __future__ import annotations

import math
import socket
import ssl
import struct
import time
import urllib.request
from dataclasses import replace

import cramjam
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from prometheus_client.parser import text_string_to_metric_families

from datasentinel.distributed.prometheus.config import Endpoint, Exposition
from datasentinel.distributed.prometheus.exposition import ExpositionServer, ScoreBoard
from datasentinel.distributed.prometheus.http import ServerUnreachableError
from datasentinel.distributed.prometheus.publishing import Source
from datasentinel.distributed.prometheus.remote_write import RemoteWriter
from datasentinel.distributed.prometheus.scoring import Moment
from datasentinel.errors import ServerError
from tests.certificates import Authority
from tests.integration.prometheus_stack import get
from tests.unit.distributed.prometheus.fake_server import serving

SOURCE = Source("pumps", ("host", "model"), ("load", "delay"))
MOMENT = Moment(
    time_s=1_800_000_000.25,
    keys=[("a", "X1"), ("b\n", "")],
    severity=np.array([0.5, 3.25], np.float32),
    anomaly=np.array([False, True]),
    expected=np.array([[1, 2], [3, 4]], np.float32),
    shares=np.array([[0, 0], [0, 0.75]], np.float32),
    ended=[("c", "X3")],
    ended_reasons=[(("a", "X1"), 0)],
    left_out={"incomplete": 4, "ambiguous": 0, "too_many": 0, "warming": 1},
)


def write_request() -> type:
    """The protocol's message, by protobuf."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="remote.proto", package="prometheus", syntax="proto3")
    for message, fields in {
        "Label": [("name", 1, kinds.TYPE_STRING, ""), ("value", 2, kinds.TYPE_STRING, "")],
        "Sample": [("value", 1, kinds.TYPE_DOUBLE, ""), ("timestamp", 2, kinds.TYPE_INT64, "")],
        "TimeSeries": [
            ("labels", 1, kinds.TYPE_MESSAGE, "Label"),
            ("samples", 2, kinds.TYPE_MESSAGE, "Sample"),
        ],
        "WriteRequest": [("timeseries", 1, kinds.TYPE_MESSAGE, "TimeSeries")],
    }.items():
        described = file.message_type.add(name=message)
        for name, number, kind, of in fields:
            described.field.add(
                name=name,
                number=number,
                type=kind,
                label=kinds.LABEL_REPEATED if of else kinds.LABEL_OPTIONAL,
                type_name=f".prometheus.{of}" if of else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("prometheus.WriteRequest"))


def read(body: bytes) -> dict[tuple[tuple[str, str], ...], tuple[float, int]]:
    request = write_request().FromString(bytes(cramjam.snappy.decompress_raw(body)))
    found = {}
    for series in request.timeseries:
        (sample,) = series.samples
        labels = tuple((label.name, label.value) for label in series.labels)
        assert list(labels) == sorted(labels)
        assert all(value for _, value in labels)
        found[labels] = (sample.value, sample.timestamp)
    return found


def test_remote_write_sends_what_the_protocol_says():
    with serving(lambda _: (204, b"")) as server:
        RemoteWriter(Endpoint(url=server.url + "/api/v1/write")).publish(SOURCE, [MOMENT])
    (request,) = server.requests
    assert request.path == "/api/v1/write"
    assert request.headers["content-encoding"] == "snappy"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["x-prometheus-remote-write-version"] == "0.1.0"
    found = read(request.body)
    assert {time_ms for _, time_ms in found.values()} == {1_800_000_000_250}
    values = {labels: value for labels, (value, _) in found.items()}
    # A label of the series that is called like one of ours is renamed, an empty one left out.
    first = (("exported_model", "X1"), ("host", "a"), ("model", "pumps"))
    second = (("host", "b\n"), ("model", "pumps"))
    assert values.pop((("__name__", "anomaly_score"), *first)) == 0.5
    assert values.pop((("__name__", "anomaly_score"), *second)) == 3.25
    assert values.pop((("__name__", "anomaly"), *first)) == 0
    assert values.pop((("__name__", "anomaly"), *second)) == 1
    assert values.pop((("__name__", "anomaly_expected"), *first, ("query", "delay"))) == 2
    assert values.pop((("__name__", "anomaly_expected"), *second, ("query", "load"))) == 3
    assert values.pop((("__name__", "anomaly_expected"), *first, ("query", "load"))) == 1
    assert values.pop((("__name__", "anomaly_expected"), *second, ("query", "delay"))) == 4
    assert values.pop((("__name__", "anomaly_reason"), *second, ("reason", "delay"))) == 0.75
    # What ended: the reason of a, and all of c.
    assert (("__name__", "anomaly_reason"), *first, ("reason", "load")) in values
    assert len(values) == 1 + 4
    stale = struct.pack("<Q", 0x7FF0000000000002)
    assert all(struct.pack("<d", value) == stale for value in values.values())


def test_what_the_server_refuses_is_left_out_and_what_it_cannot_take_now_is_not(caplog):
    answers = [(400, b"out of bounds"), (204, b"")]
    later = replace(MOMENT, time_s=MOMENT.time_s + 15)
    with serving(lambda _: answers.pop(0)) as server:
        RemoteWriter(Endpoint(url=server.url)).publish(SOURCE, [MOMENT, later])
    assert len(server.requests) == 2
    assert "remote_write_refused" in caplog.text
    with serving(lambda _: (503, b"")) as server, pytest.raises(ServerUnreachableError):
        RemoteWriter(Endpoint(url=server.url, retries=0)).publish(SOURCE, [MOMENT])


def scrape(board: ScoreBoard) -> dict[tuple[str, frozenset], float]:
    server = ExpositionServer(Exposition(port=0), board)
    try:
        text = get(f"http://{server.address}/metrics")
    finally:
        server.close()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_has_the_last_moment_and_the_account():
    board = ScoreBoard({"pumps": 60.0})
    now = replace(MOMENT, time_s=time.time())
    earlier = replace(now, severity=np.array([9, 9], np.float32), anomaly=np.array([True, True]))
    board.publish(SOURCE, [earlier, now])
    board.accounts["pumps"].failures["read"] += 2
    found = scrape(board)
    labels = {("host", "b\n"), ("exported_model", ""), ("model", "pumps")}
    assert found["anomaly_score", frozenset(labels)] == 3.25
    assert found["anomaly", frozenset(labels)] == 1
    assert found["anomaly_expected", frozenset(labels | {("query", "delay")})] == 4
    reasons = [key for key in found if key[0] == "anomaly_reason"]
    assert reasons == [("anomaly_reason", frozenset(labels | {("reason", "delay")}))]
    model = frozenset({("model", "pumps")})
    assert found["datasentinel_watch_rows_total", model] == 4
    assert found["datasentinel_watch_anomalies_total", model] == 3
    assert found["datasentinel_watch_series", model] == 2
    assert found["datasentinel_watch_failures_total", model | {("operation", "read")}] == 2
    assert found["datasentinel_watch_series_left_out", model | {("reason", "incomplete")}] == 4
    assert math.isclose(found["datasentinel_watch_scored_timestamp_seconds", model], now.time_s, abs_tol=1)


def test_scores_that_are_old_are_not_told():
    board = ScoreBoard({"pumps": 60.0})
    board.publish(SOURCE, [replace(MOMENT, time_s=time.time() - 61)])
    found = scrape(board)
    assert not [name for name, _ in found if name.startswith("anomaly")]
    assert found["datasentinel_watch_rows_total", frozenset({("model", "pumps")})] == 2


def test_a_port_that_is_taken_is_named():
    server = ExpositionServer(Exposition(port=0), ScoreBoard({}))
    try:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(ServerError, match=f"cannot publish scores on 127.0.0.1:{port}"):
            ExpositionServer(Exposition(port=port), ScoreBoard({}))
    finally:
        server.close()


def test_scores_are_published_over_tls_while_another_client_is_silent(tmp_path, capfd):
    authority = Authority(tmp_path)
    certificate, key = authority.sign("watch")
    settings = Exposition(port=0, certificate_file=str(certificate), key_file=str(key))
    server = ExpositionServer(settings, ScoreBoard({"pumps": 60.0}))
    silent = socket.create_connection(server.address.split(":"), timeout=60)
    try:
        context = ssl.create_default_context(cafile=authority.file)
        with urllib.request.urlopen(
            f"https://{server.address}/metrics", context=context, timeout=60
        ) as answer:
            assert b"datasentinel_watch_rows_total" in answer.read()
    finally:
        server.close()  # Nor does it wait for a client that says nothing.
        silent.close()
    assert not capfd.readouterr().err
