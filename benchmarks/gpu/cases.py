"""What is measured: which models, how many rows, where they lie, and how wrong scores may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.models import SIZES, random_autoencoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.gpu.arrays import Arrays
    from datasentinel.bench.subject import Subject
    from tests.networks import Network

# Rows and scores: in ordinary host memory, in page-locked host memory, in the device's memory.
PLACES = ("host", "pinned", "device")
# What `datasentinel train` makes of rows like MNIST's, of which 100 columns vary.
DEFAULT, DEFAULT_COLUMNS = "default", 100
MODELS = (*SIZES, DEFAULT)
BATCHES = (1, 8, 64, 512, 4096, 32_768, 262_144, 1_048_576, 16_777_216)
MAX_INPUT_BYTES = 1 << 30
# Page-locked rows are for the bus; a few rows cost the same wherever they lie on the host.
MIN_PINNED_ROWS = 4096
# Largest error of a score against float64, relative to the score plus 1 % of the largest one. Rounding the
# operands of every product to the precision, and nothing else, gives errors of 0.001 (tf32, fp16) and 0.0075
# (bf16) on the small model, the worst of the three.
TOLERANCES = {"float32": 1e-4, "tf32": 4e-3, "fp16": 4e-3, "bf16": 3e-2}
# Rows beyond these repeat; a prime, so that no block of a kernel sees the same rows at the same place.
_DISTINCT_ROWS = 16_381


class NotRun(Exception):
    """Why a contender cannot run here."""


@dataclass(frozen=True)
class Call:
    """A contender that is ready.

    Attributes
    ----------
    load : callable
        Makes these rows the ones that `run` scores.
    run : callable
        Scores them once; complete on return. This is what is timed.
    scores : callable
        Gives the scores of the last run, as an array in host memory.
    """

    load: Callable[[np.ndarray], None]
    run: Callable[[], object]
    scores: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """One case: a model, a number of rows and where they lie."""

    subject: Subject
    rows: int
    place: str
    device: str
    arrays: Arrays

    @property
    def network(self) -> Network:
        if self.subject.name not in SIZES:
            raise NotRun("it computes the autoencoders only")
        return random_autoencoder(SIZES[self.subject.name])

    def host_array(self, *shape: int) -> np.ndarray:
        """New float32 memory on the host: page-locked where the case wants that."""
        return self.arrays.pinned(shape) if self.place == "pinned" else np.empty(shape, np.float32)


@dataclass(frozen=True)
class Contender:
    """Something that scores rows.

    Attributes
    ----------
    name, precision : str
    places : tuple of str
        Those of `PLACES` that it knows.
    prepare : callable
        Gives the Call of a Setting. Raises `NotRun`, or whatever goes wrong.
    optional : bool
        Left out where time is short.
    max_rows : int
        More would only take long.
    """

    name: str
    places: tuple[str, ...]
    prepare: Callable[[Setting], Call]
    precision: str = "float32"
    optional: bool = False
    max_rows: int = BATCHES[-1]

    @property
    def label(self) -> str:
        return self.name if self.precision == "float32" else f"{self.name}, {self.precision}"

    def places_at(self, rows: int) -> tuple[str, ...]:
        """Where its rows may lie in a batch of so many."""
        if rows > self.max_rows:
            return ()
        return tuple(place for place in self.places if place != "pinned" or rows >= MIN_PINNED_ROWS)


@dataclass(frozen=True)
class Content:
    """Rows and what they must score."""

    rows: np.ndarray
    expected: np.ndarray


def contents(subject: Subject, rows: int) -> tuple[Content, Content]:
    """Two fillings of a batch, different in every row, so that scores of rows that are gone show."""
    base = subject.rows(min(rows, _DISTINCT_ROWS) + 1, seed=1)
    expected = subject.reference(base)

    def filled(shift: int) -> Content:
        some, scores = np.roll(base, shift, axis=0), np.roll(expected, shift)
        return Content(np.resize(some, (rows, some.shape[1])), np.resize(scores, rows))

    return filled(0), filled(1)


def batches_of(size: str, batches: tuple[int, ...] = BATCHES) -> list[int]:
    """The batches of a model that are not too large."""
    columns = SIZES[size][0] if size in SIZES else DEFAULT_COLUMNS
    return [rows for rows in batches if 4 * rows * columns <= MAX_INPUT_BYTES]


def case_s(size: str, is_compiled_for_each: bool) -> float:
    """Seconds that a case takes on a machine with an H100 and 16 cores, nearly all before it is timed.

    NVRTC takes 17 s for the default model's kernels, torch.compile up to 8 s for each batch size.
    """
    return 30.0 if size == DEFAULT else 8.0 if is_compiled_for_each else 2.0


def error_of(scores: np.ndarray, expected: np.ndarray) -> float:
    """Largest error of scores, relative as in `TOLERANCES`; infinite for a wrong shape, NaN for a NaN."""
    if scores.shape != expected.shape:
        return float("inf")
    scale = np.abs(expected)
    return float((np.abs(scores - expected) / (scale + 0.01 * scale.max())).max())


def key(size: str, rows: int, place: str, label: str) -> tuple[Any, ...]:
    """What tells one result from another."""
    return size, rows, place, label
