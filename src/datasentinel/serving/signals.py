"""The signals that stop a server or make it read its files again."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(__name__)


class Signals:
    """The first and the second SIGTERM or SIGINT, and every SIGHUP.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop

    Attributes
    ----------
    first, second : asyncio.Event
        Set when the first and the second wish to stop arrive.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = loop
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._receive, number)

    def on_hangup(self, reload: Callable[[], None]) -> None:
        """Call `reload` on every SIGHUP, which would end the process otherwise."""
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up, reload)

    def stop(self) -> None:
        """Wish to stop, as the signals do."""
        (self.second if self.first.is_set() else self.first).set()

    def _receive(self, number: signal.Signals) -> None:
        log(_logger, logging.INFO, "signal", name=number.name)
        self.stop()

    def _hang_up(self, reload: Callable[[], None]) -> None:
        log(_logger, logging.INFO, "signal", name=signal.SIGHUP.name)
        reload()
