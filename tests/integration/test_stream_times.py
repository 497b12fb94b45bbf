"""Timestamps on the wires: gaps and seasons as `score` has them for a file."""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import json
import re
import socket
from urllib.error import HTTPError

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.detector import Detector
from datasentinel.oip import grpc_predict_v2_pb2 as oip
from datasentinel.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from datasentinel.producer import FileRows
from datasentinel.streams import StreamDetector
from datasentinel.tables import Roles, open_table
from datasentinel.v1 import inference_pb2 as v1
from datasentinel.v1 import inference_pb2_grpc as v1_grpc
from tests.seasons import A_DAY, STEP_S, telemetry

TIMEOUT_S = 20
CLOSE = {"rtol": 2e-4, "atol": 1e-5}
BEGIN = dt.datetime(2024, 3, 11, tzinfo=dt.UTC)  # A Monday.
GAP_AFTER = 130


def write(path, rows, times):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ts", *"abcde"])
        writer.writerows([time.isoformat(), *row.tolist()] for time, row in zip(times, rows, strict=True))
    return path


def datasentinel(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model with memory and a season, on a clock in New York."""
    folder = tmp_path_factory.mktemp("times")
    rows = telemetry(8)[0]
    times = [BEGIN + dt.timedelta(seconds=i * STEP_S) for i in range(len(rows))]
    datasentinel(
        "train", write(folder / "train.csv", rows, times), "--model", "context", "--half-life", "8,32",
        "--season", "day", "--time", "ts", "--time-zone", "America/New_York", "--out", folder / "models",
    )  # fmt: skip
    return folder / "models"


@pytest.fixture(scope="module")
def recording():
    """Rows with half a day missing between two, over the end of summer time."""
    rows = telemetry(1, seed=3)[0][:260]
    rows[240:244, 2] = 900
    steps = np.arange(260) + np.where(np.arange(260) >= GAP_AFTER, A_DAY // 2, 0)
    times = [
        dt.datetime(2024, 11, 2, 18, tzinfo=dt.UTC) + dt.timedelta(seconds=int(i) * STEP_S) for i in steps
    ]
    return rows, times


@pytest.fixture(scope="module")
def offline(models, recording, tmp_path_factory):
    """Scores, and which rows are warming, by `datasentinel score`."""
    data = write(tmp_path_factory.mktemp("offline") / "new.csv", *recording)
    scored = list(
        csv.DictReader(datasentinel("score", data, "--model", models, "--backend", "fused").splitlines())
    )
    warming = [row["warming"] == "1" for row in scored]
    assert warming == [*([True] * 96), *([False] * (GAP_AFTER - 96)), *([True] * 96), *([False] * 34)]
    return np.array([float(row["score"]) for row in scored]), warming


@pytest.fixture(scope="module")
def server(models, start_server):
    with start_server("--backend", "fused", artifact=models) as process:
        yield from process.until_stopped()


def v1_evaluate(channel, _, rows, times_s):
    stub = v1_grpc.InferenceServiceStub(channel)
    replies = [
        stub.Evaluate(
            v1.EvaluateRequest(values=row, stream_id="one by one", timestamp=time_s), timeout=TIMEOUT_S
        )
        for row, time_s in zip(rows, times_s, strict=True)
    ]
    return [reply.mse for reply in replies], [reply.status == v1.WARMING for reply in replies]


def v1_batch(channel, _, rows, times_s):
    request = v1.EvaluateBatchRequest(
        rows=len(rows), raw_values=rows.tobytes(), stream_id="batch", timestamps=times_s
    )
    reply = v1_grpc.InferenceServiceStub(channel).EvaluateBatch(request, timeout=TIMEOUT_S)
    assert reply.message == ""
    return reply.scores, [status == v1.WARMING for status in reply.statuses]


def oip_request(rows, **timestamp):
    request = oip.ModelInferRequest(raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.parameters["sequence_id"].string_param = "oip"
    for kind, value in timestamp.items():
        setattr(request.parameters["timestamp"], kind, value)
    return request


def oip_infer(channel, _, rows, times_s):
    """One row by a double, one by an integer, the others by a text."""
    requests = [
        oip_request(rows[:1], double_param=times_s[0]),
        oip_request(rows[1:2], int64_param=int(times_s[1])),
        oip_request(rows[2:], string_param=", ".join(map(repr, times_s[2:]))),
    ]
    stub = oip_grpc.GRPCInferenceServiceStub(channel)
    outputs = [stub.ModelInfer(request, timeout=TIMEOUT_S).raw_output_contents for request in requests]
    scores = np.concatenate([np.frombuffer(output[0], np.float32) for output in outputs])
    return scores, np.concatenate([np.frombuffer(output[2], bool) for output in outputs]).tolist()


def post(server, rows, **parameters):
    tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape, "data": rows.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    name = json.loads(server.fetch("/v2/repository/index", b""))[0]["name"]
    return [
        output["data"] for output in json.loads(server.fetch(f"/v2/models/{name}/infer", body))["outputs"]
    ]


def http_infer(_, server, rows, times_s):
    first = post(server, rows[:1], sequence_id="http", timestamp=times_s[0])
    others = post(server, rows[1:], sequence_id="http", timestamp=",".join(map(repr, times_s[1:])))
    return first[0] + others[0], first[2] + others[2]


@pytest.mark.parametrize("wire", [v1_evaluate, v1_batch, oip_infer, http_infer])
def test_each_wire_scores_a_recording_with_a_gap_and_a_season_as_its_file(
    wire, channel, server, recording, offline
):
    rows, times = recording
    # The server fills in the second of the week, whatever stands there.
    asked = np.column_stack([rows, np.full(len(rows), 1e30)]).astype(np.float32)
    scores, warming = wire(channel, server, asked, [time.timestamp() for time in times])
    np.testing.assert_allclose(scores, offline[0], **CLOSE)
    assert warming == offline[1]


def talk(server, lines):
    with socket.create_connection((server.host, server.tcp_port), TIMEOUT_S) as connection:
        connection.sendall("".join(f"{line}\n" for line in lines).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read().decode().splitlines()


@pytest.mark.parametrize("name", ["@lines ", ""])
def test_lines_do_too(name, models, server, recording, offline):
    rows, times = recording
    asked = np.column_stack([rows, np.full(len(rows), 1e30)]).astype(np.float32)
    lines = [
        f"{name}t={time.timestamp()} {' '.join(map(str, row))}"
        for row, time in zip(asked, times, strict=True)
    ]
    threshold = load_artifact(models).config.threshold
    assert talk(server, lines) == [
        "WARMING" if warms else "ANOMALY" if score > threshold else "OK"
        for score, warms in zip(*offline, strict=True)
    ]


def test_a_line_without_a_time_takes_its_values_as_they_are(server):
    wrong = "ERROR: the timestamp is '{}', not seconds since 1970"
    row = "1 2 3 4 5 6"
    for text in ("soon", "", "1.7e12", "nan", "5.0", "1.7e9,"):
        assert talk(server, [f"@refused t={text} {row}"]) == [wrong.format(text)]
    assert (
        talk(server, [f"@mixed t=1.7e9 {row}", f"@mixed {row}", f"@mixed \tt=1.7e9\t{row}"])
        == ["WARMING"] * 3
    )
    assert talk(server, [f"t=1.7e9 @late {row}"]) == ["ERROR: value 1 is not a number: '@late'"]


def test_python_does_too(models, recording, offline):
    streams = StreamDetector(Detector(load_artifact(models), backend="fused"))
    scores, warming = streams.scan(*recording[:1], "a", recording[1])
    np.testing.assert_allclose(scores, offline[0], **CLOSE)
    assert warming.tolist() == offline[1]


def test_what_is_no_time_is_refused_and_leaves_the_stream(channel, server):
    rows = np.ones((2, 6), np.float32)
    stub = v1_grpc.InferenceServiceStub(channel)
    for times_s, message in (
        ([1.7e9], "2 rows need as many timestamps, got 1"),
        ([1.7e9, float("nan")], "timestamp of row 1 is nan"),
        ([1.7e9, 1.7e12], "timestamp of row 1 is 17.*not seconds since 1970"),
        ([5.0, 1.7e9], "timestamp of row 0 is 5.0"),
    ):
        request = v1.EvaluateBatchRequest(
            rows=2, raw_values=rows.tobytes(), stream_id="refused", timestamps=times_s
        )
        reply = stub.EvaluateBatch(request, timeout=TIMEOUT_S)
        assert list(reply.scores) == []
        assert re.search(message, reply.message), reply.message
    oip_stub = oip_grpc.GRPCInferenceServiceStub(channel)
    for text in ("soon", "", "1.7e9,", "1.7e9;1.7e9"):
        with pytest.raises(grpc.RpcError, match="a timestamp is a number of seconds since 1970") as error:
            oip_stub.ModelInfer(oip_request(rows, string_param=text), timeout=TIMEOUT_S)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for value in ("soon", True, None, [1.7e9]):
        with pytest.raises(HTTPError) as refused:
            post(server, rows, sequence_id="refused", timestamp=value)
        with refused.value as reply:
            assert reply.code == 400


@pytest.mark.parametrize("protocol", ["tcp", "grpc", "http"])
def test_produce_replays_a_recording_with_its_times(protocol, models, server, recording, offline, tmp_path):
    rows, times = recording
    path = tmp_path / "new.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ts", "host", *"abcde"])
        for time, row in zip(times, rows, strict=True):
            writer.writerow([time.isoformat(), f"replayed over {protocol}".replace(" ", "-"), *row.tolist()])
    replies = CliRunner().invoke(
        cli,
        [
            *("produce", "--protocol", protocol, "--port", str(server.ports[protocol]), "--window", "1"),
            *("--file", str(path), "--time", "ts", "--id", "host", "--model", str(models), "--replies"),
            *("--invalid-every", "3"),
        ],
    )  # fmt: skip
    assert replies.exit_code == 0, replies.output
    lines = [line.split() for line in replies.stdout.splitlines() if line[:1].isdigit()]
    assert {line[1] for line in lines[2::3]} == {"ERROR:"}
    del lines[2::3]
    threshold = load_artifact(models).config.threshold
    assert [line[1] for line in lines] == [
        "WARMING" if warms else "ANOMALY" if score > threshold else "OK"
        for score, warms in zip(*offline, strict=True)
    ]
    if protocol != "tcp":
        np.testing.assert_allclose([float(line[2]) for line in lines], offline[0], **CLOSE)


def test_produce_over_http_tells_what_is_wrong(server, models):
    def produce(*arguments):
        return CliRunner().invoke(
            cli, ["produce", "--protocol", "http", "--port", str(server.http_port), *arguments]
        )

    unknown = produce("--dim", "6", "--count", "5", "--model-name", "pump")
    assert unknown.exit_code == 1
    assert "the server has no model 'pump'; it has detector" in unknown.stderr
    without_stream = produce("--dim", "6", "--count", "4", "--invalid-every", "0", "--replies")
    assert without_stream.exit_code == 1
    assert "its rows need a stream: send the parameter sequence_id" in without_stream.stdout


def test_a_file_that_is_sent_again_goes_on_in_time(recording, tmp_path):
    rows, times = recording
    table = open_table(write(tmp_path / "new.csv", rows, times), roles=Roles(time="ts"))
    sent = list(itertools.islice(FileRows(table, repeat=True, with_times=True), 600))
    first = times[0].timestamp()
    length_s = times[-1].timestamp() + STEP_S - first
    assert sent[0].time_s == first
    assert [row.time_s for row in sent[260:520]] == [time.timestamp() + length_s for time in times]
    assert all(np.diff([row.time_s for row in sent]) > 0)
