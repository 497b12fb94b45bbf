"""Missing values of streams, from the file that is trained on to every wire."""

from __future__ import annotations

import csv
import json
import shutil
import socket

import numpy as np
import pytest
from click.testing import CliRunner

from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.distributed.stream.payloads import Decoder, PayloadOptions
from datasentinel.errors import InvalidInputError
from datasentinel.oip import grpc_predict_v2_pb2 as oip
from datasentinel.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from datasentinel.v1 import inference_pb2 as v1
from datasentinel.v1 import inference_pb2_grpc as v1_grpc
from tests.recordings import noisy, oscillations
from tests.unit.test_missing import filled_by_hand, with_gaps

TIMEOUT_S = 20
CLOSE = {"rtol": 2e-4, "atol": 1e-5}


def datasentinel(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == exit_code, result.output
    return result


def write(path, rows, word=""):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*"abcdefg", "ts"])
        for i, row in enumerate(rows):
            writer.writerow([*(word if np.isnan(value) else value for value in row.tolist()), 1.7e9 + 10 * i])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("missing")


@pytest.fixture(scope="module")
def models(folder):
    data = write(folder / "train.csv", with_gaps(oscillations(2000)), "NA")
    datasentinel(
        "train", data, "--model", "context", "--time", "ts", "--missing", "carry", "--out", folder / "models"
    )
    return folder / "models"


@pytest.fixture(scope="module")
def recording():
    return with_gaps(noisy(oscillations(300, seed=4), 200, 230), seed=7)


def score(models, data, *options):
    result = datasentinel("score", data, "--model", models, "--backend", "fused", *options)
    return list(csv.DictReader(result.stdout.splitlines())), result.stderr


@pytest.fixture(scope="module")
def offline(folder, models, recording):
    """Scores of the recording filled forward beforehand."""
    filled = filled_by_hand(recording, load_artifact(models).config.first_values)
    scored, _ = score(models, write(folder / "filled.csv", filled))
    decisions = ["WARMING" if row["warming"] == "1" else row["anomaly"] for row in scored]
    assert {"WARMING", "0", "1"} == set(decisions)
    return np.array([float(row["score"]) for row in scored]), decisions


@pytest.fixture(scope="module")
def server(models, start_server):
    with start_server("--backend", "fused", artifact=models) as process:
        yield from process.until_stopped()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_with_missing_values_score_as_filled_forward(suffix, folder, models, recording, offline):
    path = folder / f"lacking.{suffix}"
    columns = [*"abcdefg"]
    if suffix == "csv":
        write(path, recording)
    elif suffix == "jsonl":
        rows = [
            {name: value for name, value in zip(columns, row, strict=True) if value == value}
            for row in recording.astype(float).tolist()
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        import pyarrow as pa

        pq.write_table(
            pa.table(
                {
                    name: pa.array(column, from_pandas=True)
                    for name, column in zip(columns, recording.T, strict=True)
                }
            ),
            path,
        )
    scored, _ = score(models, path)
    np.testing.assert_allclose([float(row["score"]) for row in scored], offline[0], **CLOSE)


def test_reasons_name_the_values_that_were_scored(folder, models, recording):
    scored, _ = score(models, write(folder / "lacking.csv", recording), "--explain", "2")
    assert not [row for row in scored if "nan" in row["reason_1"] or "nan" in row["reason_2"]]


def test_columns_that_stay_away_are_told(folder, models):
    rows = oscillations(400, seed=1)
    rows[100:, 0] = np.nan
    stale_rows = load_artifact(models).config.stale_rows
    _, told = score(models, write(folder / "silent.csv", rows))
    assert f"{300 - stale_rows} rows have a column without a value for more than {stale_rows} rows" in told


def test_labels_and_quality_are_of_all_rows(folder, models, recording):
    path = folder / "labelled.csv"
    lines = write(path, recording).read_text().splitlines()
    labels = ["label", *("1" if 200 <= i < 230 else "0" for i in range(300))]
    path.write_text("".join(f"{line},{label}\n" for line, label in zip(lines, labels, strict=True)))
    told = json.loads(datasentinel("evaluate", models, path, "--json").stdout)
    assert told["rows"] == 300
    copied = shutil.copytree(models, folder / "copied")
    datasentinel("recalibrate", copied, path, "--target-fpr", "0.02")
    assert load_artifact(copied).config.state["missing"]


def test_without_carry_a_row_with_a_missing_value_is_a_bad_one(folder, recording):
    data = write(folder / "bad.csv", with_gaps(oscillations(2000), 0.001))
    told = datasentinel("train", data, "--model", "context", "--out", folder / "strict").stderr
    assert "with an empty value" in told
    _, told = score(folder / "strict", write(folder / "lacking.csv", recording))
    assert "with an empty value" in told
    refused = datasentinel("train", data, "--missing", "carry", "--out", folder / "no", exit_code=1)
    assert "can be carried by the model 'context' only" in str(refused.exception)


def v1_evaluate(channel, _, rows):
    stub = v1_grpc.InferenceServiceStub(channel)
    return [
        stub.Evaluate(v1.EvaluateRequest(values=row, stream_id="one"), timeout=TIMEOUT_S).mse for row in rows
    ]


def v1_batch(channel, _, rows):
    request = v1.EvaluateBatchRequest(rows=len(rows), raw_values=rows.tobytes(), stream_id="batch")
    reply = v1_grpc.InferenceServiceStub(channel).EvaluateBatch(request, timeout=TIMEOUT_S)
    assert reply.message == ""
    return reply.scores


def oip_infer(channel, _, rows):
    request = oip.ModelInferRequest(raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.parameters["sequence_id"].string_param = "oip"
    reply = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    return np.frombuffer(reply.raw_output_contents[0], np.float32)


def http_infer(_, server, rows):
    data = [None if np.isnan(value) else value for value in rows.ravel().tolist()]
    tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape, "data": data}
    body = json.dumps({"inputs": [tensor], "parameters": {"sequence_id": "http"}}).encode()
    return json.loads(server.fetch("/v2/models/detector/infer", body))["outputs"][0]["data"]


@pytest.mark.parametrize("wire", [v1_evaluate, v1_batch, oip_infer, http_infer])
def test_each_wire_scores_missing_values_as_filled_forward(wire, channel, server, recording, offline):
    np.testing.assert_allclose(wire(channel, server, recording), offline[0], **CLOSE)


@pytest.mark.parametrize("separator", [" ", ","])
def test_lines_have_words_for_missing_values(separator, server, recording, offline):
    word = "nan" if separator == " " else ""
    lines = [
        separator.join(word if np.isnan(value) else str(value) for value in row) + "\n" for row in recording
    ]
    with socket.create_connection((server.host, server.tcp_port), TIMEOUT_S) as connection:
        connection.sendall("".join(lines).encode())
        connection.shutdown(socket.SHUT_WR)
        replies = connection.makefile("rb").read().decode().split()
    assert replies == [{"0": "OK", "1": "ANOMALY"}.get(decision, decision) for decision in offline[1]]


def test_metrics_tell_of_streams_that_are_stale(channel, server, models):
    stale_rows = load_artifact(models).config.stale_rows
    rows = oscillations(stale_rows + 5)
    rows[1:, 3] = np.nan
    request = v1.EvaluateBatchRequest(rows=len(rows), raw_values=rows.tobytes(), stream_id="silent")
    v1_grpc.InferenceServiceStub(channel).EvaluateBatch(request, timeout=TIMEOUT_S)
    metrics = server.fetch("/metrics").decode()
    assert 'datasentinel_streams_stale{model="detector"} 1.0' in metrics
    assert 'datasentinel_stale_rows_total{model="detector"} 4.0' in metrics


def test_messages_of_brokers_may_lack_values(models):
    config = load_artifact(models).config
    decoder = Decoder(config, PayloadOptions())
    for payload in (
        b'{"a": 1, "c": 3, "d": null, "e": 5, "f": 6, "g": 7}',
        b"[1, null, 3, null, 5, 6, 7]",
        b"1,,3,NA,5,6,7",
    ):
        expected = [[1, np.nan, 3, np.nan, 5, 6, 7]]
        np.testing.assert_array_equal(decoder.join([decoder.decode(payload)]), np.array(expected, np.float32))
    with pytest.raises(InvalidInputError, match="column 'b'"):
        decoder.join([decoder.decode(b'{"a": 1, "b": 1e99}')])
