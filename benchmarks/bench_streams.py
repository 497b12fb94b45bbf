"""What a row of a detector with memory costs, beside one of a subspace: CPU time, in turns.

python -m benchmarks.bench_streams
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from datasentinel.artifact import Artifact
from datasentinel.backend import (
    InferenceService,
    LineSession,
    ModelTable,
    RequestCounts,
    Shadow,
    StateStore,
)
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


def line_session(scorer, warm_up_rows, max_streams, *, with_shadow=False):
    """Return a connection of the line protocol without a socket, and what it takes to keep it."""
    models = ModelTable()
    states = shadow = None
    if scorer.state_dim:
        states = StateStore(scorer.state_dim, warm_up_rows, max_streams=max_streams, gap_s=1e9)
    if with_shadow:
        shadow = Shadow(scorer, StateStore(scorer.state_dim, warm_up_rows, max_streams=max_streams))
    models.put("model", "1", scorer, states=states, shadow=shadow)
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    service = InferenceService(
        models,
        max_inline_us=1e9,
        memory_bytes=1 << 30,
        queue_rows=1 << 16,
        max_queue_delay_us=0,
        queue_threads=1,
        wake_descriptor=wake,
    )
    return LineSession(service, RequestCounts([1.0]), max_line_bytes=1 << 20), states


def served(scorers, rows):
    """Tell what a line of a stream costs in a session that gets 64 at a time."""
    texts = [" ".join(f"{value:.3g}" for value in row) for row in rows]
    for streams in (1, 64, 100_000):
        names = [f"@host-{i * 7919 % streams:06d} " for i in range(ROWS)]
        timed = [f"{name}t={1.7e9 + 10 * i} " for i, name in enumerate(names)]
        works = {}
        for model, scorer, beginnings, with_shadow in (
            ("subspace", scorers["subspace"], names, False),
            ("context", scorers["context"], names, False),
            ("context with times", scorers["context"], timed, False),
            ("context with a shadow", scorers["context"], names, True),
        ):
            lines = [f"{name}{text}\n" for name, text in zip(beginnings, texts, strict=True)]
            chunks = ["".join(lines[i : i + 64]).encode() for i in range(0, ROWS, 64)]
            session, states = line_session(scorer, 96, streams, with_shadow=with_shadow)
            if states is not None and streams > ROWS:
                filler = np.zeros((1, scorer.state_dim), np.float32)
                for i in range(streams):
                    states.insert([f"host-{i:06d}".encode()], filler)
            works[model] = lambda feed=session.feed, chunks=chunks: [feed(chunk) for chunk in chunks]
        fastest = cheapest(works)
        told = ", ".join(f"{model} {took / ROWS * 1e6:.2f} us" for model, took in fastest.items())
        print(f"lines of {streams} streams, a row: {told}")


def cheapest(works):
    """Return the least CPU time of each work, in turns."""
    fastest = dict.fromkeys(works, float("inf"))
    for _ in range(TURNS):
        for model, work in works.items():
            start = time.process_time()
            work()
            fastest[model] = min(fastest[model], time.process_time() - start)
    return fastest


def main():
    rows = recording(ROWS, 2)
    for backend in ("fused", "onnxruntime"):
        scorers = {}
        for model in ("subspace", "context"):
            scorers[model], trained = scorer(model, backend)
            print(f"{backend}: {model}: {trained.summary()}")
        for streams in (1, 64, 1024):
            works = {model: calls(it, rows, streams) for model, it in scorers.items()}
            fastest = cheapest(works)
            told = ", ".join(f"{model} {took / ROWS * 1e6:.2f} us" for model, took in fastest.items())
            print(f"{backend}: {streams} at once, a row: {told}")
        served(scorers, rows)


if __name__ == "__main__":
    main()
