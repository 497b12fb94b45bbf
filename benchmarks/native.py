"""Calls from C++: our backends and ONNX Runtime's C API, timed by the executable of benchmarks/cpp."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel.bench.measure import Timing
from datasentinel.libraries import find_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.bench.subject import Subject

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "benchmarks"
BASELINE = "onnxruntime-c-api"


@dataclass
class NativeResult:
    """Times by contender, and which were left out and why, for one batch size."""

    timings: dict[str, Timing] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@functools.cache
def executable(name: str) -> Path:
    """Build one of benchmarks/cpp in build/benchmarks, unless it is up to date."""
    cmake = shutil.which("cmake")
    if cmake is None:
        raise RuntimeError("cmake is needed to build benchmarks/cpp")
    if not (BUILD / "CMakeCache.txt").is_file():
        options = ["-DDATASENTINEL_BUILD_PYTHON=OFF", "-DDATASENTINEL_BUILD_BENCHMARKS=ON"]
        _run(cmake, "-S", ROOT, "-B", BUILD, "-DCMAKE_BUILD_TYPE=Release", *options)
    _run(cmake, "--build", BUILD, "--target", name, "--parallel", "2")
    return BUILD / "benchmarks" / "cpp" / name


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def measure_native(subject: Subject, batches: Sequence[int], budget_s: float) -> dict[int, NativeResult]:
    """Time calls from C++ for about `budget_s` in all."""
    library, problem = find_onnxruntime()
    if not library:
        raise RuntimeError(problem)
    model = subject.artifact.directory / "model.onnx"
    output = _run(
        executable("bench_backends"), model, library, ",".join(map(str, batches)), budget_s / len(batches)
    )
    results = {batch: NativeResult() for batch in batches}
    for line in output.splitlines():
        entry = json.loads(line)
        result, contender = results[entry.pop("batch")], entry.pop("contender")
        if "left_out" in entry:
            result.left_out[contender] = entry["left_out"]
        else:
            result.timings[contender] = Timing(**entry)
    return results
