"""What is particular to GPUs: options of engines, generated kernels, page-locked memory."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasentinel.errors import BackendUnavailableError, InvalidInputError
from datasentinel.extension import native as _native
from datasentinel.libraries import find_nvrtc
from datasentinel.types import IO_BINDINGS, Float32Array

if TYPE_CHECKING:
    from collections.abc import Sequence

CudaSource = _native.CudaSource

# What a block may use on compute capability 8.0, the least that is served; 9.0 and 10.0 offer 227 KiB.
DEFAULT_SHARED_BYTES = 163 << 10


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a backend is to prepare a model for a device.

    All but `io_binding` are for `tensorrt`; that and `max_rows` are for the onnxruntime backends.

    Attributes
    ----------
    optimization_level : int
        0 to 5: how long to look for fast kernels.
    workspace_mib : int
        Most device memory that a layer may use, in MiB; 0 leaves it to the library.
    hardware_compatible : bool
        Build an engine that also runs on other GPUs of compute capability 8.0 or later, more slowly.
    version_compatible : bool
        Build an engine that also runs with other minor versions of the library.
    max_rows : int
        Largest batch of the engine; more rows are scored in several batches.
    io_binding : str
        "on": ONNX Runtime's rows and results stay bound in memory of the device, in batches padded to powers
        of two. "cuda-graphs": likewise, by one thread, which replays a CUDA graph for each batch size where
        the provider is CUDA; while a model loads, nothing else in the process but `onnxruntime-cuda` may use
        CUDA. "off": ONNX Runtime copies from and to the caller's memory. "auto": "on" for a GPU where that
        works, "off" for the CPU.

    Raises
    ------
    InvalidInputError
        A value is out of its range.
    """

    optimization_level: int = 3
    workspace_mib: int = 0
    max_rows: int = 8192
    hardware_compatible: bool = False
    version_compatible: bool = False
    io_binding: str = "auto"

    def __post_init__(self) -> None:
        for name, minimum, maximum in (
            ("optimization_level", 0, 5),
            ("workspace_mib", 0, 1 << 24),
            ("max_rows", 1, 1 << 24),
        ):
            value = getattr(self, name)
            if not minimum <= value <= maximum:
                raise InvalidInputError(f"{name} must be from {minimum} to {maximum}, got {value}")
        if self.io_binding not in IO_BINDINGS:
            raise InvalidInputError(
                f"io_binding must be one of {', '.join(IO_BINDINGS)}, got '{self.io_binding}'"
            )


def architecture_of(compute_capability: str) -> int:
    """Return a compute capability without its dot: "8.9" is 89.

    Raises
    ------
    InvalidInputError
        It is none.
    """
    if match := re.fullmatch(r"(\d{1,2})\.(\d)", compute_capability):
        return 10 * int(match[1]) + int(match[2])
    raise InvalidInputError(
        f"'{compute_capability}' is not a compute capability; expected major and minor numbers, such as 8.9"
    )


def cuda_source(
    onnx: bytes,
    *,
    name: str,
    shared_bytes: int = DEFAULT_SHARED_BYTES,
    precision: str = "float32",
    wgmma: bool = False,
) -> CudaSource:
    """Generate the CUDA C++ kernels of a model, as the `fused-cuda` backend does. Needs no GPU.

    Parameters
    ----------
    onnx : bytes
        The serialised model.
    name : str
        What messages call it.
    shared_bytes : int
        Shared memory that a block of threads may use, in bytes.
    precision : str
        What wide layers are multiplied in: "float32", or on tensor cores "tf32", "bf16" or "fp16".
    wgmma : bool
        Multiply by warpgroups, which only architecture "90a" can.

    Returns
    -------
    CudaSource
        With `text`, the float32 array `constants` that the kernels read, `in_registers`, the number of
        `layers` and of those in lower precision (`low_layers`), and for the entry points (`scores_only` and
        `all`, each for a `few` rows and in `bulk`) their `name`, `rows`, `threads` and `shared_bytes`.

    Raises
    ------
    ArtifactError
        The bytes are not a sound ONNX model.
    UnsupportedModelError
        The model has an operator that cannot be lowered, its layers are too wide, or warpgroups cannot
        multiply them.
    ValueError
        There is no such precision.
    """
    return _native.cuda_source(onnx, name=name, shared_bytes=shared_bytes, precision=precision, wgmma=wgmma)


def compile_cuda(source: str, *, architecture: int | str) -> bytes:
    """Compile CUDA C++ text with NVRTC. Needs no GPU.

    Parameters
    ----------
    source : str
    architecture : int or str
        Compute capability without its dot, such as 90; "90a" is 9.0 with what later ones do not have.

    Returns
    -------
    bytes
        A cubin.

    Raises
    ------
    BackendUnavailableError
        No NVRTC is installed.
    BackendError
        NVRTC refuses the text; its log is in the message.
    """
    library, problem = find_nvrtc()
    if not library:
        raise BackendUnavailableError(problem)
    return _native.compile_cuda(source, architecture=str(architecture), library=library)


def pinned_empty(shape: int | Sequence[int]) -> Float32Array:
    """Return a new array in page-locked host memory, which a GPU copies itself, at the speed of its bus.

    `fused-cuda` copies rows from such an array, and results into one (`out=`), without a copy in between. The
    memory stays with the machine until the last view of the array goes.

    Parameters
    ----------
    shape : int or sequence of int

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous, its content whatever the memory held.

    Raises
    ------
    InvalidInputError
        The shape is none.
    BackendUnavailableError
        There is no CUDA device.
    OutOfMemoryError
        There is not enough memory to lock.
    """
    try:
        sizes = [operator.index(size) for size in ([shape] if isinstance(shape, int) else shape)]
    except TypeError:
        sizes = [-1]
    if min(sizes, default=0) < 0 or math.prod(sizes) >= 1 << 60:
        raise InvalidInputError(f"shape must be non-negative integers that memory can hold, got {shape}")
    return _native.pinned_empty(sizes)
