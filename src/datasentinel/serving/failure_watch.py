"""One log line for every backend that fails while it serves; the next one answers meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from datasentinel.serving.models import ServedModels

_logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
# How a plan's facts begin where one of its backends has failed.
_FAILED = "failed while serving"


class FailureWatch:
    """Looks at the backends of all models that are served.

    Parameters
    ----------
    served : ServedModels
    """

    def __init__(self, served: ServedModels) -> None:
        self._served = served
        self._told: set[tuple[int, str]] = set()

    def look(self) -> None:
        """Log the failures that have not been logged yet."""
        failures: dict[tuple[int, str], dict[str, object]] = {}
        for model in self._served.all():
            for name, fact in model.detector.scorer.facts.items():
                if fact.startswith(_FAILED):
                    failures[id(model), name] = {
                        "model": model.name,
                        "version": model.version,
                        "reason": fact,
                    }
        for key, fields in failures.items():
            if key not in self._told:
                log(_logger, logging.WARNING, "backend_failed", backend=key[1], **fields)
        # Of models that are gone nothing is remembered.
        self._told = set(failures)

    async def for_ever(self) -> None:
        """Poll until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_INTERVAL_S)
