"""One process that serves: its event loop, the signals it gets, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from datasentinel import tasks
from datasentinel.serving import threads
from datasentinel.serving.descriptors import report_shortage, within_descriptors
from datasentinel.serving.logs import log
from datasentinel.serving.server import Server
from datasentinel.serving.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datasentinel.serving.board import Board
    from datasentinel.serving.control.metrics import Metrics
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.server import Transport
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)

_HURRY_S = 1.0  # What a stop that was cut short still gets, and what outlives a stop.
_OVERDUE_S = 30.0  # Beyond the drain timeout a stop takes no longer, whatever it waits for.


def serve(
    settings: Settings,
    on_ready: Callable[[Mapping[str, object]], None],
    *,
    board: Board | None = None,
    lifeline: int | None = None,
    make_transport: Callable[[DataPlane, Metrics], Transport] | None = None,
) -> None:
    """Serve in this process, whose logging is set up, until SIGTERM or SIGINT.

    Parameters
    ----------
    settings : Settings
    on_ready : callable
        Called once with the addresses, when every transport listens.
    board : Board, optional
        Of one of several workers.
    lifeline : int, optional
        A file descriptor of a pipe that a supervisor holds open; the server stops when it ends, too.
    make_transport : callable, optional
        As for `Server`.

    Raises
    ------
    DataSentinelError
        As for `Server.start`.
    """
    with asyncio.Runner(loop_factory=_event_loop_factory()) as runner:
        server = Server(within_descriptors(settings), board, make_transport)
        runner.run(_serve(server, on_ready, lifeline, settings.drain_timeout_s + _OVERDUE_S))


def _event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    server: Server,
    on_ready: Callable[[Mapping[str, object]], None],
    lifeline: int | None,
    stop_timeout_s: float,
) -> None:
    # Modules stay: a collection that looked through them each time would hold up every client for 15 ms.
    gc.freeze()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_unhandled)
    signals = Signals(loop)
    signals.on_hangup(server.reload)
    if lifeline is not None:
        loop.add_reader(lifeline, _watch_lifeline, loop, lifeline, signals)
    starting = asyncio.create_task(server.start())
    stopping = asyncio.create_task(signals.first.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        addresses = starting.result()
        log(_logger, logging.INFO, "ready", event_loop=type(loop).__module__, **addresses)
        on_ready(addresses)
        await stopping
    await _stop(server, starting, signals, stop_timeout_s)
    if not await _nothing_is_left():
        _end_process(0)


async def _stop(server: Server, starting: asyncio.Task[Any], signals: Signals, timeout_s: float) -> None:
    """Stop the server; the second wish to stop, or a stop that takes too long, ends the process."""
    draining = asyncio.create_task(_wind_up(server, starting))
    impatience = asyncio.create_task(signals.second.wait())
    await asyncio.wait({draining, impatience}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    reason = "signal" if impatience.done() else "overdue"
    await tasks.end(impatience)
    if not draining.done():
        log(_logger, logging.WARNING, "drain_cut_short", reason=reason)
        await tasks.within(_HURRY_S, server.hurry(), asyncio.wait({draining}))
        if not draining.done():
            _report_tasks(asyncio.all_tasks() - {asyncio.current_task()})
            _end_process(1)
    draining.result()


async def _wind_up(server: Server, starting: asyncio.Task[Any]) -> None:
    """Stop a server, be it that it has started or that it still starts."""
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
    if not starting.cancelled():
        starting.result()
    await server.stop()


async def _nothing_is_left() -> bool:
    """Return whether all tasks and threads have ended; what has not, the event loop's end would wait for."""
    loop = asyncio.get_running_loop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    _report_tasks(left)
    ending = asyncio.create_task(loop.shutdown_default_executor())
    for task in left:
        task.cancel()
    _, stuck = await asyncio.wait({*left, ending}, timeout=_HURRY_S)
    return not (stuck or threads.are_left())


def _end_process(code: int) -> None:
    logging.shutdown()
    os._exit(code)


def _report_tasks(left: set[Any]) -> None:
    """Log the tasks that outlive the server: each one is a defect."""
    if left:
        log(_logger, logging.WARNING, "tasks_left", tasks=list(map(repr, left)))


def _watch_lifeline(loop: asyncio.AbstractEventLoop, lifeline: int, signals: Signals) -> None:
    if os.read(lifeline, 1) == b"":
        loop.remove_reader(lifeline)
        log(_logger, logging.WARNING, "supervisor_gone")
        signals.stop()


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG001
    exception = context.get("exception")
    if not report_shortage(exception):
        message = context.get("message", "")
        log(_logger, logging.ERROR, "unhandled_error", message=message, exception=exception)
