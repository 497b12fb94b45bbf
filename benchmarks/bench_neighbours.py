"""Exact distances to the nearest of many points: `python -m benchmarks.bench_neighbours`.

Measures what the default model spends most of its time on, the mean distance of a row to its three nearest
of 1,024 prototypes, beside the exact searches of scikit-learn and faiss among the same points. All on one
thread, called from Python, in turns; times are the process's on the processor, and what counts are the ratios
within a round, whose medians it prints.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from datasentinel.artifact import Config, load_artifact, save_artifact
from datasentinel.bench.contenders import our_contenders, peer_contenders
from datasentinel.bench.measure import measure_in_turns
from datasentinel.bench.run import prepare_checked
from datasentinel.bench.subject import Subject
from datasentinel.export.builder import GraphBuilder
from datasentinel.export.ensemble_graph import add_prototypes
from datasentinel.training.prototypes import NEIGHBOURS, Prototypes

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS = 1024


def points_of(columns: int) -> Prototypes:
    """Draw standard normal points, which no gains tell apart."""
    centres = np.random.default_rng(columns).normal(size=(POINTS, columns)).astype(np.float32)
    return Prototypes(centres, np.ones((1, POINTS), np.float32))


def model_of(points: Prototypes, directory: Path) -> Subject:
    """Write the part of the default model's graph that measures distances."""
    columns = points.centres.shape[1]
    graph = GraphBuilder()
    (distance,) = add_prototypes(graph, points, "points", "input")
    graph.add("Squeeze", [distance, graph.features()], "score")
    for name in ("output", "contributions"):
        graph.add("Identity", ["input"], name)
    dims = {"input_dim": columns, "output_dim": columns, "latent_dim": columns}
    save_artifact(directory, graph.finish("neighbours", columns), Config(**dims, threshold=0.0))

    def reference(rows: np.ndarray) -> np.ndarray:
        wide, centres = rows.astype(np.float64), points.centres.astype(np.float64)
        squares = np.stack([np.square(row - centres).sum(axis=1) for row in wide])
        return np.sqrt(np.sort(squares, axis=1)[:, :NEIGHBOURS]).mean(axis=1)

    return Subject(f"{columns} columns", load_artifact(directory), POINTS * columns, reference)


def searches(points: Prototypes, rows: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Return what measures `rows` by the exact searches of other libraries, by name."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(points.centres.shape[1])
    index.add(points.centres)

    def in_sklearn(algorithm: str) -> Callable[[], np.ndarray]:
        search = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm=algorithm, n_jobs=1).fit(points.centres)
        return lambda: search.kneighbors(rows)[0].mean(axis=1)

    return {
        "faiss IndexFlatL2": lambda: np.sqrt(index.search(rows, NEIGHBOURS)[0]).mean(axis=1),
        "scikit-learn brute": in_sklearn("brute"),
        "scikit-learn kd_tree": in_sklearn("kd_tree"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--columns", default="4,10,38,100", help="default: %(default)s")
    parser.add_argument("--batches", default="1,64,1024", help="default: %(default)s")
    parser.add_argument("--case-s", type=float, default=3.0, help="about how long each; default: %(default)s")
    arguments = parser.parse_args()
    ours = next(contender for contender in our_contenders() if contender.name == "fused")
    for columns in map(int, arguments.columns.split(",")):
        points = points_of(columns)
        with tempfile.TemporaryDirectory() as folder:
            subject = model_of(points, Path(folder) / "model")
        for batch in map(int, arguments.batches.split(",")):
            rows = subject.rows(batch + 1)
            expected = subject.reference(rows)
            calls = {}
            for contender in (ours, *peer_contenders()):
                call, problem = prepare_checked(contender, subject, rows, expected)
                if call is None:
                    parser.error(f"{contender.name}: {problem}")
                calls[contender.name] = call
            for name, call in searches(points, rows[:batch]).items():
                np.testing.assert_allclose(call(), expected[:batch], rtol=1e-3, err_msg=name)
                calls[name] = call
            with threadpool_limits(1):
                timings = measure_in_turns(
                    calls,
                    budget_s=arguments.case_s,
                    peak_gflops=lambda: 0.0,
                    clock_ns=time.process_time_ns,
                )
            own = np.array(timings[ours.name].rounds_us)
            for name, timing in timings.items():
                times = np.array(timing.rounds_us)
                print(
                    f"{columns:>4} columns {batch:>5} rows  {np.median(times):>10.1f} us"
                    f"  {np.median(times / own):>6.1f} x  {name}"
                )


if __name__ == "__main__":
    main()
