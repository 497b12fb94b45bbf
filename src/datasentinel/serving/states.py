"""The states of the streams of all models: made as models come, kept over reloads and restarts."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from datasentinel.errors import ArtifactError, InvalidInputError, SettingsError
from datasentinel.serving import threads
from datasentinel.serving.logs import log
from datasentinel.stream_snapshot import restore_states, save_states
from datasentinel.streams import rules_of, store_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from datasentinel.backend import StateStore
    from datasentinel.detector import Detector
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)

_MAX_NAME_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class ModelStreams:
    """The streams of a model, and of all its versions whose states mean the same.

    They go on by the rules of the version that scores their next row.

    Attributes
    ----------
    name : str
    sha256 : str
        Of the graph.
    carries : bool
        Whether what is missing is carried, and so kept beside the state.
    store : StateStore
    """

    name: str
    sha256: str
    carries: bool
    store: StateStore = field(compare=False)

    @property
    def file_name(self) -> str:
        """Where a snapshot of them goes."""
        kind = "-carried" if self.carries else ""
        return f"{quote(self.name, safe='')[:_MAX_NAME_CHARACTERS]}-{self.sha256[:16]}{kind}.streams"


class StreamStates:
    """Makes and keeps the stores of states; used on the event loop only.

    Parameters
    ----------
    settings : Settings
        Their `max_streams`, `stream_memory_mib`, `stream_snapshot` and `stream_snapshot_interval_s`.

    Raises
    ------
    SettingsError
        The folder of snapshots cannot be made.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Path(settings.stream_snapshot) if settings.stream_snapshot else None
        self._kept: dict[tuple[str, str, bool], ModelStreams] = {}
        self._restored: dict[tuple[str, str, bool], ModelStreams] = {}  # Of models about to be served.
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(f"stream_snapshot: {self._folder}: {error.strerror or error}") from error

    def __iter__(self) -> Iterator[ModelStreams]:
        """Iterate over the streams of each model with memory."""
        return iter(self._kept.values())

    async def restore(self, name: str, detector: Detector) -> None:
        """Read what a snapshot holds for a model that is about to be served, off the event loop.

        What cannot be read is reported, and its streams start over.
        """
        key = _key(name, detector)
        if self._folder is None or not detector.scorer.state_dim or key in self._kept:
            return
        self._restored.pop(key, None)
        streams = self._make(key, detector)
        path, rules = self._folder / streams.file_name, rules_of(detector.artifact.config)

        def read() -> int | None:
            return restore_states(streams.store, rules, streams.sha256, path) if path.exists() else None

        try:
            count = await threads.finish(read, "read-streams")
        except (ArtifactError, OSError) as error:
            log(_logger, logging.ERROR, "streams_not_restored", name=name, reason=error)
            return
        if count is not None:
            self._restored[key] = streams
            log(_logger, logging.INFO, "streams_restored", name=name, streams=count, path=path)

    def of(self, name: str, detector: Detector) -> ModelStreams | None:
        """Return the streams that a model of this name goes on with; None for one without memory.

        They are those of the same graph under that name, or what `restore` read for it, or none yet: another
        graph's states would mean something else.
        """
        if not detector.scorer.state_dim:
            return None
        key = _key(name, detector)
        if key not in self._kept:
            self._kept[key] = self._restored.get(key) or self._make(key, detector)
        return self._kept[key]

    def forget_restored(self, name: str) -> None:
        """Drop what was read for models of this name that are not served after all."""
        self._restored = {key: streams for key, streams in self._restored.items() if key[0] != name}

    def keep_only(self, used: Collection[ModelStreams]) -> None:
        """Drop the streams of graphs that are served no longer; what was restored stays until it is used."""
        self._kept = {key: streams for key, streams in self._kept.items() if streams in used}
        self._restored = {key: streams for key, streams in self._restored.items() if streams not in used}

    async def save_for_ever(self) -> None:
        """Write a snapshot again and again."""
        while self._folder is not None:
            await asyncio.sleep(self._settings.stream_snapshot_interval_s)
            await self.save()

    async def save(self) -> None:
        """Write a snapshot of each model's streams, off the event loop; report what cannot be written."""
        if self._folder is None:
            return
        for streams in list(self):
            path = self._folder / streams.file_name
            try:
                write = partial(save_states, streams.store, streams.sha256, path)
                count = await threads.finish(write, "write-streams")
            except InvalidInputError as error:
                log(_logger, logging.ERROR, "streams_not_saved", name=streams.name, reason=error)
            else:
                log(_logger, logging.DEBUG, "streams_saved", name=streams.name, streams=count, path=path)

    def _make(self, key: tuple[str, str, bool], detector: Detector) -> ModelStreams:
        settings = self._settings
        max_bytes = settings.stream_memory_mib << 20
        return ModelStreams(*key, store_for(detector, max_streams=settings.max_streams, max_bytes=max_bytes))


def _key(name: str, detector: Detector) -> tuple[str, str, bool]:
    """Return what models must have in common for the states of their streams to mean the same."""
    return name, detector.artifact.sha256, bool(detector.artifact.config.first_values)
