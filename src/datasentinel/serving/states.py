"""The states of the streams of all models: made as models come, kept over reloads and restarts."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from datasentinel.errors import ArtifactError, InvalidInputError, SettingsError
from datasentinel.serving.logs import log
from datasentinel.stream_snapshot import restore_states, save_states
from datasentinel.streams import rules_of, store_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from datasentinel.backend import StateStore, StreamRules
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
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(f"stream_snapshot: {self._folder}: {error.strerror or error}") from error

    def __iter__(self) -> Iterator[ModelStreams]:
        """Iterate over the streams of each model with memory."""
        return iter(self._kept.values())

    def of(self, name: str, detector: Detector) -> ModelStreams | None:
        """Return the streams that a model of this name goes on with; None for one without memory.

        They are those of the same graph under that name, or what a snapshot holds of them, or none yet:
        another graph's states would mean something else.
        """
        if not detector.scorer.state_dim:
            return None
        config = detector.artifact.config
        key = (name, detector.artifact.sha256, bool(config.first_values))
        streams = self._kept.get(key)
        if streams is None:
            store = store_for(
                detector,
                max_streams=self._settings.max_streams,
                max_bytes=self._settings.stream_memory_mib << 20,
            )
            streams = self._kept[key] = ModelStreams(*key, store)
            self._restore(streams, rules_of(config))
        return streams

    def keep_only(self, used: Collection[ModelStreams]) -> None:
        """Drop the streams of graphs that are served no longer."""
        self._kept = {key: streams for key, streams in self._kept.items() if streams in used}

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
                count = await asyncio.to_thread(save_states, streams.store, streams.sha256, path)
            except InvalidInputError as error:
                log(_logger, logging.ERROR, "streams_not_saved", name=streams.name, reason=error)
            else:
                log(_logger, logging.DEBUG, "streams_saved", name=streams.name, streams=count, path=path)

    def _restore(self, streams: ModelStreams, rules: StreamRules) -> None:
        if self._folder is None or not (path := self._folder / streams.file_name).exists():
            return
        try:
            count = restore_states(streams.store, rules, streams.sha256, path)
        except ArtifactError as error:
            log(_logger, logging.ERROR, "streams_not_restored", name=streams.name, reason=error)
        else:
            log(_logger, logging.INFO, "streams_restored", name=streams.name, streams=count, path=path)
