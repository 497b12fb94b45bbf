"""A training runs in a process of its own: scoring goes on beside it, and the end of the watch ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING, Protocol

from datasentinel.distributed.prometheus.client import PrometheusClient
from datasentinel.distributed.prometheus.fitting import fit
from datasentinel.errors import DataError, DataSentinelError
from datasentinel.serving.exit_codes import in_words

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from datasentinel.distributed.prometheus.config import Endpoint, Model

# How long a process that has trained may take to end.
_LAST_S = 10.0


class Training(Protocol):
    """A training under way."""

    def is_over(self) -> bool:
        """Return whether `result` does not wait."""

    def result(self) -> None:
        """Wait for the end; raise what `fit` raised."""

    def cancel(self) -> None:
        """End it."""


class TrainingProcess:
    """Runs `fit`, whose model is then in the directory.

    Parameters
    ----------
    source : Endpoint
    model : Model
    directory : Path
    last : int
        The number of the last moment to train on.
    """

    def __init__(self, source: Endpoint, model: Model, directory: Path, last: int) -> None:
        # A fork would take this process's threads along, half-way in whatever they do.
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_train, args=(sender, source, model, directory, last), daemon=True
        )
        self._process.start()
        sender.close()

    def is_over(self) -> bool:
        """Return whether `result` does not wait."""
        return self._receiver.poll()

    def result(self) -> None:
        """Wait for the end.

        Raises
        ------
        DataSentinelError
            What `fit` raised.
        DataError
            The process died, as when memory runs out.
        """
        try:
            error: DataSentinelError | None = self._receiver.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode or 0
            raise DataError(f"the training's process ended: {in_words(code)}") from None
        finally:
            self._receiver.close()
        self._process.join(_LAST_S)
        self._process.kill()  # What it was for is done.
        self._process.join()
        if error is not None:
            raise error

    def cancel(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._receiver.close()


def _train(sender: Connection, source: Endpoint, model: Model, directory: Path, last: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the watch, which ends this process.
    threading.Thread(target=_end_with_the_watch, daemon=True).start()
    error: DataSentinelError | None = None
    try:
        fit(PrometheusClient(source), model, directory, last)
    except DataSentinelError as raised:
        error = raised
    sender.send(error)


def _end_with_the_watch() -> None:
    """Leave nothing behind where the watch is killed and cannot end this process."""
    watch = multiprocessing.parent_process()
    assert watch is not None  # noqa: S101
    watch.join()
    os._exit(1)
