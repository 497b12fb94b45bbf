"""Where the vendors' libraries lie that the extension opens at run time."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ONNXRUNTIME_LIBRARY_VARIABLE = "DATASENTINEL_ONNXRUNTIME_LIBRARY"
NVRTC_LIBRARY_VARIABLE = "DATASENTINEL_NVRTC_LIBRARY"
TENSORRT_LIBRARY_VARIABLE = "DATASENTINEL_TENSORRT_LIBRARY"
NGHTTP2_LIBRARY_VARIABLE = "DATASENTINEL_NGHTTP2_LIBRARY"

# The wheels put the libraries into packages of these names: TensorRT, TensorRT for RTX, and the lean runtime,
# which runs engines but builds none.
_TENSORRT_PACKAGES = ("tensorrt_libs", "tensorrt_rtx_libs", "tensorrt_lean_libs")
_NGHTTP2_NAME = "libnghttp2.so.14"


def _is_installed(distribution: str) -> bool:
    import importlib.metadata  # slow to import, takes 2 MiB, and is not needed without ONNX Runtime

    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def find_onnxruntime() -> tuple[str, str]:
    """Find ONNX Runtime's shared library.

    The environment variable `DATASENTINEL_ONNXRUNTIME_LIBRARY` wins; otherwise the library of the installed
    `onnxruntime` or `onnxruntime-gpu` wheel is taken. The wheel's Python code is not imported.

    Returns
    -------
    path : str
        The library's path, or an empty string.
    problem : str
        Why there is no path and what to do about it; empty when there is one.
    """
    override = os.environ.get(ONNXRUNTIME_LIBRARY_VARIABLE)
    if override:
        if Path(override).is_file():
            return override, ""
        return "", f"{ONNXRUNTIME_LIBRARY_VARIABLE} names '{override}', which is not a file"
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        return "", "no onnxruntime is installed; run `pip install 'datasentinel[cpu]'` (or [gpu])"
    if _is_installed("onnxruntime") and _is_installed("onnxruntime-gpu"):
        return "", (
            "both onnxruntime and onnxruntime-gpu are installed, and each overwrites the other's files; run "
            "`pip uninstall onnxruntime onnxruntime-gpu`, then install one of datasentinel[cpu] and "
            "datasentinel[gpu]"
        )
    for location in spec.submodule_search_locations:
        folder = Path(location) / "capi"
        found = sorted([*folder.glob("libonnxruntime.so*"), *folder.glob("libonnxruntime.*dylib")])
        if found:
            return str(found[0]), ""
    return "", f"the onnxruntime package at {list(spec.submodule_search_locations)} carries no libonnxruntime"


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


def nghttp2_paths(extension: Path) -> list[str]:
    """List where libnghttp2 is looked for: paths, and a name for the dynamic loader.

    The environment variable `DATASENTINEL_NGHTTP2_LIBRARY` wins; otherwise the library that a wheel brings
    beside the extension is taken, that of the dynamic loader, or that of this Python's prefix.

    Parameters
    ----------
    extension : Path
        The file of the native extension.
    """
    if override := os.environ.get(NGHTTP2_LIBRARY_VARIABLE):
        return [override]
    bundled = extension.with_name(_NGHTTP2_NAME)
    in_prefix = Path(sys.prefix) / "lib" / _NGHTTP2_NAME
    paths = [str(path) for path in (bundled, in_prefix) if path.is_file()]
    paths.insert(int(bundled.is_file()), _NGHTTP2_NAME)
    return paths
