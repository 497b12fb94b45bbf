"""`datasentinel score`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from datasentinel.atomic_file import overwriting
from datasentinel.cli.reading import (
    Names,
    ReadingOptions,
    data_argument,
    open_data,
    progress_bar,
    reading_options,
    tell_problems,
)
from datasentinel.cli.writing import require_other_file
from datasentinel.errors import DataError, SettingsError
from datasentinel.scoring import ChunkScorer, ScoringRequest
from datasentinel.streams import MAX_STREAMS
from datasentinel.tables import Problems
from datasentinel.tables.pipeline import ordered_map
from datasentinel.tables.writers import (
    JSON_SUFFIXES,
    PARQUET_SUFFIXES,
    CsvScoreWriter,
    JsonScoreWriter,
    ParquetScoreWriter,
    ScoreWriter,
)
from datasentinel.types import BACKEND_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasentinel.tables import Table
    from datasentinel.tables.base import Block, Part
    from datasentinel.tables.chunk import Chunk
    from datasentinel.tables.scored import OutputColumns, Scored


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
    help="CSV, JSON lines (.jsonl) or Parquet file for the scores; with --engine ray a new folder.  "
    "[default: CSV on standard output]",
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
@click.option(
    "--engine",
    type=click.Choice(["process", "ray"]),
    default="process",
    show_default=True,
    help="Score here, or Parquet files on the workers of a Ray cluster, where rows have no number.",
)
@click.option(
    "--address",
    help="Address of the Ray cluster, such as auto or ray://host:10001.  [default: one on this machine]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Number of Ray processes that score.  [default: chosen by Ray]",
)
@reading_options
def command(  # noqa: PLR0917 - click passes them by name
    data: tuple[str, ...],
    model: Path,
    out: str | None,
    backend: str,
    threads: int,
    p_values: bool,
    num_reasons: int,
    keep: tuple[str, ...],
    alarm_budget: float | None,
    engine: str,
    address: str | None,
    workers: int | None,
    reading: ReadingOptions,
) -> None:
    """Score the rows of DATA and write a score and a decision for each.

    DATA is one or several files, patterns, folders, URLs or - for standard input. Where model and data name
    their columns, columns are taken by name; no label is needed. The output has a row for each row of the
    data: one that cannot be scored has an empty score and the reason in the column `error`. The columns
    --time, --id and --keep are handed through, and so are those that the model was trained with as time and
    id. `severity` is the score over the threshold, above 1 for anomalies; models whose threshold is not
    positive have none.

    A model with memory (train --model context) scores each row given the past of its series; --id says
    which series a row belongs to, and the rows of a series must be in order of time. Its first rows are never
    called anomalies; `warming` is 1 for them.

    With --explain, a reason in CSV reads `name=value (expected value)`: what was observed, and what the model
    would have expected.
    """
    if engine == "ray":
        from datasentinel.cli.score_on_ray import score_on_ray

        score_on_ray(
            data,
            model,
            out,
            reading,
            address=address,
            workers=workers,
            keep=keep,
            p_values=p_values,
            explain=num_reasons,
            alarm_budget=alarm_budget,
            backend=backend,
        )
        return
    if address is not None or workers is not None:
        raise SettingsError("--address and --workers are for --engine ray")
    from datasentinel.detector import Detector

    request = ScoringRequest(p_values=p_values, num_reasons=num_reasons, alarm_budget=alarm_budget)
    detector = Detector.load(model, backend=backend)
    require_other_file(out, [*data, *detector.artifact.files])
    table = open_data(data, reading, detector.artifact.config, keep=keep, needs_label=False)
    kept = tuple(table.columns.names[column] for column in table.columns.keep)
    columns = request.outputs(detector.artifact.config, kept)
    scorer = ChunkScorer(
        detector,
        columns,
        time=table.time_column() if detector.scorer.state_dim else None,
        id=table.columns.name_of(table.columns.id),
        alarm_budget=alarm_budget,
    )
    rows = anomalies = warming = 0
    problems = Problems()
    # Within it, an output that is replaced stays as it was where no row is usable.
    with _open_writer(None if out is None else Path(out), columns) as writer:
        with progress_bar(f"scoring {table.name}") as progress:
            for scored in score_table(scorer, table, threads):
                writer.write(scored)
                problems.add(scored.chunk.bad)
                rows += scored.chunk.num_rows
                anomalies += int(np.count_nonzero(scored.anomalies))
                warming += 0 if scored.warming is None else int(np.count_nonzero(scored.warming))
                progress(scored.chunk.share_read, rows)
        tell_problems(problems)
        if scorer.chronology.problem:
            click.echo(scorer.chronology.problem, err=True)
        if warming and warming == rows - problems.total:
            click.echo(
                "no row could be judged: all are of the beginnings of their series, by which the model "
                "warms up",
                err=True,
            )
        if scorer.stale_rows:
            click.echo(
                f"{scorer.stale_rows} rows have a column without a value for more than "
                f"{detector.artifact.config.stale_rows} rows: their scores are of what it was before",
                err=True,
            )
        if scorer.evicted:
            click.echo(
                f"{scorer.evicted} streams started over: no more than {MAX_STREAMS} are remembered", err=True
            )
        click.echo(
            f"{rows} rows, {anomalies} anomalies, {problems.total} bad rows "
            f"(threshold {detector.threshold:.6g})",
            err=True,
        )
        if rows == problems.total:
            raise DataError(f"{table.name}: no usable rows")


def score_table(scorer: ChunkScorer, table: Table, threads: int) -> Iterator[Scored]:
    """Read, parse and score a table, chunk by chunk; parsing runs on `threads` threads.

    So does scoring, but for models with memory, which score the rows in their order.
    """

    def parse(block: Block) -> tuple[Part, Chunk]:
        return block.part, table.parse(block, np.float32)

    def score(block: Block) -> tuple[Part, Scored]:
        part, chunk = parse(block)
        return part, scorer.score(chunk)

    place = table.placer()
    if scorer.has_memory:
        for part, chunk in ordered_map(parse, table.blocks(), threads):
            yield scorer.score(place(part, chunk))
    else:
        for part, scored in ordered_map(score, table.blocks(), threads):
            yield dataclasses.replace(scored, chunk=place(part, scored.chunk))


@contextlib.contextmanager
def _open_writer(out: Path | None, columns: OutputColumns) -> Iterator[ScoreWriter]:
    try:
        if out is None:
            # Data is UTF-8 whatever the terminal takes.
            if hasattr(sys.stdout, "reconfigure"):
                sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
            yield CsvScoreWriter(sys.stdout, columns)
            sys.stdout.flush()
            return
        with overwriting(out) as file:
            if out.suffix.lower() in PARQUET_SUFFIXES:
                with ParquetScoreWriter(file, columns, str(out)) as writer:
                    yield writer
                return
            # Halves of characters, which JSON can hold, become the escapes that they were.
            text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
            kind = JsonScoreWriter if out.suffix.lower() in JSON_SUFFIXES else CsvScoreWriter
            yield kind(text, columns)
            text.detach()  # flushes
    except BrokenPipeError:  # The reader has seen enough.
        raise
    except OSError as error:
        raise DataError(
            f"{out or 'standard output'}: cannot be written: {error.strerror or error}"
        ) from error
