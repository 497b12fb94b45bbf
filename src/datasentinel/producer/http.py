"""The Open Inference Protocol over HTTP: one request a sample, several in flight on one connection."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from datasentinel.errors import ServerError
from datasentinel.producer.replies import ANOMALY, ERROR, NOT_A_NUMBER_WORD, OK, WARMING, Connection, Reply
from datasentinel.producer.samples import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datasentinel.producer.credentials import Credentials
    from datasentinel.producer.replies import Connect, Listener
    from datasentinel.producer.samples import Sample

_HEAD_END = b"\r\n\r\n"
_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY, _UNAVAILABLE = 200, 401, 403, 404, 429, 503


def http_connector(host: str, port: int, credentials: Credentials, model: str) -> Connect:
    """Make the function that opens connections; see `clients.connector`."""
    context = credentials.context()

    async def connect(listener: Listener) -> Connection:
        loop = asyncio.get_running_loop()
        make = partial(HttpConnection, listener, f"{host}:{port}", credentials.token, model)
        _, connection = await loop.create_connection(make, host, port, ssl=context)
        return connection

    return connect


def encode_sample(sample: Sample) -> dict[str, Any]:
    """Return the request for a sample as a JSON document."""
    values: list[float | str | None] = [
        float(str(value)) if np.isfinite(value) else None for value in sample.values
    ]
    if sample.fault is Fault.NOT_A_NUMBER:
        values = [NOT_A_NUMBER_WORD if value is None else value for value in values]
    parameters: dict[str, str | float] = {}
    if sample.stream:
        parameters["sequence_id"] = sample.stream
    if sample.time_s is not None:
        parameters["timestamp"] = sample.time_s
    shape = [1, len(values)]
    rows = {"name": "input", "datatype": "FP32", "shape": shape, "data": values}
    return {"parameters": parameters, "inputs": [rows]}


def parse_reply(status: int, body: bytes) -> Reply:
    """Read the answer to a sample.

    Raises
    ------
    ConnectionError
        The server cannot answer now.
    ServerError
        It wants another token, knows no such model, or does not speak the protocol.
    """
    try:
        document = json.loads(body)
        if status == _OK:
            told = {output["name"]: output["data"][0] for output in document["outputs"]}
            decision = WARMING if told.get("warming") else ANOMALY if told["anomaly"] else OK
            return Reply(decision, score=float(told["score"]))
        reason = str(document["error"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _not_the_protocol(status, body) from error
    if status in (_TOO_MANY, _UNAVAILABLE):
        raise ConnectionError(f"the server answered {status}: {reason}")
    if status in (_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND):
        raise ServerError(f"the server answered {status}: {reason}")
    return Reply(ERROR, reason)


def _not_the_protocol(status: int, body: bytes) -> ServerError:
    return ServerError(f"the server does not speak the protocol: it answered {status} {body[:80]!r}")


class HttpConnection(asyncio.Protocol, Connection):
    """HTTP/1.1 with pipelining: replies come in the order of the samples.

    The first request asks which models there are; samples wait for its answer.
    """

    def __init__(self, listener: Listener, host: str, token: str, model: str) -> None:
        self._listener: Listener | None = listener
        self._headers = f"Host: {host}\r\nContent-Type: application/json\r\n"
        if token:
            self._headers += f"Authorization: Bearer {token}\r\n"
        self._model = model
        self._is_model_known = False
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Sample] = deque()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask which models there are."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        transport.write(self._request("/v2/repository/index", {"ready": True}))

    def send(self, samples: Iterable[Sample]) -> None:
        """Send the samples with one write."""
        batch = list(samples)
        self._waiting.extend(batch)
        if self._is_model_known:
            self._write(batch)

    def data_received(self, data: bytes) -> None:
        """Match each complete reply with the oldest sample not answered."""
        self._received += data
        try:
            while self._listener is not None and (reply := self._next_reply()) is not None:
                self._take(*reply)
        except (ServerError, ConnectionError) as error:
            self._lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the listener, unless it closed the connection itself."""
        self._lose(exc or ConnectionError("the server closed the connection"))

    async def close(self) -> None:
        """Drop the connection."""
        self._listener = None
        if self._transport is not None:
            self._transport.abort()
        await asyncio.sleep(0)  # The transport frees its socket in the loop's next turn.

    def _write(self, samples: Iterable[Sample]) -> None:
        assert self._transport is not None  # noqa: S101
        path = f"/v2/models/{quote(self._model, safe='')}/infer"
        self._transport.write(b"".join(self._request(path, encode_sample(sample)) for sample in samples))

    def _request(self, path: str, document: dict[str, Any]) -> bytes:
        body = json.dumps(document, separators=(",", ":")).encode()
        head = f"POST {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _next_reply(self) -> tuple[int, bytes] | None:
        """Take the status and the body of a reply that has come whole."""
        head, found, rest = self._received.partition(_HEAD_END)
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        try:
            status, length = int(first.split()[1]), int(headers["content-length"])
        except (ValueError, LookupError):
            raise ServerError(f"the server does not speak HTTP/1.1: it answered {head[:80]!r}") from None
        if len(rest) < length:
            return None
        self._received = rest[length:]
        return status, rest[:length]

    def _take(self, status: int, body: bytes) -> None:
        if not self._is_model_known:
            self._choose_model(status, body)
            self._write(self._waiting)
        elif not self._waiting:
            raise ServerError("the server sent more replies than it was sent samples")
        elif self._listener is not None:
            reply = parse_reply(status, body)
            self._listener.on_reply(self._waiting.popleft(), reply)

    def _choose_model(self, status: int, body: bytes) -> None:
        if status != _OK:
            parse_reply(status, body)
            raise ServerError(f"the server answered {status} when it was asked for its models")
        try:
            names = sorted({str(model["name"]) for model in json.loads(body)})
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise _not_the_protocol(status, body) from error
        if not names:
            raise ConnectionError("the server serves no model yet")
        if self._model and self._model not in names:
            raise ServerError(f"the server has no model '{self._model}'; it has {', '.join(names)}")
        if not self._model and len(names) > 1:
            raise ServerError(f"the server has several models: name one of {', '.join(names)}")
        self._model, self._is_model_known = self._model or names[0], True

    def _lose(self, error: Exception) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_lost(error)
