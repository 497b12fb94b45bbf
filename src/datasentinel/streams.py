"""Many streams, one detector with memory: the state of each is kept here between its rows."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from datasentinel.detector import Detector, as_float32_rows
from datasentinel.errors import ArtifactError, InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from datasentinel.types import BoolArray, Float32Array, Int64Array

MAX_STREAMS = 100_000
_FIRST_SLOTS = 64
_SNAPSHOT_VERSION = 1


class Decision(Enum):
    """What a row of a stream is."""

    OK = "OK"
    ANOMALY = "ANOMALY"
    WARMING = "WARMING"  # Too early in its stream to tell.


class StateStore:
    """The states of streams by id, bounded: the one that was used least recently goes first.

    Not thread-safe.

    Parameters
    ----------
    size : int
        Number of values in a state, S.
    max_streams : int
        How many are kept, at least 1.

    Attributes
    ----------
    evicted : int
        How many states were dropped to make room.
    """

    def __init__(self, size: int, max_streams: int = MAX_STREAMS) -> None:
        if max_streams < 1:
            raise InvalidInputError(f"max_streams must be at least 1, got {max_streams}")
        self.size = size
        self.max_streams = max_streams
        self.evicted = 0
        self._slots: OrderedDict[Hashable, int] = OrderedDict()  # The least recently used first.
        self._free: list[int] = []
        self._states = np.zeros((0, size), np.float32)

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self._slots)

    def __contains__(self, stream: Hashable) -> bool:
        """Tell whether the stream has a state."""
        return stream in self._slots

    @property
    def bytes(self) -> int:
        """Memory of the states, in bytes."""
        return self._states.nbytes

    def view(self, stream: Hashable) -> Float32Array:
        """Return a stream's state [1, S] in place: what is written there is kept. A new one is all zeros."""
        slot = self.slots([stream])[0]
        return self._states[slot : slot + 1]

    def take(self, slots: Int64Array) -> Float32Array:
        """Copy the states [N, S] in these slots."""
        states: Float32Array = self._states[slots]
        return states

    def put(self, slots: Int64Array, states: Float32Array) -> None:
        """Write states [N, S] into these slots."""
        self._states[slots] = states

    def slots(self, streams: Sequence[Hashable]) -> Int64Array:
        """Return where the states of different streams, `max_streams` at most, are; new ones are made."""
        return np.array([self._slot(stream) for stream in streams], np.int64)

    def forget(self, stream: Hashable) -> bool:
        """Drop a stream's state; tell whether there was one."""
        slot = self._slots.pop(stream, None)
        if slot is None:
            return False
        self._free.append(slot)
        return True

    def export(self) -> tuple[list[Hashable], Float32Array]:
        """Return all ids, the least recently used first, and their states [N, S]."""
        return list(self._slots), self.take(np.fromiter(self._slots.values(), np.int64, len(self._slots)))

    def _slot(self, stream: Hashable) -> int:
        slot = self._slots.get(stream)
        if slot is None:
            slot = self._new_slot()
            self._states[slot] = 0
            self._slots[stream] = slot
        else:
            self._slots.move_to_end(stream)
        return slot

    def _new_slot(self) -> int:
        if self._free:
            return self._free.pop()
        used = len(self._slots)
        if used == self.max_streams:
            self.evicted += 1
            return self._slots.popitem(last=False)[1]
        if used == len(self._states):
            grown = np.zeros((min(self.max_streams, max(_FIRST_SLOTS, 2 * used)), self.size), np.float32)
            grown[:used] = self._states
            self._states = grown
        return used


class StreamDetector:
    """Scores rows of many streams, each in the context of its own past.

    Thread-safe: one call at a time.

    Parameters
    ----------
    detector : Detector
        With memory: trained with `model="context"`.
    max_streams : int
        How many streams are remembered; beyond, the one heard of least recently starts anew.

    Raises
    ------
    UnsupportedModelError
        The detector has no memory.

    Examples
    --------
    >>> streams = StreamDetector.load("models/")                  # doctest: +SKIP
    >>> streams.update([0.1, 0.2, 0.3], stream="pump-7")          # doctest: +SKIP
    (0.83, <Decision.WARMING: 'WARMING'>)
    """

    def __init__(self, detector: Detector, *, max_streams: int = MAX_STREAMS) -> None:
        size = detector.scorer.state_dim
        if not size:
            raise UnsupportedModelError(
                f"{detector.artifact.directory}: the model has no memory; train one with --model context"
            )
        self.detector = detector
        self._store = StateStore(size, max_streams)
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, backend: str = "auto", max_streams: int = MAX_STREAMS
    ) -> StreamDetector:
        """Load the artifact at `path`; see `Detector.load`."""
        return cls(Detector.load(path, backend=backend), max_streams=max_streams)

    def __len__(self) -> int:
        """Return the number of streams that are remembered."""
        return len(self._store)

    @property
    def evicted(self) -> int:
        """How many streams were forgotten to make room for others."""
        return self._store.evicted

    @property
    def warm_up_rows(self) -> int:
        """Number of rows at the beginning of a stream that are WARMING and never anomalies."""
        return self.detector.artifact.config.warm_up_rows

    def update(self, row: object, stream: Hashable = "") -> tuple[float, Decision]:
        """Score the next row of a stream.

        Parameters
        ----------
        row : array_like of real numbers, shape [D], raw units
        stream : hashable
            Its id.

        Returns
        -------
        score : float
            Higher is more anomalous.
        decision : Decision

        Raises
        ------
        InvalidInputError
            Wrong shape or a non-finite value; the stream is as it was before.
        """
        values = as_float32_rows(row)
        if values.ndim != 1:
            raise InvalidInputError(f"row must have shape [D], got {values.shape}")
        scores, warming = self.scan(values[np.newaxis], stream)
        score = float(scores[0])
        if warming[0]:
            return score, Decision.WARMING
        return score, Decision.ANOMALY if score > self.detector.threshold else Decision.OK

    def scan(self, rows: object, stream: Hashable = "") -> tuple[Float32Array, BoolArray]:
        """Score the next rows of one stream, one after the other, inside the engine.

        Returns
        -------
        scores : float32 array, shape [N]
        warming : bool array, shape [N]
            True for the stream's first `warm_up_rows`.
        """
        values = np.atleast_2d(as_float32_rows(rows))
        with self._lock:
            return self._scan(values, stream)

    def update_many(self, rows: object, streams: Sequence[Hashable]) -> tuple[Float32Array, BoolArray]:
        """Score rows of many streams; those of one stream follow each other in the order given.

        Parameters
        ----------
        rows : array_like of real numbers, shape [N, D], raw units
        streams : sequence of hashable, length N
            The stream of each row.

        Returns
        -------
        scores, warming
            As for `scan`, in the order of the rows; just what scoring the rows one by one gives.

        Raises
        ------
        InvalidInputError
            As for `update`, and where N differs; all streams are as they were before.
        """
        values = np.atleast_2d(as_float32_rows(rows))
        if not len(streams) and not values.size:
            return np.empty(0, np.float32), np.empty(0, bool)
        if len(values) != len(streams):
            raise InvalidInputError(f"{len(values)} rows, but {len(streams)} stream ids")
        self._check(values)
        positions: dict[Hashable, list[int]] = {}
        for i, stream in enumerate(streams):
            positions.setdefault(stream, []).append(i)
        longest = max(map(len, positions.values()), default=0)
        scores = np.empty(len(values), np.float32)
        warming = np.empty(len(values), bool)
        with self._lock:
            if longest > len(positions) or len(positions) > self._store.max_streams:
                for stream, where in positions.items():
                    scores[where], warming[where] = self._scan(values[where], stream)
            else:
                # Side by side: the first row of every stream, then the second of those that have one.
                for turn in range(longest):
                    having = {stream: where[turn] for stream, where in positions.items() if len(where) > turn}
                    where = list(having.values())
                    scores[where], warming[where] = self._step(values[where], list(having))
        return scores, warming

    def forget(self, stream: Hashable) -> bool:
        """Let a stream start anew with its next row; tell whether it was known."""
        with self._lock:
            return self._store.forget(stream)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the states of all streams to a file, atomically; ids must be strings.

        Raises
        ------
        InvalidInputError
            An id is not a string, or the file cannot be written.
        """
        with self._lock:
            streams, states = self._store.export()
        if not all(isinstance(stream, str) for stream in streams):
            raise InvalidInputError("only streams whose ids are strings can be saved")
        target = Path(path)
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(
                        file,
                        version=np.array(_SNAPSHOT_VERSION),
                        model_sha256=np.array(self._model_digest()),
                        streams=np.array(streams, dtype=np.str_),
                        states=states,
                    )
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise InvalidInputError(f"{target}: cannot be written: {error.strerror or error}") from error

    def restore(self, path: str | os.PathLike[str]) -> int:
        """Take over the states that `save` wrote; return their number.

        Streams that are known already keep the state they have.

        Raises
        ------
        ArtifactError
            The file is no snapshot of streams of this very model.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as snapshot:
                version, digest = int(snapshot["version"]), str(snapshot["model_sha256"])
                streams, states = snapshot["streams"].tolist(), snapshot["states"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ArtifactError(f"{path}: not a snapshot of streams: {error}") from error
        if version != _SNAPSHOT_VERSION or digest != self._model_digest():
            raise ArtifactError(f"{path}: a snapshot of another model's streams, or of another version")
        sound = states.dtype == np.float32 and states.shape == (len(streams), self._store.size)
        if not sound or not np.isfinite(states).all():
            raise ArtifactError(
                f"{path}: the states are not {len(streams)} finite rows of {self._store.size}"
            )
        with self._lock:
            new = [i for i, stream in enumerate(streams) if stream not in self._store]
            for i in new:
                self._store.view(streams[i])[:] = states[i]
        return len(new)

    def _scan(self, rows: Float32Array, stream: Hashable) -> tuple[Float32Array, BoolArray]:
        self._check(rows)
        state = self._store.view(stream)
        seen = int(state[0, -1])
        scores = np.empty(len(rows), np.float32)
        self.detector.scorer.scan(rows, state, scores)
        return scores, seen + np.arange(len(rows)) < self.warm_up_rows

    def _step(self, rows: Float32Array, streams: Sequence[Hashable]) -> tuple[Float32Array, BoolArray]:
        slots = self._store.slots(streams)
        states = self._store.take(slots)
        seen = states[:, -1].copy()
        scores = np.empty(len(rows), np.float32)
        self.detector.scorer.step(rows, states, scores)
        self._store.put(slots, states)
        return scores, seen < self.warm_up_rows

    def _check(self, rows: Float32Array) -> None:
        """Refuse bad rows before any stream moves on, in the scorer's words."""
        if rows.shape[1] != self.detector.input_dim or not np.isfinite(rows).all():
            self.detector.scorer.scan(rows, np.zeros((1, self._store.size), np.float32))

    def _model_digest(self) -> str:
        return self.detector.artifact.config.model_sha256
