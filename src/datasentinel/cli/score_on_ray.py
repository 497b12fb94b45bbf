"""`datasentinel score --engine ray`."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasentinel import errors
from datasentinel.errors import DataError, DataSentinelError, ServerError, SettingsError
from datasentinel.tables.sources import expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from datasentinel.cli.reading import ReadingOptions


def score_on_ray(
    data: Sequence[str],
    model: Path,
    out: str | None,
    reading: ReadingOptions,
    *,
    address: str | None,
    workers: int | None,
    **asked: Any,  # noqa: ANN401 - what `score_dataset` is asked for
) -> None:
    """Score Parquet files on a Ray cluster, and write as many as the engine sees fit into a folder.

    Raises
    ------
    SettingsError
        There is no folder to write into, or it is told what dates begin with.
    DataError
        The files are not Parquet, the folder holds something already, or none of the rows is usable.
    """
    if out is None:
        raise SettingsError("--engine ray writes Parquet files into a folder: name it with --out")
    if reading.day_first is not None:
        raise SettingsError(
            "--engine ray reads each date alone, in the order that the model was trained on, without "
            "--day-first and --month-first: write times as 2026-10-24T12:00:00"
        )
    paths = [source.path for source in expand(data)]
    if wrong := [path for path in paths if not path.lower().endswith((".parquet", ".pq"))]:
        raise DataError(f"{wrong[0]}: not Parquet, which --engine ray reads")
    _require_new(out)
    from datasentinel.ray import score_dataset

    with _cluster(address, workers or 1) as engine:
        scored = score_dataset(
            engine.read_parquet(paths, file_extensions=None),
            model,
            features=reading.features,
            ignore=reading.ignore,
            time=reading.time,
            id=reading.id,
            concurrency=workers,
            **asked,
        )
        scored.write_parquet(out)
        _summarise(engine.read_parquet(out, columns=["anomaly", "error"]), " ".join(data))


@contextlib.contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[Any]:
    """Lend `ray.data` on a cluster, and report what its workers raise on purpose in their own words."""
    import ray
    import ray.data

    begun_here = not ray.is_initialized()
    if begun_here:
        # Each worker has a core of Ray's count for itself; without one more nothing would be read for them.
        is_own = address is None and "RAY_ADDRESS" not in os.environ
        cores = max(os.cpu_count() or 1, workers + 1) if is_own else None
        # Only what this command has to say; a cluster's own messages are in its logs.
        ray.init(address=address, num_cpus=cores, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray.data
    except ray.exceptions.RayError as error:
        raise _own_error(error) from error
    finally:
        if begun_here:
            ray.shutdown()


def _require_new(out: str) -> None:
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(out if "://" in out else str(Path(out).absolute()))
    if system.get_file_info(path).type != fs.FileType.NotFound:
        raise DataError(f"{out}: is there already; scores of two runs in one folder could not be told apart")


def _own_error(error: Exception) -> DataSentinelError:
    """Return what a worker raised on purpose; of that, no more than its traceback's text arrives here."""
    told = re.search(r"^datasentinel\.errors\.(\w+): (.+)$", str(error), re.MULTILINE)
    if told is None:
        return ServerError(f"Ray: {error}")
    kind: type[DataSentinelError] = getattr(errors, told[1])
    return kind(told[2])


def _summarise(scored: Any, name: str) -> None:  # noqa: ANN401
    """Count what was written, by reading two columns of it."""
    counts = scored.map_batches(_count, batch_format="pyarrow").sum(["rows", "anomalies", "bad"])
    rows, anomalies, bad = (counts[f"sum({column})"] for column in ("rows", "anomalies", "bad"))
    click.echo(f"{rows} rows, {anomalies} anomalies, {bad} bad rows", err=True)
    if rows == bad:
        raise DataError(f"{name}: no usable rows")


def _count(table: Any) -> Any:  # noqa: ANN401
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = (table["anomaly"], table["error"].is_valid())
    anomalies, bad = (pc.sum(column, min_count=0).as_py() for column in columns)
    return pa.table({"rows": [table.num_rows], "anomalies": [anomalies], "bad": [bad]})
