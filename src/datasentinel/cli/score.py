"""`datasentinel score`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress

from datasentinel.datasets import PARQUET_SUFFIXES, open_data
from datasentinel.datasets.score_writers import CsvScoreWriter, ParquetScoreWriter, ScoreWriter
from datasentinel.errors import DataError
from datasentinel.types import BACKEND_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasentinel.datasets import Chunk
    from datasentinel.datasets.score_writers import Row
    from datasentinel.types import Float32Array, Float64Array

_BAD_ROWS_SHOWN = 5


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    help="Directory of the model artifact.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV or Parquet file for the scores.  [default: CSV on standard output]",
)
@click.option("--backend", type=click.Choice(BACKEND_NAMES), default="auto", show_default=True)
@click.option(
    "--p-values", is_flag=True, help="Add a column p_value: how rare such a score is among normal rows."
)
@click.option("--label", help="Column that is no feature: its name, or its number from 1 (-1 is the last).")
@click.option(
    "--header/--no-header", default=None, help="Whether a CSV file has a header.  [default: find out]"
)
def command(  # noqa: PLR0917 - click passes them by name
    file: Path,
    model: Path,
    out: Path | None,
    backend: str,
    p_values: bool,
    label: str | None,
    header: bool | None,
) -> None:
    """Score the rows of FILE and write row number (from 0), score and decision of each.

    FILE is read and scored piece by piece, so it may be larger than memory. Where both the model and the file
    name their columns, columns are taken by name. A row that cannot be scored gets an empty score and the
    reason in the column `error`.
    """
    from datasentinel.detector import Detector

    detector = Detector.load(model, backend=backend)
    data = open_data(file, label=label, header=header, features=detector.feature_names)
    if data.num_features != detector.input_dim:
        raise DataError(
            f"{file}: {data.num_features} feature columns, but the model takes {detector.input_dim}; "
            "a label column that is not last and named 'label' is told with --label"
        )
    rows = anomalies = bad = 0
    if p_values:
        detector.p_values_of_scores(np.empty(0, np.float32))  # Fail before the output is opened.
    with _open_writer(out, p_values=p_values) as writer, _progress(file) as progress:
        for chunk in data.chunks():
            scores = detector.score(np.ascontiguousarray(chunk.values, dtype=np.float32))
            rarity = detector.p_values_of_scores(scores) if p_values else None
            decided = list(decide(chunk, scores, detector.threshold, rarity))
            writer.write(decided)
            for wrong in chunk.bad[: max(0, _BAD_ROWS_SHOWN - bad)]:
                click.echo(f"bad row: {wrong}", err=True)
            rows += len(decided)
            anomalies += sum(1 for decision in decided if decision[2])
            bad += len(chunk.bad)
            progress.update(progress.task_ids[0], completed=chunk.share_read)
    click.echo(
        f"{rows} rows, {anomalies} anomalies, {bad} bad rows (threshold {detector.threshold:.6g})", err=True
    )
    if rows == bad:
        raise DataError(f"{file}: no usable rows")


def decide(
    chunk: Chunk, scores: Float32Array, threshold: float, p_values: Float64Array | None = None
) -> Iterator[Row]:
    """Merge the good rows' scores and p-values and the bad rows of a chunk, in the file's order."""
    bad = {wrong.row: wrong for wrong in chunk.bad}
    anomalies = scores.astype(np.float64) > threshold
    good = iter(zip(chunk.rows.tolist(), scores.tolist(), anomalies.tolist(), strict=True))
    rarity = iter(() if p_values is None else p_values.tolist())
    first = min([*bad, *chunk.rows[:1].tolist()], default=0)
    for row in range(first, first + len(bad) + len(chunk.rows)):
        if row in bad:
            reason = str(bad[row])
            yield (row, None, None, reason) if p_values is None else (row, None, None, reason, None)
        else:
            yield (*next(good), "") if p_values is None else (*next(good), "", next(rarity))


@contextlib.contextmanager
def _open_writer(out: Path | None, *, p_values: bool) -> Iterator[ScoreWriter]:
    try:
        if out is None:
            yield CsvScoreWriter(sys.stdout, p_values=p_values)
        elif out.suffix.lower() in PARQUET_SUFFIXES:
            with ParquetScoreWriter(out, p_values=p_values) as writer:
                yield writer
        else:
            with out.open("w", encoding="utf-8", newline="") as file:
                yield CsvScoreWriter(file, p_values=p_values)
    except OSError as error:
        raise DataError(
            f"{out or 'standard output'}: cannot be written: {error.strerror or error}"
        ) from error


@contextlib.contextmanager
def _progress(file: Path) -> Iterator[Progress]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(f"scoring {file.name}", total=1.0)
        yield progress
