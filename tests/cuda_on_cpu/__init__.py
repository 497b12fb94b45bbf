"""A CUDA device that is simulated on the CPU: driver, compiler, streams, memory, errors.

The libraries stand in for libcuda and NVRTC in a process of its own; `driver.cpp` says what they do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

_SOURCES = Path(__file__).parent
_ROOT = _SOURCES.parents[1]
_FLAGS = ("-std=c++20", "-O1", "-w", "-fPIC", "-fvisibility=hidden", "-pthread")
BUILD_TIMEOUT_S = 600.0
RUN_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class SimulatedDevice:
    """Where the libraries lie, and how a process is told of them."""

    folder: Path

    def environment(self, **settings: object) -> dict[str, str]:
        """Give the variables of a process that has the device; `memory_mib=64` is CUDA_ON_CPU_MEMORY_MIB."""
        paths = [str(self.folder), os.environ.get("LD_LIBRARY_PATH", "")]
        modules = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        device = {f"CUDA_ON_CPU_{name.upper()}": str(value) for name, value in settings.items()}
        return (
            os.environ
            | {
                "LD_LIBRARY_PATH": ":".join(filter(None, paths)),
                "DATASENTINEL_NVRTC_LIBRARY": str(self.folder / "libnvrtc.so"),
                "PYTHONPATH": ":".join(filter(None, modules)),
                # A torch with CUDA must not take it for the real one.
                "CUDA_VISIBLE_DEVICES": "",
                "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
            }
            | device
        )

    def run_tests(self, report: Path, *arguments: str, **settings: object) -> dict[str, str]:
        """Run pytest with the device; give each test's outcome: "passed", "failed", or why it was skipped."""
        command = (
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "tests.cuda_on_cpu.inside.leaks",
            f"--junitxml={report}",
            *arguments,
        )
        done = self.run(*command, **settings)
        assert report.is_file(), done.stdout + done.stderr
        outcomes = {}
        for case in ET.parse(report).iter("testcase"):
            skipped = case.find("skipped")
            wrong = [case.find("failure"), case.find("error")] != [None, None]
            outcome = skipped.get("message", "") if skipped is not None else "passed"
            outcomes[f"{case.get('classname')}.{case.get('name')}"] = "failed" if wrong else outcome
        assert done.returncode == 0, done.stdout + done.stderr
        return outcomes

    def run(
        self, *arguments: str, environment: dict[str, str] | None = None, **settings: object
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with the device."""
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            env=environment or self.environment(**settings),
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )


def build(folder: Path) -> SimulatedDevice:
    """Build the libraries; skip the test where there is no compiler."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler `c++` on the PATH")
    if not sys.platform.startswith("linux"):
        pytest.skip("the simulated device is made for Linux")
    # In this folder GCC finds kernel.h.gch, with which kernels compile in a third of the time.
    kernel_compiler = "\\n".join([compiler, *_FLAGS, f"-I{folder}", f"-I{_SOURCES}"])
    library = [compiler, *_FLAGS, "-shared", f"-I{_SOURCES}", "-o"]
    commands = [
        # Closed after an error and opened again, it goes on counting the calls.
        [*library, str(folder / "libcuda.so.1"), str(_SOURCES / "driver.cpp"), "-Wl,-z,nodelete"],
        [
            *(*library, str(folder / "libnvrtc.so"), str(_SOURCES / "nvrtc.cpp")),
            f'-DCUDA_ON_CPU_COMPILER="{kernel_compiler}"',
        ],
        [
            compiler,
            *_FLAGS,
            "-x",
            "c++-header",
            "-o",
            str(folder / "kernel.h.gch"),
            str(_SOURCES / "kernel.h"),
        ],
    ]
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for command in commands
    ]
    for process in processes:
        _, errors = process.communicate(timeout=BUILD_TIMEOUT_S)
        assert process.returncode == 0, errors
    return SimulatedDevice(folder)
