"""The server's lifecycle: load, warm up, listen, ready; then not ready, stop accepting, finish, close."""

from __future__ import annotations

import asyncio
import logging
import signal
from importlib.util import find_spec
from typing import TYPE_CHECKING

from datasentinel.detector import Detector
from datasentinel.gpu import EngineOptions
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.logs import configure_logging, log
from datasentinel.serving.metrics import Metrics
from datasentinel.serving.transports import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.serving.transports import Address, Transport
    from datasentinel.settings import Settings

_logger = logging.getLogger(__name__)


class Server:
    """A detector behind its transports.

    Parameters
    ----------
    settings : Settings
        What to serve and where.

    Examples
    --------
    >>> server = Server(Settings(model="models/"))      # doctest: +SKIP
    >>> addresses = await server.start()                # doctest: +SKIP
    >>> await server.stop()                             # doctest: +SKIP
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._plane: DataPlane | None = None
        self._transports: list[Transport] = []

    async def start(self) -> dict[str, Address]:
        """Load, warm up, listen and become ready.

        Returns
        -------
        dict of str to Address
            The address of each transport that is on.

        Raises
        ------
        ModelNotFoundError, ArtifactError, UnsupportedModelError, BackendUnavailableError, BackendError
            The model cannot be loaded or run.
        ServerError
            An address cannot be bound; whatever listened already is closed again.
        """
        settings = self._settings
        detector = Detector.load(
            settings.model,
            backend=settings.backend,
            num_threads=settings.num_threads,
            plan_budget_s=settings.plan_budget_s,
            engine=EngineOptions(
                optimization_level=settings.engine_optimization_level,
                workspace_mib=settings.engine_workspace_mib,
                max_rows=settings.engine_max_rows,
            ),
        )
        self._plane = plane = DataPlane(detector)
        plane.warm_up()
        info = detector.info()
        plan = ",".join(f"{min_rows}:{backend}" for min_rows, backend in info["plan"].items())
        log(_logger, logging.INFO, "model_loaded", **{key: info[key] for key in _MODEL_FACTS}, plan=plan)
        for backend, reason in info["refusals"].items():
            log(_logger, logging.INFO, "backend_refused", backend=backend, reason=reason)

        addresses: dict[str, Address] = {}
        try:
            for transport in _make_transports(plane, settings):
                addresses[transport.name] = address = await transport.start()
                self._transports.append(transport)
                log(_logger, logging.INFO, "listening", transport=transport.name, address=address)
                if not is_loopback(address):
                    log(
                        _logger,
                        logging.WARNING,
                        "reachable_from_other_machines",
                        transport=transport.name,
                        address=address,
                        advice="nothing on this port is encrypted or authenticated",
                    )
        except BaseException:
            await self._stop_transports(0.0)
            raise
        plane.ready = True
        return addresses

    async def stop(self) -> None:
        """Become not ready, stop accepting, finish what was accepted within the drain timeout, and close."""
        if self._plane is None:
            return
        self._plane.ready = False
        log(_logger, logging.INFO, "draining", timeout_s=self._settings.drain_timeout_s)
        await self._stop_transports(self._settings.drain_timeout_s)
        log(_logger, logging.INFO, "stopped", **self._plane.counts)

    async def hurry(self) -> None:
        """Cut a stop in progress short: close now, whatever is unfinished."""
        await self._stop_transports(0.0)

    async def _stop_transports(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        # Health is last to go, so that it can say "not ready" while the others drain.
        health = [transport for transport in self._transports if transport.name == "http"]
        others = [transport for transport in self._transports if transport.name != "http"]
        for group in (others, health):
            remaining_s = max(0.0, deadline_s - loop.time())
            await asyncio.gather(*(transport.stop(remaining_s) for transport in group))


_MODEL_FACTS = ("name", "version", "directory", "input_dim", "threshold", "backend")


def _make_transports(plane: DataPlane, settings: Settings) -> list[Transport]:
    """Make the transports that are on; a library is imported only where its transport is."""
    transports: list[Transport] = []
    if settings.tcp:
        from datasentinel.serving.transports.tcp import tcp_transport

        transports.append(tcp_transport(plane, settings))
    if settings.grpc:
        from datasentinel.serving.transports.grpc import GrpcTransport

        transports.append(GrpcTransport(plane, settings))
    if settings.http:
        from datasentinel.serving.transports.http import http_transport

        transports.append(http_transport(plane, Metrics(plane), settings))
    return transports


def run(settings: Settings, on_ready: Callable[[dict[str, Address]], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. A second signal cuts the draining short.

    Parameters
    ----------
    settings : Settings
    on_ready : callable
        Called once with the addresses, when every transport listens.

    Raises
    ------
    DataSentinelError
        As for `Server.start`.
    """
    configure_logging(settings)
    with asyncio.Runner(loop_factory=_event_loop_factory()) as runner:
        runner.run(_serve(settings, on_ready))


def _event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(settings: Settings, on_ready: Callable[[dict[str, Address]], None]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_unhandled)
    signals = _Signals(loop)
    server = Server(settings)
    addresses = await server.start()
    if not signals.first.is_set():
        log(_logger, logging.INFO, "ready", event_loop=type(loop).__module__, **addresses)
        on_ready(addresses)
        await signals.first.wait()
    draining = asyncio.create_task(server.stop())
    impatience = asyncio.create_task(signals.second.wait())
    await asyncio.wait({draining, impatience}, return_when=asyncio.FIRST_COMPLETED)
    impatience.cancel()
    if not draining.done():
        log(_logger, logging.WARNING, "drain_cut_short")
        await server.hurry()
    await draining


class _Signals:
    """The first and the second SIGTERM or SIGINT."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._receive, number)

    def _receive(self, number: signal.Signals) -> None:
        log(_logger, logging.INFO, "signal", name=number.name)
        (self.second if self.first.is_set() else self.first).set()


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:  # noqa: ARG001
    log(
        _logger,
        logging.ERROR,
        "unhandled_error",
        message=context.get("message", ""),
        exception=context.get("exception"),
    )
