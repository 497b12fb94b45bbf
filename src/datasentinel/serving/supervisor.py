"""Several workers on the same ports: start them, keep them alive, pass signals on, stop them together.

Each worker is a process of its own with its own event loop; the kernel spreads connections over them
(SO_REUSEPORT). The supervisor serves nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasentinel.errors import ServerError
from datasentinel.serving.connections.addresses import Address, bound_socket, listening_socket, resolve
from datasentinel.serving.exit_codes import in_words
from datasentinel.serving.logs import log
from datasentinel.serving.signals import Signals
from datasentinel.serving.worker import HEARTBEAT_S, READY, to_argument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 30.0
_STABLE_S = 10.0  # A worker that was ready for so long starts again without a wait.
_KILL_AFTER_S = 5.0  # Beyond the drain timeout.
_HURRY_S = 2.0  # What workers get after the second wish to stop.


def supervise(settings: Settings, on_ready: Callable[[Mapping[str, object]], None]) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT. SIGHUP is passed on.

    Parameters
    ----------
    settings : Settings
    on_ready : callable
        Called once with the addresses, when every worker is ready.

    Raises
    ------
    ServerError
        An address cannot be bound, a worker could not start, or one did not stop as it should.
    """
    with ExitStack() as stack:
        addresses = _reserve_ports(settings, stack)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="datasentinel-"))
        ports: dict[str, Any] = {f"{name}_port": address.port for name, address in addresses.items()}
        supervisor = _Supervisor(replace(settings, **ports), Path(folder))
        asyncio.run(supervisor.run(lambda: on_ready(addresses)))


def _reserve_ports(settings: Settings, stack: ExitStack) -> dict[str, Address]:
    """Bind every port, without listening, for as long as the stack lasts; a free one is chosen once."""
    addresses = {}
    for name, port in settings.ports.items():
        address = resolve(settings.host, port, name)
        # Where ports are shared, only a socket that does not share finds out that another program listens.
        listening_socket(address, name).close()
        sock = stack.enter_context(bound_socket(address, name, reuse_port=True))
        addresses[name] = Address(address.host, sock.getsockname()[1])
    return addresses


@dataclass
class _Worker:
    """A place for a worker, and the process that fills it now."""

    number: int
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class _Supervisor:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._workers = [_Worker(number) for number in range(settings.workers)]
        self._started = False  # Every worker was ready once.
        self._stopping = asyncio.Event()

    async def run(self, on_ready: Callable[[], None]) -> None:
        signals = Signals(asyncio.get_running_loop())
        signals.on_hangup(self._pass_on_hangup)
        keepers: list[asyncio.Task[None]] = []
        try:
            # The first one alone: it measures the backends undisturbed, and the others follow its plan.
            for workers in (self._workers[:1], self._workers[1:]):
                keepers += [asyncio.create_task(self._keep(worker)) for worker in workers]
                if not await self._all_ready(workers, keepers, signals):
                    break
            else:
                self._started = True
                log(_logger, logging.INFO, "workers_ready", workers=len(self._workers))
                on_ready()
                await signals.first.wait()
        finally:
            await self._stop(keepers, signals)

    async def _all_ready(
        self, workers: list[_Worker], keepers: list[asyncio.Task[None]], signals: Signals
    ) -> bool:
        """Wait until these workers are ready; False when a signal came first.

        Raises
        ------
        ServerError
            A worker could not start.
        """
        ready: asyncio.Future[Any] = asyncio.gather(*(worker.ready.wait() for worker in workers))
        stop: asyncio.Future[Any] = asyncio.create_task(signals.first.wait())
        await asyncio.wait([ready, stop, *keepers], return_when=asyncio.FIRST_COMPLETED)
        done = ready.done()
        ready.cancel()
        stop.cancel()
        await asyncio.gather(ready, stop, return_exceptions=True)
        for keeper in keepers:
            if keeper.done():
                keeper.result()
        return done

    async def _keep(self, worker: _Worker) -> None:
        """Start a worker again and again until all are to stop.

        Raises
        ------
        ServerError
            It ended before the server had started, or did not end well when it was told to.
        """
        loop = asyncio.get_running_loop()
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            started_s = loop.time()
            code = await self._run_once(worker)
            if self._stopping.is_set():
                # One that the signal ended outright had not begun to serve: it would have drained.
                if code not in (0, -signal.SIGTERM):
                    raise ServerError(f"worker {worker.number} did not stop well: {in_words(code)}")
                return
            if not self._started:
                raise ServerError(f"worker {worker.number} could not start: {in_words(code)}")
            if loop.time() - started_s >= _STABLE_S:
                backoff_s = _FIRST_BACKOFF_S
            log(
                _logger,
                logging.ERROR,
                "worker_died",
                worker=worker.number,
                reason=in_words(code),
                restart_in_s=backoff_s,
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)

    async def _run_once(self, worker: _Worker) -> int:
        """Start a worker and wait for its end; return its exit code, or minus the signal's number."""
        warning_flags = [f"-W{option}" for option in sys.warnoptions]
        argument = to_argument(self._settings, self._folder, worker.number)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *warning_flags, "-m", "datasentinel.serving.worker", argument),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C goes to the supervisor alone, which passes it on once.
        )
        worker.process = process
        log(_logger, logging.INFO, "worker_started", worker=worker.number, pid=process.pid)
        if self._stopping.is_set():
            worker.send(signal.SIGTERM)
        assert process.stdout is not None  # noqa: S101
        try:
            while line := await self._next_line(worker, process.stdout):
                if line == READY:
                    worker.ready.set()
            return await process.wait()
        finally:
            worker.ready.clear()
            worker.process = None

    async def _next_line(self, worker: _Worker, stdout: asyncio.StreamReader) -> bytes:
        """Wait for a worker's next line; one that is ready and says nothing for too long is killed."""
        timeout_s = self._settings.worker_timeout_s
        watched = timeout_s and worker.ready.is_set() and not self._stopping.is_set()
        try:
            return await asyncio.wait_for(
                stdout.readline(), max(timeout_s, 2 * HEARTBEAT_S) if watched else None
            )
        except TimeoutError:
            if not self._stopping.is_set():
                log(_logger, logging.ERROR, "worker_hung", worker=worker.number, timeout_s=timeout_s)
                worker.send(signal.SIGKILL)
            return await stdout.readline()

    async def _stop(self, keepers: list[asyncio.Task[None]], signals: Signals) -> None:
        """Stop all workers together.

        Raises
        ------
        ServerError
            One did not stop well.
        """
        self._stopping.set()
        self._send_all(signal.SIGTERM)
        impatience = asyncio.create_task(self._hurry(signals))
        if keepers:
            timeout_s = self._settings.drain_timeout_s + _KILL_AFTER_S
            _, stuck = await asyncio.wait(keepers, timeout=timeout_s)
            if stuck:
                log(_logger, logging.ERROR, "workers_killed", workers=len(stuck), timeout_s=timeout_s)
                self._send_all(signal.SIGKILL)
                await asyncio.wait(stuck)
        impatience.cancel()
        log(_logger, logging.INFO, "supervisor_stopped")
        errors = [error for keeper in keepers if (error := keeper.exception()) is not None]
        if errors:
            raise errors[0]

    async def _hurry(self, signals: Signals) -> None:
        await signals.second.wait()
        self._send_all(signal.SIGTERM)
        await asyncio.sleep(_HURRY_S)
        self._send_all(signal.SIGKILL)

    def _send_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.send(number)

    def _pass_on_hangup(self) -> None:
        # One that is not ready reads everything anew anyway, and might not know the signal yet.
        for worker in self._workers:
            if worker.ready.is_set():
                worker.send(signal.SIGHUP)
