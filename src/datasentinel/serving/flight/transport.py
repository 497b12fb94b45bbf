"""The port of Flight, as one of the server's transports."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pyarrow as pa

from datasentinel.errors import ServerError
from datasentinel.serving import threads
from datasentinel.serving.connections.addresses import bound_socket, resolve
from datasentinel.serving.flight import NAME
from datasentinel.serving.flight.service import Service
from datasentinel.serving.flight.waits import hang_up
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from datasentinel.serving.connections.addresses import Address
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)

# What an exchange gets to notice that its connection was cut; one that scores for longer is left to itself.
_CUT_S = 2.0


class FlightTransport:
    """The port of Flight, as one of the server's transports.

    Parameters
    ----------
    plane : DataPlane
        Whose models answer.
    settings : Settings
    guard : Guard
        Who may call. Certificates are read once, at the start.
    """

    name = NAME

    def __init__(self, plane: DataPlane, settings: Settings, guard: Guard) -> None:
        self._plane = plane
        self._settings = settings
        self._guard = guard
        self._service: Service | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> Address:
        """Listen, and return where.

        Raises
        ------
        ServerError
            The address cannot be bound.
        """
        settings = self._settings
        address = resolve(settings.host, settings.flight_port, self.name)
        # The supervisor of several workers holds the port, too, for the one of them that answers on it.
        bound_socket(address, self.name, reuse_port=settings.workers > 1).close()
        scheme = "grpc" if self._guard.tls is None else "grpc+tls"
        loop = asyncio.get_running_loop()
        try:
            self._service = Service(f"{scheme}://{address}", self._plane, settings, self._guard, loop)
        except (OSError, pa.ArrowException) as error:
            raise ServerError(f"cannot listen for flight on {address}: {error}") from error
        if settings.receive_timeout_s:
            self._sweeping = loop.create_task(self._service.sweep(settings.receive_timeout_s))
        return address._replace(port=self._service.port)

    async def stop(self, timeout_s: float) -> None:
        """Accept no more calls, finish those accepted, and cut off what is unfinished after `timeout_s`.

        An exchange that scores just then ends after its turn; one whose turn does not end is left to its
        thread, which ends with the process (`threads.are_left`).
        """
        service, self._service = self._service, None
        if service is None:
            return
        # Waits for calls in progress, however long they take.
        ending = threads.start(service.shutdown, "flight-shutdown")
        loop = asyncio.get_running_loop()
        cut_s = loop.time() + timeout_s
        while ending.is_alive() and loop.time() < cut_s + _CUT_S:
            if loop.time() >= cut_s:
                hang_up(service.port)
            await asyncio.sleep(0.02)
        if ending.is_alive():
            log(_logger, logging.WARNING, "exchanges_left", reason="they score and do not end")
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
