"""What Ray and Spark cost beside one process: time and CPU of a row and of a job, with 1 and 2 workers.

    python -m benchmarks.bench_engines --model models/ [--rows 1000000] [--engines process,ray,spark]

Parquet files of float64 columns are scored into Parquet files, a fourth of the rows and all of them by turns,
after a first run that starts workers and loads the model. The difference of the two is what rows take, their
common part what a job takes; at last comes the CPU time of all rows' job over their number. Medians of
`--rounds`. CPU is that of this process and all that it started; on a machine that does other work, too, only
that can be compared. Without `--model` the network is so small that hardly anything but reading, writing and
the engine is measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from tests.networks import Network, write_artifact

FILES = 8
COLUMNS = 8


def write_files(folder: Path, names: tuple[str, ...], rows: int) -> None:
    folder.mkdir(parents=True)
    for number in range(FILES):
        values = np.random.default_rng(number).normal(size=(rows // FILES, len(names)))
        table = pa.table({name: values[:, i] for i, name in enumerate(names)})
        pq.write_table(
            table.append_column("key", pa.array(np.arange(len(values)))), folder / f"{number}.parquet"
        )


@contextmanager
def one_process(model: Path, features: tuple[str, ...], workers: int):
    def score(folder: Path, out: Path) -> None:
        arguments = ["score", folder, "--model", model, "--backend", "fused", "--keep", "key"]
        arguments += ["--features", ",".join(features), "--threads", workers]
        arguments += ["--out", out.with_suffix(".parquet")]
        done = CliRunner().invoke(cli, list(map(str, arguments)))
        assert done.exit_code == 0, done.output

    yield score


@contextmanager
def on_ray(model: Path, features: tuple[str, ...], workers: int):
    import ray

    from datasentinel.ray import score_dataset

    ray.init(num_cpus=workers + 1, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False

    def score(folder: Path, out: Path) -> None:
        rows = ray.data.read_parquet(str(folder), override_num_blocks=FILES)
        chosen = {"features": features, "keep": ["key"], "concurrency": workers}
        scored = score_dataset(rows, model, backend="fused", **chosen)
        scored.write_parquet(str(out))

    try:
        yield score
    finally:
        ray.shutdown()


@contextmanager
def on_spark(model: Path, features: tuple[str, ...], workers: int):
    from pyspark.sql import SparkSession

    from datasentinel.spark import score as score_frame

    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    spark = (
        SparkSession.builder.master(f"local-cluster[{workers},1,1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "65536")
        .getOrCreate()
    )

    def score(folder: Path, out: Path) -> None:
        frame = spark.read.parquet(str(folder))
        scored = score_frame(frame, model, features=features, keep=["key"], backend="fused")
        scored.write.parquet(str(out))

    try:
        yield score
    finally:
        spark.stop()


ENGINES = {"process": one_process, "ray": on_ray, "spark": on_spark}


def cpu_s() -> float:
    """CPU seconds so far of this process and all under it, those that ended too."""
    used = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used += sum(process.cpu_times()[:4])
    return used


def small_model(folder: Path) -> Path:
    onnx = Network.random([COLUMNS, 6, 3, 6, COLUMNS]).to_onnx()
    return write_artifact(folder, onnx, input_dim=COLUMNS, threshold=5.0)


def row_and_job(some: list[float], whole: list[float], rows: dict[str, int]) -> tuple[float, float]:
    """Take the microseconds a row and the seconds a job out of what some rows and all rows took."""
    some_s, whole_s = statistics.median(some), statistics.median(whole)
    row_s = (whole_s - some_s) / (rows["all"] - rows["some"])
    return row_s * 1e6, whole_s - row_s * rows["all"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default="process,ray,spark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = options.model or small_model(folder / "model")
        config = load_artifact(model).config
        # A model without names takes the columns that it is told.
        features = () if config.feature_names else tuple(f"f{column}" for column in range(config.input_dim))
        sizes = {"some": options.rows // 4, "all": options.rows}
        for size, rows in sizes.items():
            write_files(folder / size, config.feature_names or features, rows)
        for engine in options.engines.split(","):
            for workers in (1, 2):
                with ENGINES[engine](model, features, workers) as score:
                    times: dict[str, list[float]] = {size: [] for size in sizes}
                    used: dict[str, list[float]] = {size: [] for size in sizes}
                    for number in range(options.rounds + 1):
                        for size in sizes:
                            out = folder / "out"
                            begun, before = perf_counter(), cpu_s()
                            score(folder / size, out)
                            if number:
                                times[size].append(perf_counter() - begun)
                                used[size].append(cpu_s() - before)
                            shutil.rmtree(out, ignore_errors=True)
                row_us, job_s = row_and_job(times["some"], times["all"], sizes)
                row_cpu_us, job_cpu_s = row_and_job(used["some"], used["all"], sizes)
                rows_s = options.rows / statistics.median(times["all"])
                print(
                    f"{engine:8} {workers} worker(s): {rows_s:10,.0f} rows/s, "
                    f"{row_us:5.2f} us a row and {job_s:5.2f} s a job; "
                    f"CPU: {row_cpu_us:5.2f} us a row and {job_cpu_s:5.2f} s a job, "
                    f"{statistics.median(used['all']) / options.rows * 1e6:5.2f} us a row of the whole job",
                    flush=True,
                )


if __name__ == "__main__":
    main()
