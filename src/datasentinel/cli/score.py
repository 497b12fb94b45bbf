"""`datasentinel score`."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click
import numpy as np

from datasentinel.cli.reading import (
    Names,
    ReadingOptions,
    data_argument,
    open_data,
    progress_bar,
    reading_options,
    tell_problems,
)
from datasentinel.cli.recordings import Alarms, known_times, require_times
from datasentinel.errors import DataError
from datasentinel.tables import Problems
from datasentinel.tables.pipeline import ordered_map
from datasentinel.tables.writers import (
    JSON_SUFFIXES,
    PARQUET_SUFFIXES,
    CsvScoreWriter,
    JsonScoreWriter,
    OutputColumns,
    ParquetScoreWriter,
    Scored,
    ScoreWriter,
)
from datasentinel.types import BACKEND_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasentinel.detector import Detector
    from datasentinel.reasons import Reason
    from datasentinel.tables import Table
    from datasentinel.tables.base import Block, Part
    from datasentinel.tables.chunk import Chunk


@click.command()
@data_argument()
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
    help="CSV, JSON lines (.jsonl) or Parquet file for the scores.  [default: CSV on standard output]",
)
@click.option("--backend", type=click.Choice(BACKEND_NAMES), default="auto", show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default="all",
    help="Threads to parse and score on.",
)
@click.option(
    "--p-values", is_flag=True, help="Add a column p_value: how rare such a score is among normal rows."
)
@click.option(
    "--explain",
    "num_reasons",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Report the N features that contributed most to each score: columns reason_1 to reason_N in CSV, a "
    "list `reasons` of feature, value, expected value and share in JSON lines and Parquet.",
)
@click.option(
    "--keep", type=Names(), default="", help="Columns to copy to the output, such as host,'meta_*'."
)
@click.option(
    "--alarm-budget",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="For a model with memory: raise the threshold while more than this share of a series' rows is above "
    "it, so that no more are called anomalies in the long run, however the series drifts.",
)
@reading_options
def command(  # noqa: PLR0917 - click passes them by name
    data: tuple[str, ...],
    model: Path,
    out: Path | None,
    backend: str,
    threads: int,
    p_values: bool,
    num_reasons: int,
    keep: tuple[str, ...],
    alarm_budget: float | None,
    reading: ReadingOptions,
) -> None:
    """Score the rows of DATA and write a score and a decision for each.

    DATA is one or several files, patterns, folders, URLs or - for standard input. Where model and data name
    their columns, columns are taken by name; no label is needed. The output has a row for each row of the
    data: one that cannot be scored has an empty score and the reason in the column `error`. The columns
    --time, --id and --keep are handed through, and so are those that the model was trained with as time and
    id. `severity` is the score over the threshold, above 1 for anomalies; models whose threshold is not
    above 0 have none.

    A model with memory (train --model context) scores each row given the past of its series; --id separates
    apart; the rows of a series must be in order of time. Its first rows are never called anomalies; `warming`
    is 1 for them.

    With --explain, a reason in CSV reads `name=value (expected value)`: what was observed, and what the model
    would have expected.
    """
    from datasentinel.detector import Detector

    detector = Detector.load(model, backend=backend)
    table = open_data(data, reading, detector.artifact.config, keep=keep, needs_label=False)
    kept = tuple(table.columns.names[column] for column in table.columns.keep)
    # A logarithm of a distance, as old models score, has no ratio to its threshold.
    severity = detector.threshold > 0
    has_memory = detector.scorer.state_dim > 0
    if alarm_budget is not None and not has_memory:
        raise DataError("--alarm-budget is for models with memory (train --model context)")
    columns = OutputColumns(kept, severity, p_values, min(num_reasons, detector.input_dim), has_memory)
    if p_values:
        detector.p_values_of_scores(np.empty(0, np.float32))  # Fail before the output is opened.
    rows = anomalies = 0
    problems = Problems()
    with (
        _open_writer(out, columns) as writer,
        progress_bar(f"scoring {table.name}") as progress,
    ):
        for scored in score_table(detector, table, columns, threads=threads, alarm_budget=alarm_budget):
            writer.write(scored)
            problems.add(scored.chunk.bad)
            rows += scored.chunk.num_rows
            anomalies += int(np.count_nonzero(scored.anomalies))
            progress(scored.chunk.share_read, rows)
    tell_problems(problems)
    click.echo(
        f"{rows} rows, {anomalies} anomalies, {problems.total} bad rows (threshold {detector.threshold:.6g})",
        err=True,
    )
    if rows == problems.total:
        raise DataError(f"{table.name}: no usable rows")


def score_table(
    detector: Detector,
    table: Table,
    columns: OutputColumns,
    *,
    threads: int,
    alarm_budget: float | None = None,
) -> Iterator[Scored]:
    """Read, parse and score a table, chunk by chunk; parsing and scoring run on `threads` threads.

    A model with memory scores the rows in their order, each in the past of its own stream: those of one value
    in the id column, or all rows where there is none; `alarm_budget` is the share of `AlarmBudget`.
    """
    if detector.scorer.state_dim:
        yield from _score_streams(detector, table, columns, threads, alarm_budget)
        return

    def work(block: Block) -> tuple[Part, Scored]:
        chunk = table.parse(block, np.float32)
        scores = detector.score(chunk.values)
        scored = Scored(
            chunk,
            scores,
            scores.astype(np.float64) > detector.threshold,
            detector.severity_of_scores(scores) if columns.severity else None,
            detector.p_values_of_scores(scores) if columns.p_value else None,
            detector.explain(chunk.values, columns.num_reasons) if columns.num_reasons else None,
        )
        return block.part, scored

    results = ordered_map(work, table.blocks(), threads)
    place = table.placer()
    for part, scored in results:
        yield replace(scored, chunk=place(part, scored.chunk))


def _score_streams(
    detector: Detector, table: Table, columns: OutputColumns, threads: int, alarm_budget: float | None
) -> Iterator[Scored]:
    from datasentinel.streams import MAX_STREAMS, StreamDetector

    id_column, time_column = (table.columns.name_of(c) for c in (table.columns.id, table.columns.time))

    def parse(block: Block) -> tuple[Part, Chunk]:
        return block.part, table.parse(block, np.float32)

    require_times(detector, are_there=time_column is not None)
    streams = StreamDetector(detector)
    alarms = Alarms(detector.threshold, alarm_budget)
    place = table.placer()
    for part, parsed in ordered_map(parse, table.blocks(), threads):
        chunk = place(part, parsed)
        series = [""] * len(chunk.rows) if id_column is None else chunk.good_texts(id_column)
        times = None if time_column is None else known_times(chunk.good_values(time_column))
        reasons: list[list[Reason]] | None = None
        if columns.num_reasons:
            scores, warming, reasons = streams.explain_many(
                chunk.values, series, times, top=columns.num_reasons
            )
        else:
            scores, warming = streams.update_many(chunk.values, series, times)
        anomalies = alarms.decide(scores, warming, series)
        yield Scored(
            chunk,
            scores,
            anomalies,
            detector.severity_of_scores(scores) if columns.severity else None,
            detector.p_values_of_scores(scores) if columns.p_value else None,
            reasons,
            warming,
        )
    if streams.stale_rows:
        click.echo(
            f"{streams.stale_rows} rows have a column without a value for more than "
            f"{detector.artifact.config.stale_rows} rows: their scores are of what it was before",
            err=True,
        )
    if streams.evicted:
        click.echo(
            f"{streams.evicted} streams began anew: no more than {MAX_STREAMS} are remembered", err=True
        )


@contextlib.contextmanager
def _open_writer(out: Path | None, columns: OutputColumns) -> Iterator[ScoreWriter]:
    try:
        if out is not None and out.suffix.lower() in PARQUET_SUFFIXES:
            with ParquetScoreWriter(out, columns) as writer:
                yield writer
            return
        with _open_text(out) as file:
            kind = (
                CsvScoreWriter if out is None or out.suffix.lower() not in JSON_SUFFIXES else JsonScoreWriter
            )
            yield kind(file, columns)
    except OSError as error:
        raise DataError(
            f"{out or 'standard output'}: cannot be written: {error.strerror or error}"
        ) from error


@contextlib.contextmanager
def _open_text(out: Path | None) -> Iterator[TextIO]:
    if out is not None:
        with out.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    # Data is UTF-8 whatever the terminal takes.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    yield sys.stdout
    sys.stdout.flush()
