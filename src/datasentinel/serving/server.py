"""The server's lifecycle: load, warm up, listen, ready; then not ready, stop accepting, finish, close."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from datasentinel import tasks
from datasentinel.serving import threads
from datasentinel.serving.connections.addresses import is_loopback
from datasentinel.serving.control.loading import loader
from datasentinel.serving.control.metrics import Metrics
from datasentinel.serving.control.repository import ModelRepository
from datasentinel.serving.control.trial import try_to_load
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.descriptors import watch_for_shortage
from datasentinel.serving.failure_watch import FailureWatch
from datasentinel.serving.guard import Guard
from datasentinel.serving.logs import log
from datasentinel.serving.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.serving.board import Board
    from datasentinel.serving.connections.listener import Listener
    from datasentinel.serving.flight.transport import FlightTransport
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)

# How long the last spans may take to be sent: the exporter's own default for one request.
_LAST_SPANS_S = 10.0


class Transport(Protocol):
    """What brings rows to the models and takes replies away; a listener is one."""

    name: str

    async def start(self) -> object:
        """Begin, and return the address, whose text is announced."""

    async def stop(self, timeout_s: float) -> None:
        """Accept no more, finish what was accepted, and end; cut off what is unfinished after `timeout_s`."""


class Server:
    """A detector behind its transports.

    Parameters
    ----------
    settings : Settings
        What to serve and where.
    board : Board, optional
        Where the workers of a supervised server share their metrics.
    make_transport : callable, optional
        Makes one more transport than the settings name.

    Examples
    --------
    >>> server = Server(Settings(model="models/"))      # doctest: +SKIP
    >>> addresses = await server.start()                # doctest: +SKIP
    >>> await server.stop()                             # doctest: +SKIP
    """

    def __init__(
        self,
        settings: Settings,
        board: Board | None = None,
        make_transport: Callable[[DataPlane, Metrics], Transport] | None = None,
    ) -> None:
        self._settings = settings
        self._board = board
        self._make_transport = make_transport
        self._poster: asyncio.Task[None] | None = None
        self._tracer: asyncio.Task[None] | None = None
        self._saver: asyncio.Task[None] | None = None
        self._guard = Guard()
        self._tracing: Tracing | None = None
        self._plane: DataPlane | None = None
        self._repository: ModelRepository | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._succession: asyncio.Task[None] | None = None
        self._failure_watch: asyncio.Task[None] | None = None
        self._shortage_watch: asyncio.Task[None] | None = None
        self._refreshes: set[asyncio.Task[None]] = set()
        self._transports: list[Transport] = []

    async def start(self) -> dict[str, object]:
        """Load, warm up, listen and become ready.

        Returns
        -------
        dict of str to object
            The address of each transport that is on, whose text is announced.

        Raises
        ------
        ModelNotFoundError, ArtifactError, UnsupportedModelError, BackendUnavailableError, BackendError
            The model cannot be loaded or run.
        SettingsError
            A file of certificates or tokens cannot be used.
        ServerError
            An address cannot be bound; whatever listened already is closed again.
        """
        settings = self._settings
        self._guard = guard = Guard.from_settings(settings)
        self._tracing = Tracing.from_settings(settings)
        self._plane = plane = DataPlane(tracing=self._tracing, settings=settings)
        is_successor = self._board is not None and self._board.is_successor
        self._repository = repository = _make_repository(plane, settings, is_successor=is_successor)
        await repository.open()

        metrics = Metrics(plane, self._board, guard)
        addresses: dict[str, object] = {}
        try:
            for transport in _make_transports(plane, repository, settings, guard, metrics):
                addresses[transport.name] = address = await transport.start()
                self._transports.append(transport)
                log(_logger, logging.INFO, "listening", transport=transport.name, address=address)
                guarded = guard.tls or (guard.tokens and transport.name != "tcp")
                if not guarded and not is_loopback(address):
                    log(
                        _logger,
                        logging.WARNING,
                        "reachable_from_other_machines",
                        transport=transport.name,
                        address=address,
                        advice="nothing on this port is encrypted or authenticated; see --tls-certificate",
                    )
            if self._make_transport is not None:
                further = self._make_transport(plane, metrics)
                addresses[further.name] = await further.start()
                self._transports.append(further)
                log(
                    _logger, logging.INFO, "consuming", transport=further.name, source=addresses[further.name]
                )
        except BaseException:
            await self._stop_transports(0.0)
            raise
        plane.ready = True
        self._failure_watch = asyncio.create_task(FailureWatch(plane.served).for_ever())
        self._shortage_watch = asyncio.create_task(watch_for_shortage())
        self._succession = asyncio.create_task(repository.end_shadows())
        if settings.watch:
            self._watcher = asyncio.create_task(repository.watch(settings.watch_interval_s))
        if self._board is not None:
            self._poster = asyncio.create_task(metrics.post_for_ever())
        if self._tracing is not None:
            self._tracer = asyncio.create_task(plane.trace_for_ever())
        self._saver = asyncio.create_task(plane.served.states.save_for_ever())
        return addresses

    async def stop(self) -> None:
        """Become not ready, stop accepting, finish what was accepted within the drain timeout, and close."""
        if self._plane is None:
            return
        self._plane.ready = False
        await self._stop_refreshing()
        log(_logger, logging.INFO, "draining", timeout_s=self._settings.drain_timeout_s)
        await self._stop_transports(self._settings.drain_timeout_s)
        background = (self._poster, self._tracer, self._failure_watch, self._shortage_watch, self._saver)
        await tasks.end(*(task for task in background if task is not None))
        await self._plane.served.states.save()
        if self._tracing is not None:
            self._plane.trace()
            # It tries for long to reach a collector that is away.
            await tasks.within(_LAST_SPANS_S, threads.finish(self._tracing.shut_down, "last-spans"))
        log(_logger, logging.INFO, "stopped", **self._plane.counts)

    def reload(self) -> None:
        """Read the files of certificates, tokens and models again."""
        self._guard.reload()
        if self._repository is not None and self._plane is not None and self._plane.ready:
            refresh = asyncio.create_task(self._repository.refresh(again=True))
            self._refreshes.add(refresh)
            refresh.add_done_callback(self._refreshes.discard)

    async def hurry(self) -> None:
        """Cut a stop in progress short: close now, whatever is unfinished."""
        await self._stop_transports(0.0)

    async def _stop_refreshing(self) -> None:
        watchers = (self._watcher, self._succession)
        await tasks.end(*self._refreshes, *(task for task in watchers if task is not None))

    async def _stop_transports(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        # Health is last to go, so that it can say "not ready" while the others drain.
        health = [transport for transport in self._transports if transport.name in ("http", "admin")]
        others = [transport for transport in self._transports if transport not in health]
        for group in (others, health):
            remaining_s = max(0.0, deadline_s - loop.time())
            stops = [transport.stop(remaining_s) for transport in group]
            ends = await asyncio.gather(*stops, return_exceptions=True)
            for transport, end in zip(group, ends, strict=True):
                if isinstance(end, Exception):  # It keeps nothing else from its end.
                    log(_logger, logging.ERROR, "stop_failed", transport=transport.name, exception=end)


def _make_repository(plane: DataPlane, settings: Settings, *, is_successor: bool) -> ModelRepository:
    root = Path(settings.model)
    return ModelRepository(
        root,
        plane,
        loader(settings),
        try_to_load=lambda folder: try_to_load(folder, root, settings),
        load_timeout_s=settings.load_timeout_s,
        is_successor=is_successor,
        default_model=settings.default_model,
        served_versions=settings.served_versions,
        control=settings.repository_control,
        stream_shadow_s=settings.stream_shadow_s,
    )


def _make_transports(
    plane: DataPlane, repository: ModelRepository, settings: Settings, guard: Guard, metrics: Metrics
) -> list[Listener | FlightTransport]:
    """Make the transports that are on; a library is imported only where its transport is."""
    transports: list[Listener | FlightTransport] = []
    if settings.tcp:
        from datasentinel.serving.lines.session import tcp_transport

        transports.append(tcp_transport(plane, settings, guard))
    if settings.grpc:
        from datasentinel.serving.grpc.session import grpc_transport

        if (transport := grpc_transport(plane, repository, settings, guard)) is not None:
            transports.append(transport)
    if settings.http:
        from datasentinel.serving.http.session import http_transport

        transports.append(http_transport(plane, repository, metrics, settings, guard))
    if "admin" in settings.ports:
        from datasentinel.serving.http.session import admin_transport

        transports.append(admin_transport(plane, repository, metrics, settings, guard))
    if "flight" in settings.ports:
        from datasentinel.serving.flight.transport import FlightTransport

        transports.append(FlightTransport(plane, settings, guard))
    return transports
