"""What the GPU backends need to know from Python: options, and where NVIDIA's libraries lie."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from datasentinel.errors import InvalidInputError
from datasentinel.types import IO_BINDINGS

NVRTC_LIBRARY_VARIABLE = "DATASENTINEL_NVRTC_LIBRARY"
TENSORRT_LIBRARY_VARIABLE = "DATASENTINEL_TENSORRT_LIBRARY"

# The wheels put the libraries into packages of these names: TensorRT, TensorRT for RTX, and the lean runtime,
# which runs engines but builds none.
_TENSORRT_PACKAGES = ("tensorrt_libs", "tensorrt_rtx_libs", "tensorrt_lean_libs")


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
        f"'{compute_capability}' is no compute capability; expected a major and a minor number, such as 8.9"
    )


def _package_folders(package: str) -> list[Path]:
    """Return a package's folders without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except ImportError:  # a parent package is missing
        return []
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [Path(location) for location in spec.submodule_search_locations]


def find_nvrtc() -> tuple[str, str]:
    """Find NVRTC, the compiler of generated kernels.

    The environment variable `DATASENTINEL_NVRTC_LIBRARY` wins; otherwise NVIDIA's own cuda-pathfinder looks
    in wheels, conda, where the dynamic loader looks, and in `CUDA_PATH` or `CUDA_HOME`. What the process has
    open already (say, by torch) is shared.

    Returns
    -------
    path, problem : str
        As for `find_tensorrt`.
    """
    override = os.environ.get(NVRTC_LIBRARY_VARIABLE)
    if override:
        if Path(override).is_file():
            return override, ""
        return "", f"{NVRTC_LIBRARY_VARIABLE} names '{override}', which is not a file"
    advice = "run `pip install 'datasentinel[gpu]'`"
    try:
        from cuda import pathfinder
    except ImportError:
        return "", f"cuda-pathfinder, which finds NVRTC, is not installed; {advice}"
    try:
        return pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path or "", ""
    except (pathfinder.DynamicLibNotFoundError, RuntimeError) as error:
        return "", f"no NVRTC is installed ({' '.join(str(error).split())}); {advice}"


def find_tensorrt() -> tuple[str, str]:
    """Find the folder of TensorRT.

    The environment variable `DATASENTINEL_TENSORRT_LIBRARY` (a folder, or the library itself) wins; otherwise
    the folder of an installed wheel is taken: `tensorrt`, `tensorrt-rtx` or `tensorrt-lean`, in this order.
    Where there is none, the extension asks the dynamic loader, which knows system packages and
    `LD_LIBRARY_PATH`.

    Returns
    -------
    path : str
        A folder or a file, or an empty string.
    problem : str
        Why there is no path and what to do about it; empty when there is one.
    """
    override = os.environ.get(TENSORRT_LIBRARY_VARIABLE)
    if override:
        if Path(override).exists():
            return override, ""
        return "", f"{TENSORRT_LIBRARY_VARIABLE} names '{override}', which does not exist"
    for package in _TENSORRT_PACKAGES:
        for folder in _package_folders(package):
            if any(folder.glob("libnvinfer*.so*")) or any(folder.glob("libtensorrt_rtx.so*")):
                return str(folder), ""
    return "", (
        "no TensorRT is installed for this Python; run `pip install 'datasentinel[tensorrt-rtx]'` for RTX "
        "cards, or `pip install 'datasentinel[gpu]'`"
    )
