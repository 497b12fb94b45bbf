"""From nothing to the first score, in a fresh process each time: import, load, plan, first score."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.models import SIZES

ROUNDS = 5

OURS = """
import json, sys, time
start = time.perf_counter()
import numpy as np
numpy_at = time.perf_counter()
from datasentinel import Detector
imported = time.perf_counter()
detector = Detector.load(sys.argv[1], backend=sys.argv[2], plan_budget_s=float(sys.argv[3]))
loaded = time.perf_counter()
score = detector.score(np.zeros((1, detector.input_dim), np.float32))
scored = time.perf_counter()
assert np.isfinite(score).all()
print(json.dumps({"import numpy": numpy_at - start, "import": imported - numpy_at, "load": loaded - imported,
                  "first score": scored - loaded, "total": scored - start}))
"""

ONNXRUNTIME = """
import json, sys, time
start = time.perf_counter()
import numpy as np
numpy_at = time.perf_counter()
import onnxruntime
imported = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
model = sys.argv[1] + "/model.onnx"
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
loaded = time.perf_counter()
(score,) = session.run(["score"], {"input": np.zeros((1, session.get_inputs()[0].shape[1]), np.float32)})
scored = time.perf_counter()
assert np.isfinite(score).all()
print(json.dumps({"import numpy": numpy_at - start, "import": imported - numpy_at, "load": loaded - imported,
                  "first score": scored - loaded, "total": scored - start}))
"""

CASES = {
    "fused": (OURS, "fused", "0"),
    "onnxruntime": (OURS, "onnxruntime", "0"),
    "auto, plan measured": (OURS, "auto", "1"),
    "auto, plan remembered": (OURS, "auto", "1"),
    "onnxruntime-python": (ONNXRUNTIME, "", "0"),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def bench_start(benchmark, subjects, tmp_path, size, case):
    program, *arguments = CASES[case]
    directory = str(subjects(size).artifact.directory)
    benchmark.group = f"start-up, {size}"
    phases: list[dict[str, float]] = []
    folders = iter(range(2 * ROUNDS + 2))

    def fresh_cache() -> str:
        return str(tmp_path / ("cache" if case == "auto, plan remembered" else f"cache{next(folders)}"))

    def start() -> None:
        done = subprocess.run(
            [sys.executable, "-c", program, directory, *arguments],
            env=os.environ | {"DATASENTINEL_CACHE_DIR": fresh_cache()},
            capture_output=True,
            text=True,
            check=True,
        )
        phases.append(json.loads(done.stdout))

    start()  # Files enter the page cache, and the plan the plan cache.
    phases.clear()
    benchmark.pedantic(start, rounds=ROUNDS, iterations=1)
    for phase in phases[0]:
        benchmark.extra_info[f"{phase}_ms"] = 1e3 * float(np.median([one[phase] for one in phases]))
