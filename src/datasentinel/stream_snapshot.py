"""The states of streams in a file, so that a restart does not warm up again.

The file begins with a line that says what it is and a line of JSON that says whose states it holds. Pages
follow: a line of JSON with the lengths of the ids, then the ids, their last use (uint64), their records
(float32: the state, and what is carried of the last row) and the times of their last rows (float64, NaN where
unknown), little-endian. An empty page ends them; the SHA-256 digest of everything before it ends the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from datasentinel.atomic_file import replacing
from datasentinel.errors import ArtifactError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from datasentinel.backend import StateStore, StreamRules
    from datasentinel.types import Float32Array, Float64Array

_MAGIC = b"datasentinel streams 2\n"
_PAGE_STREAMS = 1024
_MAX_LINE_BYTES = 1 << 20


def save_states(store: StateStore, model_sha256: str, path: Path) -> int:
    """Write the states of all streams to a file, atomically; return their number.

    Streams may be scored meanwhile. Those of connections, which have no id of their own, are left out.

    Parameters
    ----------
    store : StateStore
    model_sha256 : str
        Digest of the model whose states these are.
    path : Path

    Raises
    ------
    InvalidInputError
        The file cannot be written.
    """
    try:
        with replacing(path) as file:
            count = _write(store, model_sha256, file)
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return count


def restore_states(store: StateStore, rules: StreamRules, model_sha256: str, path: Path) -> int:
    """Restore the states of a file, the last used first if there is not room for all; return their number.

    Streams that are known already keep the state they have. By the rules they are warming or stale.

    Raises
    ------
    ArtifactError
        The file cannot be read, is damaged, or is not a snapshot of streams of this model.
    """
    try:
        with path.open("rb") as file:
            streams, last_used, states, times_s = _read(file, store.record_size, model_sha256)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a snapshot of these streams: {error}") from error
    order = np.argsort(last_used)[::-1]
    return store.insert([streams[i] for i in order], rules, states[order], times_s[order])


def _write(store: StateStore, model_sha256: str, file: BinaryIO) -> int:
    digest = hashlib.sha256()

    def put(content: bytes) -> None:
        digest.update(content)
        file.write(content)

    put(_MAGIC)
    put(_line({"model_sha256": model_sha256, "state_size": store.record_size}))
    count = 0
    place: int | None = 0
    while place is not None:
        place, streams, last_used, states, times_s = store.copy(place, _PAGE_STREAMS)
        if streams:
            put(_line([len(stream) for stream in streams]))
            numbers = (last_used.astype("<u8"), states.astype("<f4"), times_s.astype("<f8"))
            put(b"".join(streams) + b"".join(array.tobytes() for array in numbers))
            count += len(streams)
    put(_line([]))
    file.write(digest.digest())
    return count


def _read(
    file: BinaryIO, state_size: int, model_sha256: str
) -> tuple[list[bytes], np.ndarray, Float32Array, Float64Array]:
    digest = hashlib.sha256()
    file_bytes = os.fstat(file.fileno()).st_size

    def take(read: Callable[[int], bytes], size: int, *, exactly: bool = True) -> bytes:
        if exactly and size > file_bytes:
            raise ValueError("it is cut off")
        content = read(size)
        if exactly and len(content) != size:
            raise ValueError("it is cut off")
        digest.update(content)
        return content

    if take(file.read, len(_MAGIC), exactly=False) != _MAGIC:
        raise ValueError("it begins otherwise")
    head = json.loads(take(file.readline, _MAX_LINE_BYTES, exactly=False))
    if head["model_sha256"] != model_sha256 or head["state_size"] != state_size:
        raise ValueError("it is of another model")
    streams: list[bytes] = []
    last_used, states, times_s = [np.empty(0, "<u8")], [np.empty(0, "<f4")], [np.empty(0, "<f8")]
    while sizes := json.loads(take(file.readline, _MAX_LINE_BYTES, exactly=False)):
        ids = take(file.read, sum(sizes))
        ends = np.cumsum(sizes).tolist()
        streams += [ids[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        last_used.append(np.frombuffer(take(file.read, 8 * len(sizes)), "<u8"))
        states.append(np.frombuffer(take(file.read, 4 * len(sizes) * state_size), "<f4"))
        times_s.append(np.frombuffer(take(file.read, 8 * len(sizes)), "<f8"))
    if file.read() != digest.digest():
        raise ValueError("its checksum is wrong")
    table = np.concatenate(states).astype(np.float32).reshape(len(streams), state_size)
    if not np.isfinite(table).all():
        raise ValueError("a state is not finite")
    return streams, np.concatenate(last_used), table, np.concatenate(times_s).astype(np.float64)


def _line(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
