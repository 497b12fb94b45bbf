"""The machine and this source tree: which GPU, building the extension, running the tests.

Imports nothing of ours, which may not be built yet.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("numpy", "torch", "triton", "jax", "cupy-cuda13x", "onnxruntime", "onnxruntime-gpu", "tensorrt")


def find_gpu() -> tuple[str, str]:
    """Name of the first GPU and its driver, as nvidia-smi tells them; or an empty name and the reason."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        return "", "nvidia-smi is not installed, so there is no NVIDIA driver"
    except (subprocess.SubprocessError, OSError) as error:
        return "", f"nvidia-smi failed: {error}"
    lines = done.stdout.strip().splitlines()
    return (lines[0], "") if lines else ("", "nvidia-smi lists no GPU")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter and are there."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run(command: list[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a command in the source tree; tell its exit code (None when it was ended) and its last words."""
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=max(timeout_s, 1.0),
            env=environment,
        )
        code, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, text = None, error.stdout or b""
    except OSError as error:
        code, text = 127, str(error).encode()
    return {
        "command": command,
        "exit_code": code,
        "seconds": round(time.perf_counter() - started, 1),
        "tail": text.decode(errors="replace")[-4000:],
    }


def build(timeout_s: float) -> list[dict[str, Any]]:
    """Build the extension for this Python into src/datasentinel, without a network; give the commands' ends.

    Needs CMake, a C++20 compiler and pybind11. The gRPC messages are left out: nothing here talks gRPC.
    """
    folder = ROOT / "build" / "gpu_check"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), *generator, "-DCMAKE_BUILD_TYPE=Release",
                 f"-DPython_EXECUTABLE={sys.executable}"]  # fmt: skip
    found = run([sys.executable, "-m", "pybind11", "--cmakedir"], 60.0)
    if found["exit_code"] == 0:
        configure.append(f"-Dpybind11_DIR={found['tail'].strip()}")
    jobs = str(os.cpu_count() or 1)
    steps = []
    for command in (configure, ["cmake", "--build", str(folder), "--target", "_native", "-j", jobs]):
        steps.append(run(command, timeout_s))
        if steps[-1]["exit_code"] != 0:
            return steps
    for library in (folder / "csrc" / "bindings").glob("_native*.so"):
        shutil.copy2(library, ROOT / "src" / "datasentinel")
    use_source_tree()
    return steps


def use_source_tree() -> None:
    """Let this process and those that it starts import the package from `src`."""
    source = str(ROOT / "src")
    sys.path.insert(0, source)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))


def run_tests(timeout_s: float) -> dict[str, Any]:
    """Run the tests that are marked `gpu`."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    return run(command, timeout_s)
