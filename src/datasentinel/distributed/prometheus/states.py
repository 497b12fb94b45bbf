"""What is remembered of the series of a model from one look to the next, and over a restart."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.atomic_file import replacing
from datasentinel.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

    from datasentinel.distributed.prometheus.samples import Key
    from datasentinel.types import BoolArray, Float32Array, Int64Array

_VERSION = 1


@dataclass
class SeriesStates:
    """The states of N series.

    Attributes
    ----------
    model_sha256 : str
        The digest of the model whose states they are.
    last : int
        The number of the last moment that was scored.
    keys : list of Key
    seen : int64 array, shape [N]
        The last moment at which each had a complete row.
    states : float32 array, shape [N, S]
        Of a model with memory; S is 0 without one.
    reasons : bool array, shape [N, D]
        Which columns were named as reasons then.
    """

    model_sha256: str
    last: int
    keys: list[Key]
    seen: Int64Array
    states: Float32Array
    reasons: BoolArray
    places: dict[Key, int] = field(init=False)

    def __post_init__(self) -> None:
        """Index the series."""
        self.places = {key: place for place, key in enumerate(self.keys)}

    @classmethod
    def new(cls, model_sha256: str, last: int, state_dim: int, columns: int) -> SeriesStates:
        """Return the states of no series."""
        return cls(
            model_sha256,
            last,
            [],
            np.empty(0, np.int64),
            np.empty((0, state_dim), np.float32),
            np.empty((0, columns), bool),
        )

    def copy(self) -> SeriesStates:
        """Return one that changes without this one."""
        return SeriesStates(
            self.model_sha256,
            self.last,
            list(self.keys),
            self.seen.copy(),
            self.states.copy(),
            self.reasons.copy(),
        )

    def add(self, keys: list[Key]) -> None:
        """Remember more series, new ones, whose states begin."""
        first = len(self.keys)
        self.keys.extend(keys)
        self.places |= {key: first + i for i, key in enumerate(keys)}
        self.seen = np.append(self.seen, np.full(len(keys), np.iinfo(np.int64).min))
        self.states = np.vstack([self.states, np.zeros((len(keys), self.states.shape[1]), np.float32)])
        self.reasons = np.vstack([self.reasons, np.zeros((len(keys), self.reasons.shape[1]), bool)])

    def forget(self, before: int) -> None:
        """Drop the series that had no complete row since a moment."""
        kept = np.flatnonzero(self.seen >= before)
        if len(kept) == len(self.keys):
            return
        self.keys = [self.keys[place] for place in kept.tolist()]
        self.seen, self.states, self.reasons = self.seen[kept], self.states[kept], self.reasons[kept]
        self.__post_init__()


def save_states(states: SeriesStates, step_s: float, path: Path) -> None:
    """Write states to a file, atomically.

    Raises
    ------
    ArtifactError
        It cannot be written.
    """
    about = {
        "version": _VERSION,
        "model_sha256": states.model_sha256,
        "step_s": step_s,
        "last": states.last,
        "keys": states.keys,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(
                file,
                about=np.frombuffer(json.dumps(about).encode(), np.uint8),
                seen=states.seen,
                states=states.states,
                reasons=states.reasons,
            )
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from error


def load_states(path: Path, step_s: float) -> SeriesStates | None:
    """Read what `save_states` wrote; None where there is nothing, or rows were further apart.

    Raises
    ------
    ArtifactError
        The file cannot be read or is damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            if about["version"] != _VERSION or about["step_s"] != step_s:
                return None
            keys = [tuple(map(str, key)) for key in about["keys"]]
            seen, states, reasons = file["seen"], file["states"], file["reasons"]
            if seen.shape != (len(keys),) or {states.ndim, reasons.ndim} != {2}:
                raise ValueError("arrays of the wrong shape")
            if {len(states), len(reasons)} != {len(keys)}:
                raise ValueError("arrays of the wrong length")
            return SeriesStates(
                str(about["model_sha256"]),
                int(about["last"]),
                keys,
                seen.astype(np.int64),
                states.astype(np.float32),
                reasons.astype(bool),
            )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: damaged ({error}); series start over") from error
