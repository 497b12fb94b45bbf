"""Every protocol through one suite: the same rows, the same answers, errors in the protocol's own form."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from datasentinel.messages import make_stub
from datasentinel.oip import grpc_predict_v2_pb2, grpc_predict_v2_pb2_grpc
from datasentinel.serving.control import health_pb2, reflection_pb2
from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.server_process import ServerProcess, to_lines, to_replies

TIMEOUT_S = 20
MODEL = "test"


class RefusedError(Exception):
    """A server said no, and why."""


def _checked(call, *args):
    try:
        return call(*args, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        raise RefusedError(error.details()) from error


def _alike(answers):
    """The first of three answers to the same question, which went through batches of unknown size."""
    assert len(answers) == 3
    for scores, decisions in answers[1:]:
        np.testing.assert_allclose(scores, answers[0][0], rtol=1e-5)
        assert decisions == answers[0][1]
    return answers[0]


@dataclass
class Client:
    """One connection of each kind to a server."""

    server: ServerProcess
    threshold: float
    channel: grpc.Channel = field(init=False)
    web: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.insecure_channel(f"{self.server.host}:{self.server.grpc_port}")
        self.web = http.client.HTTPConnection(self.server.host, self.server.http_port, timeout=TIMEOUT_S)
        self.v1 = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.oip = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()
        self.web.close()

    # Each gives scores [N] and decisions [N] of rows [N, D], or raises RefusedError.

    def evaluate(self, rows):
        responses = [
            self.v1.Evaluate(inference_pb2.EvaluateRequest(values=row), timeout=TIMEOUT_S) for row in rows
        ]
        for response in responses:
            if response.status == inference_pb2.ERROR:
                raise RefusedError(response.message)
        return [r.mse for r in responses], [r.status == inference_pb2.ANOMALY for r in responses]

    def _batch(self, rows, **values):
        return inference_pb2.EvaluateBatchRequest(id=7, rows=len(rows), **values)

    def _batch_answer(self, response):
        assert response.id == 7
        if response.message:
            assert not response.scores
            raise RefusedError(response.message)
        np.testing.assert_allclose(response.severities, np.divide(response.scores, self.threshold), rtol=1e-6)
        return list(response.scores), [status == inference_pb2.ANOMALY for status in response.statuses]

    def evaluate_batch(self, rows):
        request = self._batch(rows, values=rows.ravel())
        return self._batch_answer(self.v1.EvaluateBatch(request, timeout=TIMEOUT_S))

    def evaluate_raw_batch(self, rows):
        request = self._batch(rows, raw_values=rows.astype("<f4").tobytes())
        return self._batch_answer(self.v1.EvaluateBatch(request, timeout=TIMEOUT_S))

    def evaluate_stream(self, rows):
        request = self._batch(rows, raw_values=rows.astype("<f4").tobytes())
        responses = list(self.v1.EvaluateStream(iter([request] * 3), timeout=TIMEOUT_S))
        return _alike([self._batch_answer(response) for response in responses])

    def _tensor(self, rows, **contents):
        pb = grpc_predict_v2_pb2.ModelInferRequest.InferInputTensor
        return pb(name="input", datatype="FP32", shape=rows.shape, **contents)

    def infer_contents(self, rows):
        contents = grpc_predict_v2_pb2.InferTensorContents(fp32_contents=rows.ravel())
        request = grpc_predict_v2_pb2.ModelInferRequest(
            model_name=MODEL, id="seven", inputs=[self._tensor(rows, contents=contents)]
        )
        response = _checked(self.oip.ModelInfer, request)
        assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "seven")
        score, anomaly = response.outputs
        assert (score.name, score.datatype, list(score.shape)) == ("score", "FP32", [len(rows)])
        assert (anomaly.name, anomaly.datatype, list(anomaly.shape)) == ("anomaly", "BOOL", [len(rows)])
        return list(score.contents.fp32_contents), list(anomaly.contents.bool_contents)

    def _raw_request(self, rows):
        return grpc_predict_v2_pb2.ModelInferRequest(
            model_name=MODEL,
            model_version="1",
            inputs=[self._tensor(rows)],
            raw_input_contents=[rows.astype("<f4").tobytes()],
        )

    def _raw_answer(self, response):
        score, anomaly = response.raw_output_contents
        return np.frombuffer(score, "<f4").tolist(), np.frombuffer(anomaly, np.bool_).tolist()

    def infer_raw(self, rows):
        return self._raw_answer(_checked(self.oip.ModelInfer, self._raw_request(rows)))

    def infer_stream(self, rows):
        request = self._raw_request(rows)
        responses = list(self.oip.ModelStreamInfer(iter([request] * 3), timeout=TIMEOUT_S))
        for response in responses:
            if response.error_message:
                raise RefusedError(response.error_message)
        return _alike([self._raw_answer(response.infer_response) for response in responses])

    def post(self, body, headers=None, path=f"/v2/models/{MODEL}/infer"):
        self.web.request("POST", path, body, headers or {})
        response = self.web.getresponse()
        return response, response.read()

    def rest_json(self, rows):
        tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape, "data": rows.ravel().tolist()}
        return self._json_answer(*self.post(json.dumps({"id": "seven", "inputs": [tensor]})))

    def rest_nested_json(self, rows):
        # The general path, too: such a body is not for the lean one.
        tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape, "data": rows.tolist()}
        body = json.dumps({"id": "seven", "inputs": [tensor]}).encode()
        return self._json_answer(*self.post(iter([body[:10], body[10:]])))

    def _json_answer(self, response, body):
        document = json.loads(body)
        if response.status != 200:
            raise RefusedError(document["error"])
        assert (document["model_name"], document["model_version"], document["id"]) == (MODEL, "1", "seven")
        score, anomaly = document["outputs"]
        # The text's nearest float32 is the score.
        return np.array(score["data"], dtype=np.float32).tolist(), anomaly["data"]

    def rest_binary(self, rows):
        raw = rows.astype("<f4").tobytes()
        tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape}
        tensor["parameters"] = {"binary_data_size": len(raw)}
        header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        response, body = self.post(header + raw, {"Inference-Header-Content-Length": str(len(header))})
        if response.status != 200:
            raise RefusedError(json.loads(body)["error"])
        size = int(response.getheader("Inference-Header-Content-Length"))
        sizes = [output["parameters"]["binary_data_size"] for output in json.loads(body[:size])["outputs"]]
        assert sizes == [4 * len(rows), len(rows)]
        tail = body[size:]
        return np.frombuffer(tail[: sizes[0]], "<f4").tolist(), np.frombuffer(
            tail[sizes[0] :], np.bool_
        ).tolist()


BATCHED = [
    "evaluate_batch",
    "evaluate_raw_batch",
    "evaluate_stream",
    "infer_contents",
    "infer_raw",
    "infer_stream",
    "rest_json",
    "rest_nested_json",
    "rest_binary",
]


@pytest.fixture(scope="module")
def server(start_server):
    """One server with every protocol."""
    with start_server() as process:
        yield from process.until_stopped()


@pytest.fixture(scope="module")
def client(server, detector):
    client = Client(server, detector.threshold)
    yield client
    client.close()


@pytest.mark.parametrize("protocol", ["evaluate", *BATCHED])
@pytest.mark.parametrize("count", [1, 37])
def test_scores_and_decisions_are_the_detector_s(client, detector, rows, protocol, count):
    # `evaluate` scores row by row, and a batch's last bits may differ from that.
    some = rows[:count]
    by_row = protocol == "evaluate"
    expected = [detector.score(row)[0] for row in some] if by_row else detector.score(some).tolist()
    scores, decisions = getattr(client, protocol)(some)
    if protocol.endswith("_stream"):  # Its requests may share a batch.
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    else:
        assert scores == expected
    assert decisions == detector.predict(some).tolist()


def test_the_line_protocol_decides_alike(client, detector, rows):
    assert client.server.ask(to_lines(rows[:37])).split() == to_replies(detector.predict(rows[:37]))


@pytest.mark.parametrize("protocol", ["evaluate", *BATCHED])
def test_a_non_finite_value_is_refused_by_row_and_column(client, rows, protocol):
    bad = rows[:3].copy()
    bad[0, 5] = np.inf if "json" not in protocol else np.nan
    with pytest.raises(RefusedError, match="row 0, column 5"):
        getattr(client, protocol)(bad)
    getattr(client, protocol)(rows[:1])


@pytest.mark.parametrize("protocol", BATCHED)
def test_a_wrong_width_is_refused(client, rows, protocol):
    with pytest.raises(RefusedError, match=r"8"):
        getattr(client, protocol)(rows[:2, :7].copy())


@pytest.mark.parametrize("protocol", BATCHED)
def test_no_rows_are_a_batch_too(client, protocol):
    assert getattr(client, protocol)(np.zeros((0, 8), dtype=np.float32)) == ([], [])


def infer(model=MODEL, version="", **changes):
    pb = grpc_predict_v2_pb2.ModelInferRequest
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 8]} | changes.pop("tensor", {})
    fields = {"raw_input_contents": [bytes(32)], "inputs": [pb.InferInputTensor(**tensor)]} | changes
    return pb(model_name=model, model_version=version, **fields)


@pytest.mark.parametrize(
    ("request_message", "code", "message"),
    [
        (infer(model="nobody"), grpc.StatusCode.NOT_FOUND, "unknown model 'nobody'"),
        (infer(version="9"), grpc.StatusCode.NOT_FOUND, "version '9'"),
        (infer(inputs=[]), grpc.StatusCode.INVALID_ARGUMENT, "expected 1 input"),
        (infer(tensor={"name": "x"}), grpc.StatusCode.INVALID_ARGUMENT, "unknown input 'x'"),
        (infer(tensor={"datatype": "FP64"}), grpc.StatusCode.INVALID_ARGUMENT, "datatype FP32, got 'FP64'"),
        (infer(tensor={"shape": [8]}), grpc.StatusCode.INVALID_ARGUMENT, r"expected shape \[N, 8\]"),
        (infer(tensor={"shape": [-1, 8]}), grpc.StatusCode.INVALID_ARGUMENT, r"expected shape \[N, 8\]"),
        (infer(tensor={"shape": [2, 8]}), grpc.StatusCode.INVALID_ARGUMENT, "needs 64 bytes"),
        (infer(raw_input_contents=[]), grpc.StatusCode.INVALID_ARGUMENT, "needs 8 values"),
        (infer(tensor={"shape": [2**40, 8]}), grpc.StatusCode.INVALID_ARGUMENT, "at most 1048576 rows"),
        (
            infer(outputs=[grpc_predict_v2_pb2.ModelInferRequest.InferRequestedOutputTensor(name="y")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "unknown output 'y'",
        ),
    ],
)
def test_grpc_errors_have_the_right_code_and_name_what_is_wrong(client, request_message, code, message):
    with pytest.raises(grpc.RpcError) as caught:
        client.oip.ModelInfer(request_message, timeout=TIMEOUT_S)
    assert caught.value.code() is code
    assert re.search(message, caught.value.details())


def rest(**changes):
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 8], "data": [0.5] * 8}
    document = {"inputs": [tensor | changes.pop("tensor", {})]} | changes
    return json.dumps(document)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "not valid JSON: expected an object"),
        (rest()[:-1], "not valid JSON: expected ',' or '}'"),
        (rest() + "x", "expected the end of the text"),
        (rest(inputs=[]), "expected 1 input"),
        (rest(tensor={"name": "x"}), "unknown input 'x'"),
        (rest(tensor={"datatype": "FP64"}), "expected datatype FP32, got 'FP64'"),
        (rest(tensor={"shape": [2, 8]}), "needs 16 values of data, got 8"),
        (rest(tensor={"shape": [8]}), "expected shape [N, 8], got [8]"),
        (rest(tensor={"data": [0] * 7 + ["1"]}), "row 0, column 7 is not a number"),
        (rest(tensor={"data": [0] * 7 + [1e39]}), "row 0, column 7 is outside float32's range"),
        (rest(tensor={"data": [[0] * 7]}), "expected 8 values per row, got 7 at row 0"),
        (rest(outputs=[{"name": "y"}]), "unknown output 'y'"),
        (rest(outputs=[{"name": "score"}] * 2), "asked for twice"),
    ],
)
def test_rest_errors_are_the_protocol_s_json_object(client, body, message):
    response, answer = client.post(body)
    assert response.status == 400
    assert response.getheader("Content-Type") == "application/json"
    assert message in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nobody/infer", 404),
        ("/v2/models/test/versions/9/infer", 404),
        ("/v2/models/test/versions/1/infer", 200),
        ("/v2/models/t%65st/infer", 200),
        ("/v2/models/test/infer?trace=1", 200),
    ],
)
def test_rest_models_are_found_by_name_and_version(client, path, status):
    response, body = client.post(rest(), path=path)
    assert response.status == status, body


def test_only_what_is_asked_for_is_answered(client, detector, rows):
    names = ["contributions", "output"]
    pb = grpc_predict_v2_pb2.ModelInferRequest
    request = client._raw_request(rows[:5])
    request.outputs.extend(pb.InferRequestedOutputTensor(name=name) for name in names)
    response = client.oip.ModelInfer(request, timeout=TIMEOUT_S)
    expected = [detector.contributions(rows[:5]), detector.reconstruct(rows[:5])]
    assert [output.name for output in response.outputs] == names
    for raw, values in zip(response.raw_output_contents, expected, strict=True):
        np.testing.assert_array_equal(np.frombuffer(raw, "<f4").reshape(5, 8), values)

    tensor = {"shape": [5, 8], "data": rows[:5].tolist()}
    _, body = client.post(rest(tensor=tensor, outputs=[{"name": name} for name in names]))
    outputs = json.loads(body)["outputs"]
    assert [(output["name"], output["shape"]) for output in outputs] == [(name, [5, 8]) for name in names]
    for output, values in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(np.array(output["data"], dtype=np.float32).reshape(5, 8), values)


def test_a_stream_of_batches_goes_on_after_a_bad_one(client):
    batches = [inference_pb2.EvaluateBatchRequest(id=number, rows=number % 2 + 1) for number in range(4)]
    for batch in batches[::2]:
        batch.values.extend([0.5] * 8)
    answers = list(client.v1.EvaluateStream(iter(batches), timeout=TIMEOUT_S))
    assert [answer.id for answer in answers] == [0, 1, 2, 3]
    assert [len(answer.scores) for answer in answers] == [1, 0, 1, 0]
    assert [bool(answer.message) for answer in answers] == [False, True, False, True]


def test_pipelined_inference_and_other_requests_are_answered_in_order(server, detector, rows):
    body = rest(tensor={"data": rows[0].tolist()}).encode()
    post = b"POST /v2/models/test/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    replies = server.ask((post + post + get) * 20, "http")
    score = f'"data":[{np.format_float_positional(detector.score(rows[0])[0], unique=True)}]'.encode()
    assert replies.count(b"HTTP/1.1 200 OK") == 60
    bodies = [part.partition(b"\r\n\r\n")[2] for part in replies.split(b"HTTP/1.1 ")[1:]]
    assert [body.startswith(b'{"live"') for body in bodies] == [False, False, True] * 20
    assert all(score in body for body in bodies if b"live" not in body)


def test_the_openapi_document_lists_the_real_routes(client):
    client.web.request("GET", "/openapi.json")
    document = json.loads(client.web.getresponse().read())
    assert document["openapi"].startswith("3.1")
    assert "/v2/models/{model}/infer" in document["paths"]
    known = {"{model}": MODEL, "{version}": "1"}
    for pattern, operations in document["paths"].items():
        path = "/".join(known.get(segment, segment) for segment in pattern.split("/"))
        for method, operation in operations.items():
            client.web.request(method.upper(), path, rest() if "requestBody" in operation else None)
            response = client.web.getresponse()
            body = response.read()
            # Repository control is off here; every other route does its work.
            expected = 403 if path.endswith(("/load", "/unload")) else 200
            assert response.status == expected, (method, path, body)
            if expected == 200:
                content_type = response.getheader("Content-Type").partition(";")[0]
                assert content_type in operation["responses"]["200"]["content"], path
        wrong = "DELETE"
        client.web.request(wrong, path)
        response = client.web.getresponse()
        response.read()
        assert response.status == 405


def test_health_and_reflection(server):
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        health = make_stub("grpc.health.v1.Health")(channel)
        for service in ("", "inference.GRPCInferenceService", "datasentinel.v1.InferenceService"):
            check = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
            assert check.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()

        reflection = make_stub("grpc.reflection.v1.ServerReflection")(channel)
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="inference.GRPCInferenceService.ModelInfer"
            ),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="inference.GRPCInferenceService.Nope"
            ),
            reflection_pb2.ServerReflectionRequest(file_by_filename="grpc/reflection/v1/none.proto"),
            reflection_pb2.ServerReflectionRequest(file_by_filename="datasentinel/v1/inference.proto"),
            reflection_pb2.ServerReflectionRequest(
                all_extension_numbers_of_type="datasentinel.v1.EvaluateRequest"
            ),
            reflection_pb2.ServerReflectionRequest(),
        ]
        answers = list(reflection.ServerReflectionInfo(iter(questions), timeout=TIMEOUT_S))
        listed, described, unknown, no_method, no_file, file, extensions, nothing = answers
        names = {service.name for service in listed.list_services_response.service}
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
        assert b"ModelStreamInfer" in described.file_descriptor_response.file_descriptor_proto[0]
        for answer in (unknown, no_method, no_file, nothing):
            assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert b"EvaluateRequest" in file.file_descriptor_response.file_descriptor_proto[0]
        told = extensions.all_extension_numbers_response
        assert (told.base_type_name, list(told.extension_number)) == ("datasentinel.v1.EvaluateRequest", [])


def test_statistics_count_every_protocol(client, rows):
    def statistics():
        request = grpc_predict_v2_pb2.ModelStatisticsRequest(name=MODEL)
        (found,) = client.oip.ModelStatistics(request, timeout=TIMEOUT_S).model_stats
        return found

    before = statistics()
    for protocol in ("infer_raw", "rest_json", "rest_nested_json", "evaluate_batch"):
        getattr(client, protocol)(rows[:3])
    with pytest.raises(RefusedError):
        client.infer_raw(rows[:3, :7].copy())
    with pytest.raises(RefusedError):
        client.rest_json(rows[:3, :7].copy())
    after = statistics()
    assert after.inference_count - before.inference_count == 12
    assert after.execution_count - before.execution_count == 4
    stats = after.inference_stats
    assert stats.success.count - before.inference_stats.success.count == 4
    assert stats.fail.count - before.inference_stats.fail.count == 2
    assert stats.success.ns > before.inference_stats.success.ns
    assert after.last_inference >= before.last_inference > 0
