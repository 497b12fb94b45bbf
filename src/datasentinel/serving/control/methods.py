"""The table of the gRPC methods that Python answers: path to handler."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError, Message

from datasentinel.errors import InvalidInputError
from datasentinel.oip import grpc_predict_v2_pb2 as oip_pb2
from datasentinel.serving.control import health, health_pb2, oip, reflection, reflection_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datasentinel.serving.control.repository import ModelRepository
    from datasentinel.serving.data_plane import DataPlane

# Its methods all carry rows, which the native session answers; it is known to health and reflection.
_V1_SERVICE = "datasentinel.v1.InferenceService"


class Kind(enum.Enum):
    """How many messages a call has."""

    UNARY = enum.auto()  # One request, one response.
    EXCHANGE = enum.auto()  # Many requests; each is answered by one response, in order.
    SUBSCRIPTION = enum.auto()  # One request, many responses.


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service.

    Attributes
    ----------
    path : str
        `/package.Service/Method`.
    request : type of Message
    handler : callable
        Takes a decoded request. A unary method's returns a response or is a coroutine function, an
        exchange's returns a response, a subscription's an asynchronous iterator. It raises errors of ours.
    kind : Kind
    """

    path: str
    request: type[Message]
    handler: Callable[[Any], Any]
    kind: Kind = Kind.UNARY

    def decode(self, data: bytes) -> Message:
        """Decode a request.

        Raises
        ------
        InvalidInputError
            The bytes are no such message.
        """
        try:
            return self.request.FromString(data)
        except DecodeError as error:
            raise InvalidInputError(f"the message is not a valid {self.request.DESCRIPTOR.name}") from error


def make_methods(plane: DataPlane, repository: ModelRepository, *, max_rows: int) -> dict[str, Method]:
    """Make the table of the methods that the native session leaves to Python, by path."""
    services = (oip.SERVICE, _V1_SERVICE, health.SERVICE)
    methods = [
        *_oip_methods(oip.OpenInference(plane, repository, max_rows=max_rows)),
        *_health_methods(health.Health(plane, services)),
        *_reflection_methods(reflection.Reflection((*services, *reflection.SERVICES))),
    ]
    return {method.path: method for method in methods}


def _oip_methods(service: oip.OpenInference) -> Iterator[Method]:
    handlers: dict[str, tuple[type[Message], Callable[[Any], Any]]] = {
        "ServerLive": (oip_pb2.ServerLiveRequest, service.server_live),
        "ServerReady": (oip_pb2.ServerReadyRequest, service.server_ready),
        "ModelReady": (oip_pb2.ModelReadyRequest, service.model_ready),
        "ServerMetadata": (oip_pb2.ServerMetadataRequest, service.server_metadata),
        "ModelMetadata": (oip_pb2.ModelMetadataRequest, service.model_metadata),
        "ModelConfig": (oip_pb2.ModelConfigRequest, service.model_config),
        "ModelStatistics": (oip_pb2.ModelStatisticsRequest, service.model_statistics),
        "RepositoryIndex": (oip_pb2.RepositoryIndexRequest, service.repository_index),
        "RepositoryModelLoad": (oip_pb2.RepositoryModelLoadRequest, service.repository_model_load),
        "RepositoryModelUnload": (oip_pb2.RepositoryModelUnloadRequest, service.repository_model_unload),
    }
    for name, (request, handler) in handlers.items():
        yield Method(f"/{oip.SERVICE}/{name}", request, handler)


def _health_methods(service: health.Health) -> Iterator[Method]:
    request = health_pb2.HealthCheckRequest
    yield Method(f"/{health.SERVICE}/Check", request, service.check)
    yield Method(f"/{health.SERVICE}/Watch", request, service.watch, Kind.SUBSCRIPTION)


def _reflection_methods(service: reflection.Reflection) -> Iterator[Method]:
    for name in reflection.SERVICES:
        yield Method(
            f"/{name}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest,
            service.server_reflection_info,
            Kind.EXCHANGE,
        )
