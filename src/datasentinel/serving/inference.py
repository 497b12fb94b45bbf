"""The native inference service on an event loop: what its queue has scored goes back to whose it is."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from datasentinel.backend import InferenceService

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.backend import ModelTable
    from datasentinel.serving.settings import Settings

_QUEUE_THREADS = 1


class Inference:
    """The inference service that the connections of all transports share.

    Parameters
    ----------
    models : ModelTable
    settings : Settings
        Their `max_inline_us`, `memory_mib`, `queue_rows` and `max_queue_delay_us`.

    Attributes
    ----------
    native : InferenceService
    """

    def __init__(self, models: ModelTable, settings: Settings) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.native = InferenceService(
            models,
            max_inline_us=settings.max_inline_us,
            memory_bytes=settings.memory_mib << 20,
            queue_rows=settings.queue_rows,
            max_queue_delay_us=settings.max_queue_delay_us,
            queue_threads=_QUEUE_THREADS,
            wake_descriptor=self._descriptor,
        )
        self._wakes: dict[int, Callable[[], None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self, number: int, wake: Callable[[], None]) -> None:
        """Call `wake` whenever the session of this number may have something to send."""
        self._wakes[number] = wake
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._descriptor, self._collect)

    def leave(self, number: int) -> None:
        """Forget a session."""
        self._wakes.pop(number, None)
        if not self._wakes and self._loop is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)
            self._loop = None

    def _collect(self) -> None:
        os.eventfd_read(self._descriptor)
        for number in self.native.collect():
            if (wake := self._wakes.get(number)) is not None:
                wake()

    def __del__(self) -> None:
        os.close(self._descriptor)
