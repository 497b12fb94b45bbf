"""Calls through tritonclient, for a process of its own.

Its messages have the same names as ours but come from another file, and one process cannot hold both. So each
function here runs in another process, and takes and gives plain values.
"""

from __future__ import annotations

import queue
from contextlib import closing

import numpy as np

TIMEOUT_S = 20


def _module(transport: str):
    if transport == "grpc":
        import tritonclient.grpc as module
    else:
        import tritonclient.http as module
    return module


def _client(transport: str, address: str):
    return closing(_module(transport).InferenceServerClient(address))


def _input(transport: str, rows: np.ndarray, **options: object):
    tensor = _module(transport).InferInput("input", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, **options)
    return tensor


def _options(transport: str) -> dict[str, object]:
    return {"as_json": True} if transport == "grpc" else {}


def infer(transport: str, address: str, rows: np.ndarray, names: list[str], *, binary: bool = True):
    """Give the named outputs, the request's id as it came back, and what the error was, if any."""
    module = _module(transport)
    options = {} if transport == "grpc" else {"binary_data": binary}
    outputs = [module.InferRequestedOutput(name, **options) for name in names]
    with _client(transport, address) as client:
        try:
            result = client.infer(
                "test", [_input(transport, rows, **options)], outputs=outputs or None, request_id="seven"
            )
        except module.InferenceServerException as error:
            return {}, "", error.message()
        response = result.get_response()
        request_id = response.id if transport == "grpc" else response["id"]
        wanted = names or ["score", "anomaly"]
        return {name: result.as_numpy(name) for name in wanted}, request_id, ""


def infer_sequence(transport: str, address: str, chunks: list[np.ndarray], sequence_id: int | str):
    """Send chunks as one sequence; give the scores, and which rows are warming."""
    scores, warming = [], []
    with _client(transport, address) as client:
        for i, chunk in enumerate(chunks):
            result = client.infer(
                "memory",
                [_input(transport, chunk)],
                sequence_id=sequence_id,
                sequence_start=i == 0,
                sequence_end=i == len(chunks) - 1,
            )
            scores.append(result.as_numpy("score"))
            warming.append(result.as_numpy("warming"))
    return np.concatenate(scores), np.concatenate(warming)


def model_config(transport: str, address: str, name: str):
    with _client(transport, address) as client:
        config = client.get_model_config(name, **_options(transport))
        return config["config"] if transport == "grpc" else config


def infer_compressed(address: str, rows: np.ndarray, algorithm: str) -> np.ndarray:
    with _client("http", address) as client:
        result = client.infer("test", [_input("http", rows)], request_compression_algorithm=algorithm)
        return result.as_numpy("score")


def infer_concurrently(transport: str, address: str, rows: np.ndarray, times: int) -> list[np.ndarray]:
    answers: queue.Queue = queue.Queue()
    with _client(transport, address) as client:
        tensor = _input(transport, rows)
        if transport == "http":
            futures = [client.async_infer("test", [tensor]) for _ in range(times)]
            return [future.get_result().as_numpy("score") for future in futures]
        for _ in range(times):
            client.async_infer("test", [tensor], callback=lambda result, error: answers.put((result, error)))
        results = [answers.get(timeout=TIMEOUT_S) for _ in range(times)]
    assert all(error is None for _, error in results), results
    return [result.as_numpy("score") for result, _ in results]


def stream(address: str, batches: list[np.ndarray]) -> list[tuple[str, np.ndarray | None, str]]:
    """Give id, score and error of each request, as they came."""
    answers: queue.Queue = queue.Queue()
    with _client("grpc", address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number, rows in enumerate(batches):
            client.async_stream_infer("test", [_input("grpc", rows)], request_id=str(number))
        results = [answers.get(timeout=TIMEOUT_S) for _ in batches]
        client.stop_stream()
    return [
        ("", None, error.message()) if error else (result.get_response().id, result.as_numpy("score"), "")
        for result, error in results
    ]


def describe(transport: str, address: str) -> dict[str, object]:
    """Ask everything that can be asked."""
    options = _options(transport)
    with _client(transport, address) as client:
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": client.is_model_ready("test"),
            "version ready": client.is_model_ready("test", "1"),
            "unknown ready": [client.is_model_ready(*name) for name in (("nobody",), ("test", "99"))],
            "server": client.get_server_metadata(**options),
            "model": client.get_model_metadata("test", **options),
            "config": client.get_model_config("test", **options),
            "statistics": client.get_inference_statistics("test", **options),
            "all statistics": client.get_inference_statistics(**options),
            "index": client.get_model_repository_index(**options),
        }


def control(transport: str, address: str, action: str, model: str) -> str:
    """Load or unload a model; give the error, if any."""
    with _client(transport, address) as client:
        try:
            (client.load_model if action == "load" else client.unload_model)(model)
        except _module(transport).InferenceServerException as error:
            return error.message()
    return ""
