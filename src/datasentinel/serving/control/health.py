"""gRPC health checking: `grpc.health.v1.Health`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from datasentinel.errors import ModelNotFoundError
from datasentinel.serving.control import health_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from datasentinel.serving.data_plane import DataPlane

SERVICE = "grpc.health.v1.Health"

_LOOK_AGAIN_S = 0.1


class Health:
    """The methods of the service.

    Parameters
    ----------
    plane : DataPlane
    services : collection of str
        The services whose health may be asked for; the empty name, the server's own, always may.
    """

    def __init__(self, plane: DataPlane, services: Collection[str]) -> None:
        self._plane = plane
        self._services = {"", *services}

    def _status(self) -> pb.HealthCheckResponse.ServingStatus:
        return pb.HealthCheckResponse.SERVING if self._plane.ready else pb.HealthCheckResponse.NOT_SERVING

    def check(self, request: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        """Return whether requests are welcome."""
        if request.service not in self._services:
            raise ModelNotFoundError(f"unknown service {request.service!r}")
        return pb.HealthCheckResponse(status=self._status())

    async def watch(self, request: pb.HealthCheckRequest) -> AsyncIterator[pb.HealthCheckResponse]:
        """Answer again whenever it changes; the stream ends when the server drains."""
        known = request.service in self._services
        last = None
        while True:
            status = self._status() if known else pb.HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                yield pb.HealthCheckResponse(status=status)
            if last == pb.HealthCheckResponse.SERVING != status:
                return
            last = status
            await asyncio.sleep(_LOOK_AGAIN_S)
