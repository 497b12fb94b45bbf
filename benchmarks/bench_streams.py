"""What a row of a detector with memory costs, beside one of a subspace: CPU time, in turns.

python -m benchmarks.bench_streams
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from datasentinel.artifact import Artifact
from datasentinel.detector import Detector
from datasentinel.export import build_artifact
from datasentinel.training import TrainingSettings, train

COLUMNS = 38
TURNS = 9
ROWS = 2048


def recording(rows, seed):
    """Columns that follow eight slowly moving causes, with noise."""
    random = np.random.default_rng(seed)
    causes = np.cumsum(random.normal(size=(rows, 8)), axis=0) % 20
    causes = np.minimum(causes, 20 - causes)
    mix = np.random.default_rng(0).normal(size=(8, COLUMNS))
    return (causes @ mix + random.normal(size=(rows, COLUMNS))).astype(np.float32)


def scorer(model, backend):
    rows = recording(4000, 1)
    result = train(rows, settings=TrainingSettings(model=model))
    built = build_artifact(result, rows=rows)
    return Detector(Artifact(Path(model), built.config, built.onnx), backend=backend).scorer, result.model


def calls(scorer, rows, streams):
    """Return what scores ROWS rows, `streams` at once."""
    scores = np.empty(streams, np.float32)
    parts = rows[: ROWS // streams * streams].reshape(-1, streams, COLUMNS)
    if not scorer.state_dim:
        return lambda: [scorer.score(part, scores) for part in parts]
    states = np.zeros((streams, scorer.state_dim), np.float32)
    if streams == 1:
        everything = np.empty(ROWS, np.float32)
        return lambda: scorer.scan(rows, states, everything)
    return lambda: [scorer.step(part, states, scores) for part in parts]


def main():
    rows = recording(ROWS, 2)
    for backend in ("fused", "onnxruntime"):
        scorers = {}
        for model in ("subspace", "context"):
            scorers[model], trained = scorer(model, backend)
            print(f"{backend}: {model}: {trained.summary()}")
        for streams in (1, 64, 1024):
            works = {model: calls(it, rows, streams) for model, it in scorers.items()}
            fastest = dict.fromkeys(works, float("inf"))
            for _ in range(TURNS):
                for model, work in works.items():
                    start = time.process_time()
                    work()
                    fastest[model] = min(fastest[model], time.process_time() - start)
            told = ", ".join(f"{model} {took / ROWS * 1e6:.2f} us" for model, took in fastest.items())
            print(f"{backend}: {streams} at once, a row: {told}")


if __name__ == "__main__":
    main()
