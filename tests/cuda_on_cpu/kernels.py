"""Generated kernels as functions on the CPU, through kernel.h."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np

SHIM = Path(__file__).with_name("kernel.h")


class CpuKernel:
    """One entry point of a generated source, run on the CPU."""

    def __init__(self, run, constants: np.ndarray, about: dict) -> None:
        self._run = run
        self._constants = aligned(constants)
        self._cluster = about["blocks"]
        self._warps = about["blocks"] * about["threads"] // 32

    def __call__(
        self,
        rows: np.ndarray,
        wanted: str = "soc",
        blocks: int = 2,
        bad: np.ndarray | None = None,
        highest_normal: float | None = None,
    ) -> dict[str, np.ndarray]:
        rows = aligned(rows)
        results = {
            "s": np.full(len(rows), np.nan, np.float32),
            "o": np.full(rows.shape, np.nan, np.float32),
            "c": np.full(rows.shape, np.nan, np.float32),
        }

        def address(array: np.ndarray) -> ctypes.c_void_p:
            return ctypes.c_void_p(array.ctypes.data)

        anomalies = np.full(blocks * self._warps, 2**32 - 1, np.uint32)
        place = None if bad is None else address(bad)
        targets = [address(results[key]) if key in wanted else None for key in "soc"]
        self._run(
            address(rows),
            ctypes.c_longlong(len(rows)),
            address(self._constants),
            *targets,
            place,
            ctypes.c_float(highest_normal or 0.0),
            None if highest_normal is None else address(anomalies),
            blocks * self._cluster,
        )
        return results if highest_normal is None else results | {"anomalies": anomalies}


def aligned(values: np.ndarray) -> np.ndarray:
    """Copy to an address that is a multiple of 16, as device memory is."""
    memory = np.empty(values.size + 4, np.float32)
    start = (-memory.ctypes.data // 4) % 4
    memory[start : start + values.size] = values.ravel()
    return memory[start : start + values.size].reshape(values.shape)


def entry_points(source) -> dict[str, dict]:
    """All kernels of a source: for scores only and for everything, of a few rows and in bulk."""
    kernels = {}
    for which in ("few", "bulk", "spread"):
        if which in source.all:
            kernels[which] = source.all[which]
            kernels[f"{which} scores"] = source.scores_only[which]
    return kernels


def compile_for_cpu(sources: list, folder: Path) -> list[dict[str, CpuKernel]]:
    """Compile all sources in one go; give the entry points of each."""
    parts = [f'#include "{SHIM}"']
    for index, source in enumerate(sources):
        text = source.text.replace('extern "C" ', "")
        parts.append(f"namespace source_{index} {{\n{text}\n}}")
        for number, kernel in enumerate(entry_points(source).values()):
            parts.append(f"""
                extern "C" void run_{index}_{number}(const float* input, long long rows,
                    const float* constants, float* scores, float* output, float* contributions,
                    unsigned long long* bad, float highest_normal, unsigned* anomalies, int blocks) {{
                  shim::launch([=] {{
                    source_{index}::{kernel["name"]}(
                        input, rows, constants, scores, output, contributions, bad, highest_normal,
                        anomalies);
                  }}, blocks, {kernel["threads"]}, {kernel["shared_bytes"]}, {kernel["blocks"]});
                }}""")
    (folder / "kernels.cpp").write_text("\n".join(parts))
    library = folder / "kernels.so"
    command = ["c++", "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-o", str(library), "kernels.cpp"]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    loaded = ctypes.CDLL(str(library))
    return [
        {
            name: CpuKernel(loaded[f"run_{index}_{number}"], source.constants, about)
            for number, (name, about) in enumerate(entry_points(source).items())
        }
        for index, source in enumerate(sources)
    ]
