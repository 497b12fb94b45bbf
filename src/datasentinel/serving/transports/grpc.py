"""gRPC: `datasentinel.v1.InferenceService`, on grpcio's asyncio server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc

from datasentinel.errors import DataSentinelError, InvalidInputError, OutOfMemoryError, ResourceExhaustedError
from datasentinel.serving.logs import log
from datasentinel.serving.transports import Address, bind_error, listening_socket, resolve
from datasentinel.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from datasentinel.serving.data_plane import DataPlane, TransportAccount
    from datasentinel.settings import Settings

NAME = "grpc"

_logger = logging.getLogger(__name__)

# The first class that fits tells the status; a bad vector is no RPC error and never comes here.
_STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (ResourceExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (OutOfMemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Exception, grpc.StatusCode.INTERNAL),
)


class _InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):  # type: ignore[misc]  # generated, untyped
    def __init__(self, plane: DataPlane, account: TransportAccount) -> None:
        self._plane = plane
        self._account = account

    async def Evaluate(  # noqa: N802  # the name in the contract
        self,
        request: inference_pb2.EvaluateRequest,
        context: grpc.aio.ServicerContext[inference_pb2.EvaluateRequest, inference_pb2.EvaluateResponse],
    ) -> inference_pb2.EvaluateResponse:
        try:
            evaluation = self._plane.evaluate(request.values, self._account)
        except InvalidInputError as error:
            return inference_pb2.EvaluateResponse(status=inference_pb2.ERROR, message=str(error))
        except Exception as error:  # whatever it was, it stays in this call
            log(
                _logger, logging.ERROR, "request_failed", transport=NAME, peer=context.peer(), exception=error
            )
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            reason = str(error) if isinstance(error, DataSentinelError) else "internal error"
            await context.abort(status, reason)
        return inference_pb2.EvaluateResponse(
            status=inference_pb2.ANOMALY if evaluation.is_anomaly else inference_pb2.OK, mse=evaluation.score
        )


class GrpcTransport:
    """Serves `datasentinel.v1` on one address.

    Parameters
    ----------
    plane : DataPlane
    settings : Settings
    """

    name = NAME

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self._servicer = _InferenceServicer(plane, plane.account(NAME))
        self._settings = settings
        self._server: grpc.aio.Server | None = None

    async def start(self) -> Address:
        """Listen; return the address bound.

        Raises
        ------
        ServerError
            The address cannot be bound.
        """
        settings = self._settings
        address = resolve(settings.host, settings.grpc_port, NAME)
        # grpcio does not tell why it could not bind; the operating system does.
        listening_socket(address, NAME).close()
        server = grpc.aio.server(
            options=[
                # Without it a second server would share the port in silence.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.grpc_max_message_bytes),
            ]
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._servicer, server)
        try:
            port = server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise bind_error(address, NAME, str(error)) from error
        await server.start()
        self._server = server
        return Address(address.host, port)

    async def stop(self, timeout_s: float) -> None:
        """Stop accepting, finish what was accepted within `timeout_s`, and close."""
        if self._server is not None:
            await self._server.stop(timeout_s)
