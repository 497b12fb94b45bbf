"""gRPC: which implementation serves it, and the one on grpcio's asyncio server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc

from datasentinel.backend import grpc_library
from datasentinel.errors import SettingsError
from datasentinel.serving import auth
from datasentinel.serving.logs import log
from datasentinel.serving.protocols.methods import make_methods
from datasentinel.serving.transports import Address, bind_error, listening_socket, resolve
from datasentinel.serving.transports.grpc_calls import Calls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from datasentinel.serving.data_plane import DataPlane, TransportAccount
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.repository import ModelRepository
    from datasentinel.serving.tls import Tls
    from datasentinel.serving.transports import Transport
    from datasentinel.settings import Settings

NAME = "grpc"

_logger = logging.getLogger(__name__)
_HEALTH_PREFIX = "/grpc.health.v1.Health/"


def _milliseconds(option: str, time_s: float) -> list[tuple[str, int]]:
    """Make the option of a time limit; 0 sets none."""
    return [(option, max(1, round(time_s * 1000)))] if time_s else []


class _TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses calls without a valid token; health checks need none."""

    def __init__(self, guard: Guard, account: TransportAccount) -> None:
        self._guard = guard
        self._account = account
        self._refusal: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._refuse)

    async def _refuse(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:  # noqa: ARG002
        self._account.add(requests=1, rows=0, anomalies=0, errors=1, latency_s=0.0, code="unauthenticated")
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, auth.REFUSAL)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401  # a handler of whatever messages
        if not handler_call_details.method.startswith(_HEALTH_PREFIX):
            metadata = dict(handler_call_details.invocation_metadata)
            if not self._guard.admits(metadata.get("authorization")):
                return self._refusal
        return await continuation(handler_call_details)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Give grpcio the certificate, and the renewed one when it was reloaded."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, client_ca = tls.pem()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)

    generation = tls.generation

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal generation
        if generation == tls.generation:
            return None  # nothing new
        generation = tls.generation
        return configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        renewed,  # type: ignore[arg-type]  # the stubs do not know that None is allowed
        require_client_authentication=tls.client_ca is not None,
    )


def grpc_transport(
    plane: DataPlane, repository: ModelRepository, settings: Settings, guard: Guard
) -> Transport:
    """Make the gRPC transport that the settings ask for and the extension allows.

    Raises
    ------
    SettingsError
        The extension's own implementation is asked for, and this build has none.
    """
    library = grpc_library()
    if settings.grpc_implementation == "native" and not library:
        raise SettingsError(
            "grpc_implementation: this build has no native gRPC, because libnghttp2 was not found; install "
            "libnghttp2-dev and build again, or choose grpcio"
        )
    native = bool(library) and settings.grpc_implementation != "grpcio"
    log(_logger, logging.INFO, "grpc_implementation", name=f"native, {library}" if native else "grpcio")
    if native:
        from datasentinel.serving.transports.grpc_native import NativeGrpcTransport

        return NativeGrpcTransport(plane, repository, settings, guard)
    return GrpcTransport(plane, repository, settings, guard)


class GrpcTransport:
    """Serves gRPC on one address with grpcio's asyncio server.

    Parameters
    ----------
    plane : DataPlane
    repository : ModelRepository
    settings : Settings
    guard : Guard
    """

    name = NAME

    def __init__(
        self, plane: DataPlane, repository: ModelRepository, settings: Settings, guard: Guard
    ) -> None:
        self._account = plane.account(NAME)
        methods = make_methods(plane, repository, self._account, max_rows=settings.max_request_rows)
        self._calls = Calls(methods, self._account)
        self._settings = settings
        self._guard = guard
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
        shared = settings.workers > 1
        if not shared:  # A supervisor knows that the port is ours.
            # grpcio does not tell why it could not bind; the operating system does.
            listening_socket(address, NAME).close()
        server = grpc.aio.server(
            interceptors=[_TokenCheck(self._guard, self._account)] if self._guard.tokens is not None else [],
            maximum_concurrent_rpcs=settings.grpc_max_calls,
            options=[
                # Without it a second server would share the port in silence.
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_receive_message_length", settings.grpc_max_message_bytes),
                ("grpc.max_concurrent_streams", settings.grpc_max_streams),
                *_milliseconds("grpc.max_connection_idle_ms", settings.grpc_idle_timeout_s),
                *_milliseconds("grpc.server_handshake_timeout_ms", settings.receive_timeout_s),
            ],
        )
        server.add_generic_rpc_handlers((self._calls,))
        try:
            if self._guard.tls is None:
                port = server.add_insecure_port(str(address))
            else:
                port = server.add_secure_port(str(address), _credentials(self._guard.tls))
        except RuntimeError as error:
            raise bind_error(address, NAME, str(error)) from error
        await server.start()
        self._server = server
        return Address(address.host, port)

    async def stop(self, timeout_s: float) -> None:
        """Stop accepting, finish what was accepted within `timeout_s`, and close.

        grpcio accepts a call when its handler starts; calls that it read but had not started are refused.
        """
        self._calls.drain()
        if self._server is not None:
            await self._server.stop(timeout_s)
