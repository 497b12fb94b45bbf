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
from datasentinel.datasets.score_writers import (
    CsvScoreWriter,
    ExtraColumns,
    ParquetScoreWriter,
    ScoreWriter,
)
from datasentinel.errors import DataError
from datasentinel.types import BACKEND_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from datasentinel.datasets import Chunk
    from datasentinel.datasets.score_writers import Extra, Row
    from datasentinel.detector import Detector
    from datasentinel.types import Float32Array

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
@click.option(
    "--explain",
    "num_reasons",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Add columns reason_1 to reason_N: the features that contributed most to the score, the first most.",
)
def command(  # noqa: PLR0917 - click passes them by name
    file: Path,
    model: Path,
    out: Path | None,
    backend: str,
    p_values: bool,
    label: str | None,
    header: bool | None,
    num_reasons: int,
) -> None:
    """Score the rows of FILE and write row number (from 0), score and decision of each.

    FILE is read and scored piece by piece, so it may be larger than memory. Where both the model and the file
    name their columns, columns are taken by name. A row that cannot be scored gets an empty score and the
    reason in the column `error`.

    With --explain, a reason reads `name=value (expected value)`: what was observed, and what the model would
    have expected.
    """
    from datasentinel.detector import Detector

    detector = Detector.load(model, backend=backend)
    data = open_data(file, label=label, header=header, features=detector.feature_names)
    if data.num_features != detector.input_dim:
        raise DataError(
            f"{file}: {data.num_features} feature columns, but the model takes {detector.input_dim}; "
            "a label column that is not last and named 'label' is told with --label"
        )
    num_reasons = min(num_reasons, detector.input_dim)
    rows = anomalies = bad = 0
    extra = ExtraColumns(p_values, num_reasons)
    if p_values:
        detector.p_values_of_scores(np.empty(0, np.float32))  # Fail before the output is opened.
    with _open_writer(out, extra) as writer, _progress(file) as progress:
        for chunk in data.chunks():
            values = np.ascontiguousarray(chunk.values, dtype=np.float32)
            scores = detector.score(values)
            told = _tell(detector, values, scores, extra)
            decided = list(decide(chunk, scores, detector.threshold, told, extra))
            writer.write(decided)
            for wrong in chunk.bad[: max(0, _BAD_ROWS_SHOWN - bad)]:
                click.echo(f"bad row: {wrong}", err=True)
            rows += len(decided)
            anomalies += sum(1 for _, _, anomaly, *_ in decided if anomaly)
            bad += len(chunk.bad)
            progress.update(progress.task_ids[0], completed=chunk.share_read)
    click.echo(
        f"{rows} rows, {anomalies} anomalies, {bad} bad rows (threshold {detector.threshold:.6g})", err=True
    )
    if rows == bad:
        raise DataError(f"{file}: no usable rows")


def decide(
    chunk: Chunk,
    scores: Float32Array,
    threshold: float,
    told: Sequence[Sequence[Extra]],
    extra: ExtraColumns,
) -> Iterator[Row]:
    """Merge what is told of the good rows and the bad rows of a chunk, in the file's order."""
    bad = {wrong.row: wrong for wrong in chunk.bad}
    anomalies = scores.astype(np.float64) > threshold
    good = zip(chunk.rows.tolist(), scores.tolist(), anomalies.tolist(), told, strict=True)
    first = min([*bad, *chunk.rows[:1].tolist()], default=0)
    for row in range(first, first + len(bad) + len(chunk.rows)):
        if row in bad:
            yield row, None, None, str(bad[row]), *extra.of_bad_row
        else:
            position, score, anomaly, more = next(good)
            yield position, score, anomaly, "", *more


def _tell(
    detector: Detector, values: Float32Array, scores: Float32Array, extra: ExtraColumns
) -> list[tuple[Extra, ...]]:
    """Give each row's values in the extra columns."""
    p_values = zip(detector.p_values_of_scores(scores).tolist()) if extra.p_value else [()] * len(values)
    reasons = detector.explain(values, extra.num_reasons) if extra.num_reasons else [[]] * len(values)
    return [(*p_value, *map(str, why)) for p_value, why in zip(p_values, reasons, strict=True)]


@contextlib.contextmanager
def _open_writer(out: Path | None, extra: ExtraColumns) -> Iterator[ScoreWriter]:
    try:
        if out is None:
            yield CsvScoreWriter(sys.stdout, extra)
        elif out.suffix.lower() in PARQUET_SUFFIXES:
            with ParquetScoreWriter(out, extra) as writer:
                yield writer
        else:
            with out.open("w", encoding="utf-8", newline="") as file:
                yield CsvScoreWriter(file, extra)
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
