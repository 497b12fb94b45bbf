"""The page of Prometheus metrics: written when it is asked for, but not too often, for all workers.

What writes it takes some MiB and a moment to import, so that is left until somebody asks.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from functools import cached_property, partial
from time import monotonic
from typing import TYPE_CHECKING, cast

from datasentinel.serving import threads
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.registry import Collector

    from datasentinel.serving.board import Board
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard

_logger = logging.getLogger(__name__)

# The page takes milliseconds of the event loop. Anew it is written so often, after as many times at once; who
# asks for more, or floods the server, gets the last one.
_PAGES_PER_S = 10.0
_PAGES_AT_ONCE = 10.0


class Metrics:
    """The metrics of one server, in a registry of their own.

    Parameters
    ----------
    plane : DataPlane
        Where the counters are.
    board : Board, optional
        Where the other workers' metrics are.
    guard : Guard, optional
        Who counts failed logins.

    Attributes
    ----------
    is_prepared : bool
        Whether `render` can be called without a wait: `prepare` has imported what it needs.
    """

    def __init__(self, plane: DataPlane, board: Board | None = None, guard: Guard | None = None) -> None:
        self._plane = plane
        self._board = board
        self._guard = guard
        self.is_prepared = False
        self._pages: dict[str, bytes] = {}  # The last ones, by content type.
        self._pages_left = _PAGES_AT_ONCE
        self._looked_s = monotonic()

    @cached_property
    def _registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

        from datasentinel.serving.control.collectors import (
            DataPlaneCollector,
            GuardCollector,
            WorkerCollector,
        )

        registry = CollectorRegistry()
        registry.register(DataPlaneCollector(self._plane))
        if self._guard is not None:
            registry.register(GuardCollector(self._guard))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        if self._board is not None:
            registry.register(WorkerCollector(self._board))
        return registry

    def register(self, collector: Collector) -> None:
        """Export the metrics of one more collector as well."""
        self._registry.register(collector)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the whole server."""
        own = self._registry.collect()
        return own if self._board is None else self._board.combine(own)

    async def post_for_ever(self) -> None:
        """Post this worker's metrics on the board until cancelled, and then once more."""
        from datasentinel.serving.board import POST_INTERVAL_S

        assert self._board is not None  # noqa: S101
        try:
            while True:
                self._post()
                await asyncio.sleep(POST_INTERVAL_S)
        finally:
            self._post()

    def _post(self) -> None:
        assert self._board is not None  # noqa: S101
        try:
            self._board.post(self._registry.collect())
        except Exception as error:  # whatever it was, the next post may work
            log(_logger, logging.ERROR, "metrics_not_posted", exception=error)

    async def prepare(self) -> None:
        """Import what writes the metrics, off the event loop, when they are first asked for."""
        if not self.is_prepared:
            collectors = f"{__package__}.collectors"
            await threads.finish(partial(importlib.import_module, collectors), "import-metrics")
            self.is_prepared = True

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write all metrics, as of now or a moment ago, in the text format that an `Accept` header asks for.

        Returns
        -------
        body : bytes
        content_type : str
        """
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        now_s = monotonic()
        self._pages_left = min(_PAGES_AT_ONCE, self._pages_left + _PAGES_PER_S * (now_s - self._looked_s))
        self._looked_s = now_s
        if self._pages_left >= 1 or content_type not in self._pages:
            self._pages_left -= 1
            self._pages[content_type] = encode(cast("CollectorRegistry", self))
        return self._pages[content_type], content_type
