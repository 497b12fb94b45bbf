"""Runs all models of a configuration until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from datasentinel.distributed.prometheus.client import Grid, PrometheusClient, ServerUnreachableError
from datasentinel.distributed.prometheus.exposition import ExpositionServer, ScoreBoard
from datasentinel.distributed.prometheus.remote_write import RemoteWriter
from datasentinel.distributed.prometheus.training_process import TrainingProcess
from datasentinel.distributed.prometheus.watcher import Watcher
from datasentinel.errors import MissingDependencyError, ServerError
from datasentinel.serving.logs import log
from datasentinel.serving.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from datasentinel.distributed.prometheus.config import Model, WatchConfig
    from datasentinel.distributed.prometheus.publishing import Publisher

_logger = logging.getLogger(__name__)
# While a training runs, how often its end is looked for.
_TRAINING_LOOK_S = 0.5
# How long a model is left alone after an unexpected error.
_AFTER_FAULT_S = 10.0
# Scores are published for so many looks at the server after the last one that went well.
_FRESH_LOOKS = 3


def watch(config: WatchConfig, *, once: bool = False, on_ready: Callable[[str], None] | None = None) -> None:
    """Watch until SIGTERM or Ctrl-C.

    Parameters
    ----------
    config : WatchConfig
    once : bool
        Train what is to be trained, score what is due, and return.
    on_ready : callable, optional
        Called with the address of the scores, once they can be scraped.

    Raises
    ------
    DataError
        The server refuses a query.
    ServerError
        The port for scraping is taken, or another watch uses the directory; with `once`, also if anything
        failed.
    MissingDependencyError
        A package of the extra `prometheus`, or, to train, of `train` is not installed.
    """
    with _sole_user_of(config.directory):
        _run(config, once=once, on_ready=on_ready)


def _run(config: WatchConfig, *, once: bool, on_ready: Callable[[str], None] | None) -> None:
    stop = threading.Event()
    client = PrometheusClient(config.source, stop)
    board = ScoreBoard(
        {model.name: _FRESH_LOOKS * model.infer_every + model.offset for model in config.models}
    )
    publishers: list[Publisher] = [board]
    if config.remote_write is not None:
        publishers.insert(0, RemoteWriter(config.remote_write, stop))
    watchers = [
        Watcher(
            model,
            client=client,
            publishers=publishers,
            account=board.accounts[model.name],
            directory=config.directory,
            start_training=functools.partial(_start_training, config),
            stop=stop,
        )
        for model in config.models
    ]
    for watcher in watchers:
        watcher.resume(time.time())
    if once:
        _once(watchers)
        return
    _check_queries(client, config)
    with contextlib.ExitStack() as stack:
        if config.exposition.enabled:
            server = ExpositionServer(config.exposition, board)
            stack.callback(server.close)
            if on_ready is not None:
                on_ready(server.address)
        for watcher in watchers:
            stack.callback(watcher.close)
        asyncio.run(_until_signalled(stop, lambda: _look_for_ever(watchers, stop)))


def _start_training(config: WatchConfig, model: Model, last: int) -> TrainingProcess:
    return TrainingProcess(config.source, model, config.directory, last)


def _look_for_ever(watchers: list[Watcher], stop: threading.Event) -> None:
    """Look after each model in a thread of its own, so that none waits until another has caught up."""
    with ThreadPoolExecutor(len(watchers), "watch") as pool:
        looking = [pool.submit(_look_after, watcher, stop) for watcher in watchers]
        try:
            for ended in as_completed(looking):
                ended.result()
        finally:
            stop.set()


def _look_after(watcher: Watcher, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            watcher.look(time.time())
        except MissingDependencyError:
            raise  # Time will not help.
        except Exception as error:  # an internal error: one model's is no reason to leave the others alone
            watcher.fail("look", error)
            stop.wait(_AFTER_FAULT_S)
        stop.wait(_pause_s(watcher))


async def _until_signalled(stop: threading.Event, work: Callable[[], None]) -> None:
    """Do the work in a thread, and wish it to stop at SIGTERM or Ctrl-C."""
    signals = Signals(asyncio.get_running_loop())
    working = asyncio.create_task(asyncio.to_thread(work))
    signalled = asyncio.create_task(signals.first.wait())
    await asyncio.wait({working, signalled}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    signalled.cancel()
    await working


@contextlib.contextmanager
def _sole_user_of(directory: Path) -> Iterator[None]:
    """Keep others from a directory, whose states two would spoil."""
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((directory / ".lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError(f"{directory}: another watch uses this directory") from None
        except OSError as error:
            raise ServerError(f"{directory}: cannot be used: {error.strerror or error}") from error
        yield


def _once(watchers: list[Watcher]) -> None:
    now_s = time.time()
    for watcher in watchers:
        watcher.fit_now(now_s)
    scored = [watcher.score(now_s) for watcher in watchers]
    if not all(scored):
        raise ServerError("not all that is due could be scored; the log says why")


def _pause_s(watcher: Watcher) -> float:
    return _TRAINING_LOOK_S if watcher.is_training else max(0.0, watcher.due_s - time.time())


def _check_queries(client: PrometheusClient, config: WatchConfig) -> None:
    """Fail at once where a query is wrong; a server that is away may come."""
    for model in config.models:
        grid = Grid(model.step, int(time.time() / model.step), 1)
        for query in model.queries.values():
            try:
                client.query_range(query, grid)
            except ServerUnreachableError as error:
                log(_logger, logging.WARNING, "source_unreachable", reason=str(error))
                return
