"""Fails each call of the driver in turn, each time in a process of its own. Started by a test.

Arguments: the model's folder, the error's number. Prints how many calls there were, then a line for each that
went wrong.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback

import numpy as np

from datasentinel import Detector
from datasentinel.errors import BackendError, BackendUnavailableError, OutOfMemoryError
from tests.cuda_on_cpu.libcuda import Cuda, error_of

folder, code = sys.argv[1], int(sys.argv[2])
IS_STICKY = code == 719
# Through mapped memory, and by copies.
FEW = np.linspace(-1, 1, 5 * 33, dtype=np.float32).reshape(5, 33)
MANY = np.linspace(-2, 2, 200 * 33, dtype=np.float32).reshape(200, 33)
EXPECTED = [Detector.load(folder, backend="fused").contributions(rows) for rows in (FEW, MANY)]
TYPES = (BackendError, BackendUnavailableError, OutOfMemoryError)


def use() -> None:
    detector = Detector.load(folder, backend="fused-cuda")
    for rows, expected in zip((FEW, MANY), EXPECTED, strict=True):
        np.testing.assert_allclose(detector.contributions(rows), expected, rtol=1e-3, atol=1e-5)


def fail_at(call: int) -> None:
    os.environ["CUDA_ON_CPU_FAIL"] = f"*:{call}={code}"
    error = error_of(use)
    assert error is None or isinstance(error, TYPES), repr(error)
    del error
    gc.collect()
    # The process's own handle on the device, as that error may have been the first.
    cuda = Cuda.__new__(Cuda)
    cuda.open()
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
    os.write(pipe, str(Cuda().calls()).encode())


reading, writing = os.pipe()
assert in_own_process(count_calls, writing) == 0
calls = int(os.read(reading, 100))
print(calls, flush=True)
for call in range(1, calls + 1):
    status = in_own_process(fail_at, call)
    if status != 0:
        print(f"call {call}: status {status}", flush=True)
