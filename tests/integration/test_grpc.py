"""`datasentinel.v1` over a real channel."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.calibration import calibrate
from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.networks import write_artifact

TIMEOUT_S = 20


@pytest.fixture(scope="module")
def channel(grpc_server):
    with grpc.insecure_channel(f"{grpc_server.host}:{grpc_server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def evaluate(channel):
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return lambda values: stub.Evaluate(inference_pb2.EvaluateRequest(values=values), timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "expected 8 values per row, got 0"),
        ([1.0] * 7, "expected 8 values per row, got 7"),
        ([1.0] * 1000, "expected 8 values per row, got 1000"),
        ([1.0] * 7 + [float("nan")], "non-finite value at row 0, column 7 ('f7')"),
        ([float("-inf")] * 8, "non-finite value at row 0, column 0 ('f0')"),
    ],
)
def test_a_bad_vector_is_answered_not_an_rpc_error(evaluate, detector, rows, values, message):
    response = evaluate(values)
    assert (response.status, response.message, response.mse) == (inference_pb2.ERROR, message, 0.0)
    assert evaluate(rows[0]).mse == detector.score(rows[0])[0]


@pytest.mark.parametrize("top", [1, 3, 8, 1000])
def test_reasons_come_on_request(channel, detector, rows, top):
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    for row in rows[:20]:
        request = inference_pb2.EvaluateRequest(values=row, explain_top=top)
        response = stub.Evaluate(request, timeout=TIMEOUT_S)
        assert response.mse == detector.score(row)[0]
        assert response.severity == pytest.approx(response.mse / detector.threshold, rel=1e-6)
        (reasons,) = detector.explain(row, top)
        assert len(response.contributions) == min(top, len(row))
        for got, reason in zip(response.contributions, reasons, strict=True):
            assert (got.feature, got.contribution) == (reason.feature, reason.contribution)
            assert (got.value, got.expected) == (reason.value, reason.expected)
        if top >= len(row):
            assert sum(got.contribution for got in response.contributions) == pytest.approx(response.mse)


def test_a_bad_vector_has_no_reasons(channel):
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    request = inference_pb2.EvaluateRequest(values=[1.0] * 7, explain_top=3)
    response = stub.Evaluate(request, timeout=TIMEOUT_S)
    assert response == inference_pb2.EvaluateResponse(
        status=inference_pb2.ERROR, message="expected 8 values per row, got 7"
    )


def test_a_model_that_cannot_tell_answers_so(network, rows, start_server, tmp_path):
    silent = write_artifact(tmp_path, network.to_onnx(), input_dim=8, threshold=1.0)
    with (
        start_server("--no-tcp", artifact=silent) as server,
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.EvaluateRequest(values=rows[0], explain_top=3)
        response = stub.Evaluate(request, timeout=TIMEOUT_S)
        assert response.status == inference_pb2.ERROR
        assert "no output 'contributions'" in response.message
        request.explain_top = 0
        assert stub.Evaluate(request, timeout=TIMEOUT_S).mse == Detector.load(silent).score(rows[0])[0]


def test_p_values_come_on_request(network, rows, detector, start_server, tmp_path):
    calibration = calibrate(detector.score(rows[200:]), method="conformal", target_fpr=0.05)
    calibrated = write_artifact(
        tmp_path,
        network.to_onnx(with_contributions=True),
        input_dim=8,
        threshold=calibration.threshold,
        calibration=calibration.facts(),
    )
    expected = Detector.load(calibrated)
    with (
        start_server("--no-tcp", artifact=calibrated) as server,
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for row in rows[:50]:
            request = inference_pb2.EvaluateRequest(values=row, with_p_value=True, explain_top=1)
            response = stub.Evaluate(request, timeout=TIMEOUT_S)
            assert response.p_value == expected.p_values(row)[0]
            assert (response.status == inference_pb2.ANOMALY) == (response.p_value <= 0.05)
            assert len(response.contributions) == 1
            request.with_p_value = False
            assert not stub.Evaluate(request, timeout=TIMEOUT_S).HasField("p_value")


def test_a_model_without_calibration_answers_so(channel, rows):
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    request = inference_pb2.EvaluateRequest(values=rows[0], with_p_value=True)
    response = stub.Evaluate(request, timeout=TIMEOUT_S)
    assert response.status == inference_pb2.ERROR
    assert "datasentinel recalibrate" in response.message
    assert not response.HasField("p_value")


@pytest.mark.parametrize("packed", [True, False])
def test_the_bytes_on_the_wire_are_the_contract_s(channel, detector, rows, packed):
    row = rows[3]
    if packed:
        request = b"\x0a" + bytes([4 * len(row)]) + row.astype("<f4").tobytes()
    else:
        request = b"".join(b"\x0d" + struct.pack("<f", value) for value in row)
    response = channel.unary_unary("/datasentinel.v1.InferenceService/Evaluate")(request, timeout=TIMEOUT_S)
    status = 2 if detector.predict(row)[0] else 1
    score = detector.score(row)[0]
    severity = np.float32(score / detector.threshold)
    contract = b"\x08" + bytes([status]) + b"\x11" + struct.pack("<d", score)
    assert response == contract + b"\x31" + struct.pack(
        "<d", severity
    )  # As of field 6, what was added since.


def test_calls_at_once_are_not_mixed_up(evaluate, detector, rows):
    with ThreadPoolExecutor(16) as pool:
        scores = list(pool.map(lambda row: evaluate(row).mse, rows[:800]))
    # Requests that arrive together share a batch, and a batch may differ from a row in the last bits.
    np.testing.assert_allclose(scores, detector.score(rows[:800]), rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "request_bytes", "code"),
    [
        ("Evaluate", b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        ("Evaluate", b"\x0a" + b"\x80\x80\x80\x02" + bytes(4 << 20), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("Exterminate", b"", grpc.StatusCode.UNIMPLEMENTED),
    ],
    ids=["not protobuf", "too large", "unknown method"],
)
def test_a_broken_call_is_an_rpc_error_and_harms_nobody(
    channel, evaluate, detector, rows, method, request_bytes, code
):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/datasentinel.v1.InferenceService/{method}")(request_bytes, timeout=TIMEOUT_S)
    assert caught.value.code() is code
    assert evaluate(rows[0]).mse == detector.score(rows[0])[0]


def test_the_message_limit_can_be_set(start_server):
    flags = ("--no-tcp", "--grpc-max-message-bytes", "50")
    with (
        start_server(*flags) as limited,
        grpc.insecure_channel(f"{limited.host}:{limited.grpc_port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        fits = stub.Evaluate(inference_pb2.EvaluateRequest(values=[0.0] * 8), timeout=TIMEOUT_S)
        assert fits.status in (inference_pb2.OK, inference_pb2.ANOMALY)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Evaluate(inference_pb2.EvaluateRequest(values=[0.0] * 13), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
