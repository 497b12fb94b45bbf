"""One process that serves: its event loop, the signals it gets, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

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

_HURRY_S = 0.5  # What a stop that was cut short still gets.


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
        runner.run(_serve(server, on_ready, lifeline))


def _event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    server: Server, on_ready: Callable[[Mapping[str, object]], None], lifeline: int | None
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_unhandled)
    signals = Signals(loop)
    signals.on_hangup(server.reload)
    if lifeline is not None:
        loop.add_reader(lifeline, _watch_lifeline, loop, lifeline, signals)
    starting = asyncio.create_task(server.start())
    stopping = asyncio.create_task(signals.first.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        starting.cancel()
    await asyncio.wait({starting})
    if not starting.cancelled():
        addresses = starting.result()
        if not stopping.done():
            log(_logger, logging.INFO, "ready", event_loop=type(loop).__module__, **addresses)
            on_ready(addresses)
        await stopping
    await _stop(server, signals)
    _report_stuck_tasks()


async def _stop(server: Server, signals: Signals) -> None:
    """Stop the server; the second wish to stop, or a thread whose work never ends, ends the process."""
    draining = asyncio.create_task(server.stop())
    impatience = asyncio.create_task(signals.second.wait())
    await asyncio.wait({draining, impatience}, return_when=asyncio.FIRST_COMPLETED)
    impatience.cancel()
    await asyncio.wait({impatience})
    if not draining.done():
        log(_logger, logging.WARNING, "drain_cut_short")
        await server.hurry()
        await asyncio.wait({draining}, timeout=_HURRY_S)
        if not draining.done():
            _end_process(1)
    draining.result()
    if threads.are_left():
        _end_process(0)


def _end_process(code: int) -> None:
    logging.shutdown()
    os._exit(code)


def _report_stuck_tasks() -> None:
    """Log the tasks that outlived the server: each one is a defect."""
    stuck = asyncio.all_tasks() - {asyncio.current_task()}
    names = [str(task.get_coro()) for task in stuck if not task.done()]
    if names:
        log(_logger, logging.WARNING, "tasks_left", tasks=names)


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
