"""gRPC: `datasentinel.v1.InferenceService`, on grpcio's asyncio server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from datasentinel.errors import (
    DataSentinelError,
    InvalidInputError,
    OutOfMemoryError,
    ResourceExhaustedError,
    UnsupportedModelError,
)
from datasentinel.serving.logs import log
from datasentinel.serving.transports import Address, bind_error, listening_socket, resolve
from datasentinel.v1 import inference_pb2

if TYPE_CHECKING:
    from datasentinel.serving.data_plane import DataPlane, TransportAccount
    from datasentinel.settings import Settings

NAME = "grpc"
_SERVICE = "datasentinel.v1.InferenceService"

_logger = logging.getLogger(__name__)

# The first class that fits tells the status; a bad vector is no RPC error and never comes here.
_STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (ResourceExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (OutOfMemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Exception, grpc.StatusCode.INTERNAL),
)


class _InferenceService:
    """The methods of the service. They decode requests themselves, so that junk gets a proper status."""

    def __init__(self, plane: DataPlane, account: TransportAccount) -> None:
        self._plane = plane
        self._account = account

    def handler(self) -> grpc.GenericRpcHandler:
        """Give grpcio the table of methods."""
        evaluate: grpc.RpcMethodHandler[bytes, inference_pb2.EvaluateResponse]
        evaluate = grpc.unary_unary_rpc_method_handler(
            self.evaluate, response_serializer=inference_pb2.EvaluateResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"Evaluate": evaluate})

    async def evaluate(
        self, data: bytes, context: grpc.aio.ServicerContext[bytes, inference_pb2.EvaluateResponse]
    ) -> inference_pb2.EvaluateResponse:
        try:
            request = inference_pb2.EvaluateRequest.FromString(data)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is not an EvaluateRequest")
        try:
            evaluation = self._plane.evaluate(
                request.values,
                self._account,
                explain_top=request.explain_top,
                with_p_value=request.with_p_value,
            )
        except (InvalidInputError, UnsupportedModelError) as error:
            return inference_pb2.EvaluateResponse(status=inference_pb2.ERROR, message=str(error))
        except Exception as error:  # whatever it was, it stays in this call
            await context.abort(*_report(error, context.peer()))
        return inference_pb2.EvaluateResponse(
            status=inference_pb2.ANOMALY if evaluation.is_anomaly else inference_pb2.OK,
            mse=evaluation.score,
            contributions=[
                inference_pb2.Contribution(
                    feature=reason.feature,
                    contribution=reason.contribution,
                    value=reason.value,
                    expected=reason.expected,
                )
                for reason in evaluation.reasons
            ],
            p_value=evaluation.p_value,
        )


def _report(error: Exception, peer: str) -> tuple[grpc.StatusCode, str]:
    """Log a fault of ours; give the status and the words that the client gets."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    if isinstance(error, DataSentinelError):
        log(_logger, logging.ERROR, "request_failed", transport=NAME, peer=peer, reason=error)
        return status, str(error)
    log(_logger, logging.ERROR, "request_failed", transport=NAME, peer=peer, exception=error)
    return status, "internal error"


class GrpcTransport:
    """Serves `datasentinel.v1` on one address.

    Parameters
    ----------
    plane : DataPlane
    settings : Settings
    """

    name = NAME

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self._service = _InferenceService(plane, plane.account(NAME))
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
        server.add_generic_rpc_handlers((self._service.handler(),))
        try:
            port = server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise bind_error(address, NAME, str(error)) from error
        await server.start()
        self._server = server
        return Address(address.host, port)

    async def stop(self, timeout_s: float) -> None:
        """Stop accepting, finish what was accepted within `timeout_s`, and close.

        grpcio accepts a call when its handler starts; calls that it read but had not started are refused.
        """
        if self._server is not None:
            await self._server.stop(timeout_s)
