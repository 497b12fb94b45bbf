"""Our backends, and who they are measured beside."""

from __future__ import annotations

import functools
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.gpu.cases import PLACES, Call, Contender, NotRun, Setting
from benchmarks.gpu.jax_contenders import jax_contenders
from benchmarks.gpu.torch_contenders import torch_contenders
from datasentinel import Detector
from datasentinel.backend import backends
from datasentinel.gpu import EngineOptions

if TYPE_CHECKING:
    import numpy as np

    from datasentinel.artifact import Artifact

# Those that score on the CPU, and how many rows are enough to see it.
_ON_CPU = ("fused", "onnxruntime")
_MAX_CPU_ROWS = 32_768
# A queue of the device takes about a thousand launches; who gives it more, waits.
_LAUNCHES_UNDER_WAY = 256
NO_WAIT = "fused-cuda, no wait"
# Instructions of the tensor cores, between which a load chooses if it is not told.
TENSOR_CORES = ("mma", "wgmma")
_TENSOR_CORES_VARIABLE = "DATASENTINEL_TENSOR_CORES"


@dataclass(frozen=True)
class Ours:
    """A backend of ours, and how it is loaded."""

    backend: str
    precision: str = "float32"
    io_binding: str = "auto"
    tensor_cores: str = ""

    @property
    def name(self) -> str:
        binding = {"auto": "", "off": ", no IO binding"}.get(self.io_binding, f", {self.io_binding}")
        return self.backend + binding + (f", {self.tensor_cores}" if self.tensor_cores else "")

    def load(self, artifact: Artifact) -> Detector:
        """Load a model. Raises `NotRun` where the backend cannot run."""
        status = _states().get(self.backend)
        if status is not None and status.availability != "available":
            raise NotRun(f"{status.availability}: {status.detail}")
        with mock.patch.dict(os.environ, {_TENSOR_CORES_VARIABLE: self.tensor_cores}):
            detector = Detector(
                artifact,
                backend=self.backend,
                precision=self.precision,
                engine=EngineOptions(io_binding=self.io_binding),
            )
        if not detector.info()["facts"].get("tensor cores", "").startswith(self.tensor_cores):
            raise NotRun("there is no choice of instructions for this model on this device")
        return detector


# In the order of the tables.
OURS = (
    Ours("fused-cuda"),
    Ours("fused-cuda", "tf32"),
    Ours("fused-cuda", "bf16"),
    Ours("fused-cuda", "fp16"),
    *(Ours("fused-cuda", low, tensor_cores=some) for low in ("tf32", "bf16") for some in TENSOR_CORES),
    Ours("tensorrt"),
    Ours("tensorrt", "tf32"),
    Ours("onnxruntime-cuda"),
    Ours("onnxruntime-cuda", io_binding="off"),
    Ours("onnxruntime-cuda", io_binding="cuda-graphs"),
    Ours("onnxruntime-tensorrt"),
    Ours("auto"),
    Ours("fused"),
    Ours("onnxruntime"),
)


def _places_of(ours: Ours) -> tuple[str, ...]:
    if ours.backend in _ON_CPU:
        return ("host",)
    return ("device",) if ours.tensor_cores else PLACES


def our_contenders() -> list[Contender]:
    waiting = [
        Contender(
            ours.name,
            _places_of(ours),
            functools.partial(_prepare, ours),
            ours.precision,
            optional=bool(ours.tensor_cores),
            **({"max_rows": _MAX_CPU_ROWS} if ours.backend in _ON_CPU else {}),
        )
        for ours in OURS
    ]
    # What a call takes that leaves the waiting to the caller. Of more rows, the device is what takes time.
    return [*waiting, Contender(NO_WAIT, ("device",), _prepare_without_wait, max_rows=1)]


def all_contenders() -> list[Contender]:
    return [*our_contenders(), *torch_contenders(), *jax_contenders()]


@functools.cache
def _states() -> dict[str, Any]:
    return {status.name: status for status in backends()}


class _Loaded:
    """Detectors by artifact and how they were loaded: a model is loaded once for all its cases."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Ours], Detector] = {}

    def get(self, artifact: Artifact, ours: Ours) -> Detector:
        key = (str(artifact.directory), ours)
        if key not in self._known:
            self._known[key] = ours.load(artifact)
        return self._known[key]


_loaded = _Loaded()


def _prepare(ours: Ours, setting: Setting) -> Call:
    detector = _loaded.get(setting.subject.artifact, ours)
    if setting.place == "device":
        return _on_device(detector, setting)
    held: list[np.ndarray] = [setting.host_array(1, detector.input_dim)]
    out = setting.host_array(setting.rows)

    def load(rows: np.ndarray) -> None:
        held[0] = rows

    return Call(load, lambda: detector.score(held[0], out), lambda: out)


def _on_device(detector: Detector, setting: Setting) -> Call:
    arrays = setting.arrays
    rows = arrays.empty((setting.rows, detector.input_dim))
    out = arrays.empty((setting.rows,))
    return Call(
        lambda values: arrays.fill(rows, values),
        lambda: detector.score(rows, out),
        lambda: arrays.to_host(out),
    )


def _prepare_without_wait(setting: Setting) -> Call:
    detector = _loaded.get(setting.subject.artifact, Ours("fused-cuda"))
    arrays = setting.arrays
    rows = arrays.empty((setting.rows, detector.input_dim))
    out = arrays.empty((setting.rows,))
    stream = arrays.stream()
    under_way = itertools.count(1)

    def launch() -> None:
        detector.score(rows, out, stream=stream)
        if next(under_way) % _LAUNCHES_UNDER_WAY == 0:
            arrays.synchronize()

    def scores() -> np.ndarray:
        arrays.synchronize()
        detector.check()
        return arrays.to_host(out)

    return Call(lambda values: arrays.fill(rows, values), launch, scores)
