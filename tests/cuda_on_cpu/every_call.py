"""Fails each call of the driver in turn, each time in a process of its own. Started by a test.

Arguments: the model's folder, the error's number. Prints how many calls there were, then a line for each that
went wrong.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np

from datasentinel import Detector, gpu
from datasentinel.errors import BackendError, BackendUnavailableError, OutOfMemoryError
from tests.cuda_on_cpu.libcuda import Cuda, error_of

# Python's advice against forks beside threads: these are NumPy's, which stand them.
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)

folder, code = sys.argv[1], int(sys.argv[2])
IS_STICKY = code == 719
# Through mapped memory, and by copies.
FEW = np.linspace(-1, 1, 5 * 7, dtype=np.float32).reshape(5, 7)
MANY = np.linspace(-2, 2, 600 * 7, dtype=np.float32).reshape(600, 7)
EXPECTED = [Detector.load(folder, backend="fused").contributions(rows) for rows in (FEW, MANY)]
TYPES = (BackendError, BackendUnavailableError, OutOfMemoryError)


def use() -> None:
    detector = Detector.load(folder, backend="fused-cuda")
    for rows, expected in zip((FEW, MANY), EXPECTED, strict=True):
        np.testing.assert_allclose(detector.contributions(rows), expected, rtol=1e-3, atol=1e-5)


def opened() -> Cuda:
    """Give the driver without a call of it: that would count, or fail."""
    cuda = Cuda.__new__(Cuda)
    cuda.open()
    return cuda


def fail_at(call: int) -> None:
    os.environ["CUDA_ON_CPU_FAIL"] = f"*:{call}={code}"
    error = error_of(use)
    assert error is None or isinstance(error, TYPES), repr(error)
    del error
    gc.collect()
    cuda = opened()
    assert cuda.leaks() == [], cuda.leaks()
    if not IS_STICKY:
        use()
        gc.collect()
        assert cuda.leaks() == [], cuda.leaks()


def in_own_process(work, *arguments) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(code)
    return os.waitpid(child, 0)[1]


def count_calls(pipe: int) -> None:
    use()
    os.write(pipe, str(opened().calls()).encode())


# Compiled once, for all processes to come: a kernel that does not load is made anew.
source = gpu.cuda_source((Path(folder) / "model.onnx").read_bytes(), name="m")
gpu.compile_cuda(source.text, architecture=90)
reading, writing = os.pipe()
assert in_own_process(count_calls, writing) == 0
calls = int(os.read(reading, 100))
print(calls, flush=True)
for call in range(1, calls + 1):
    status = in_own_process(fail_at, call)
    if status != 0:
        print(f"call {call}: status {status}", flush=True)
