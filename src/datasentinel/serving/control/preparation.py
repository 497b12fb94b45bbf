"""Artifacts on their way to being served: read, tried and loaded, or given up with a reason."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from datasentinel.artifact import CONFIG_FILE, MODEL_FILE
from datasentinel.errors import ArtifactError, DataSentinelError
from datasentinel.serving import threads
from datasentinel.serving.control.loading import load_and_warm_up
from datasentinel.serving.logs import log
from datasentinel.serving.stamps import Stamp, stamp_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from datasentinel.artifact import Artifact
    from datasentinel.detector import Detector
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.shadows import Shadow

_logger = logging.getLogger(__name__)

Stamps: TypeAlias = "tuple[Stamp, ...]"  # Of an artifact's files.


def stamps_of(folder: Path) -> Stamps:
    """Return what an artifact's files are now."""
    return tuple(stamp_of(folder / name) for name in (CONFIG_FILE, MODEL_FILE))


@dataclass(frozen=True, slots=True)
class Served:
    """An artifact that is served, and what its files were when it was read."""

    name: str
    version: str
    stamps: Stamps


@dataclass(frozen=True, slots=True)
class Failure:
    """An artifact that cannot be served: why, and what its files were then."""

    name: str
    stamps: Stamps
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """An artifact to be served; without a detector it is served already and stays as it is."""

    folder: Path
    stamps: Stamps
    detector: Detector | None = None


@dataclass(slots=True)
class Pending:
    """Artifacts to be served as soon as the last of them is warm."""

    candidates: list[Candidate]
    version: str
    shadow: Shadow


class Preparation:
    """Loads artifacts, and remembers which of them failed.

    Parameters
    ----------
    root : Path
        The repository.
    plane : DataPlane
        Whose failed reloads are counted.
    load, try_to_load, load_timeout_s
        As for `ModelRepository`.
    alone : bool
        Whether nothing else is served, or would be, if a model ended the process.

    Attributes
    ----------
    alone : bool
    failures : dict of Path to Failure
    """

    def __init__(
        self,
        root: Path,
        plane: DataPlane,
        load: Callable[[Artifact], Detector],
        try_to_load: Callable[[Path], Awaitable[None]] | None,
        load_timeout_s: float,
        *,
        alone: bool,
    ) -> None:
        self.alone = alone
        self.failures: dict[Path, Failure] = {}
        self._root = root
        self._plane = plane
        self._load = load
        self._try_to_load = try_to_load
        self._load_timeout_s = load_timeout_s

    async def prepare(self, name: str, folder: Path, stamps: Stamps) -> Detector:
        """Load, check and warm up; what fails is reported, and not tried again as it is.

        Raises
        ------
        DataSentinelError
            What failed; whatever else a broken artifact made others raise has become an ArtifactError.
        """
        failure = self.failures.get(folder)
        if failure is not None and failure.stamps == stamps:
            raise ArtifactError(failure.reason)
        try:
            detector = await self._load_carefully(folder)
        except Exception as error:  # An artifact of somebody else's must not end the watch over the others.
            reason = str(error) if isinstance(error, DataSentinelError | OSError) else repr(error)
            self.note_failure(name, folder, stamps, reason)
            if isinstance(error, DataSentinelError):
                raise
            raise ArtifactError(reason) from error
        self.failures.pop(folder, None)
        return detector

    def note_failure(self, name: str, folder: Path, stamps: Stamps, reason: str) -> None:
        """Report an artifact that cannot be served; it is not tried again as it is."""
        self.failures[folder] = Failure(name, stamps, reason)
        self._plane.reloads["failed"] += 1
        log(_logger, logging.ERROR, "model_not_loaded", name=name, directory=folder, reason=reason)

    async def _load_carefully(self, folder: Path) -> Detector:
        if self._try_to_load is not None and not self.alone:
            await self._try_to_load(folder)
        loading = threads.finish(lambda: load_and_warm_up(folder, self._root, self._load), "load-model")
        try:
            return await asyncio.wait_for(loading, self._load_timeout_s or None)
        except TimeoutError:
            raise ArtifactError(
                f"{folder}: had not loaded after {self._load_timeout_s:g} s, and was given up; "
                "see --load-timeout-s"
            ) from None
