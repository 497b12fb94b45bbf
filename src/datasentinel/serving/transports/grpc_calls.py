"""The calls of all gRPC methods on grpcio's asyncio server: decode, hand over, encode, report."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

import grpc

from datasentinel.errors import DataSentinelError
from datasentinel.serving.data_plane import INVALID
from datasentinel.serving.logs import log
from datasentinel.serving.protocols.methods import Kind
from datasentinel.serving.protocols.status import Code, code_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from google.protobuf.message import Message

    from datasentinel.serving.data_plane import TransportAccount
    from datasentinel.serving.protocols.methods import Method

_Context = grpc.aio.ServicerContext[bytes, bytes]

_logger = logging.getLogger(__name__)

_DRAINING = "the server is draining; connect again"


class Calls(grpc.GenericRpcHandler):
    """Gives grpcio a handler for each method of a table.

    Requests are decoded here and not by grpcio, so that junk gets a proper status.

    Parameters
    ----------
    methods : mapping of str to Method
        By path.
    account : TransportAccount
        Where requests that cannot be decoded are counted.
    """

    def __init__(self, methods: Mapping[str, Method], account: TransportAccount) -> None:
        self._account = account
        self._handlers = {path: self._handler(method) for path, method in methods.items()}
        self._draining = asyncio.Event()

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Find the handler of a call."""
        return self._handlers.get(handler_call_details.method)

    def drain(self) -> None:
        """End the streams, each after the answer it is at: nobody knows when their clients would."""
        self._draining.set()

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def unary(data: bytes, context: _Context) -> bytes:
            return await self._answer(method, data, context)

        async def exchange(requests: object, context: _Context) -> AsyncIterator[bytes]:  # noqa: ARG001
            while (data := await self._next_message(context)) is not grpc.aio.EOF:
                yield await self._answer(method, data, context)

        async def subscription(data: bytes, context: _Context) -> AsyncIterator[bytes]:
            async for response in method.handler(await self._decode(method, data, context)):
                yield response.SerializeToString()

        if method.kind is Kind.UNARY:
            return grpc.unary_unary_rpc_method_handler(unary)
        if method.kind is Kind.EXCHANGE:
            return grpc.stream_stream_rpc_method_handler(exchange)
        return grpc.unary_stream_rpc_method_handler(subscription)

    async def _next_message(self, context: _Context) -> Any:  # noqa: ANN401  # bytes, or grpcio's end mark
        reading = asyncio.ensure_future(context.read())
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            await context.abort(grpc.StatusCode.UNAVAILABLE, _DRAINING)
        finally:
            reading.cancel()
            draining.cancel()

    async def _decode(self, method: Method, data: bytes, context: _Context) -> Message:
        try:
            return method.decode(data)
        except DataSentinelError as error:
            self._account.add(requests=1, rows=0, anomalies=0, errors=1, latency_s=0.0, code=INVALID)
            await context.abort(_status_of(code_of(error)), str(error))

    async def _answer(self, method: Method, data: bytes, context: _Context) -> bytes:
        request = await self._decode(method, data, context)
        try:
            response = method.handler(request)
            if inspect.isawaitable(response):
                response = await response
        except Exception as error:  # whatever it was, it stays in this call
            await context.abort(*_report(error, context.peer()))
        encoded: bytes = response.SerializeToString()
        return encoded


def _status_of(code: Code) -> grpc.StatusCode:
    return grpc.StatusCode[code.name]


def _report(error: Exception, peer: str) -> tuple[grpc.StatusCode, str]:
    """Give the status and the words that the client gets; log what is a fault of ours."""
    code = code_of(error)
    if not isinstance(error, DataSentinelError):
        log(_logger, logging.ERROR, "request_failed", transport="grpc", peer=peer, exception=error)
        return _status_of(code), "internal error"
    if code in (Code.INTERNAL, Code.RESOURCE_EXHAUSTED):
        log(_logger, logging.ERROR, "request_failed", transport="grpc", peer=peer, reason=error)
    return _status_of(code), str(error)
