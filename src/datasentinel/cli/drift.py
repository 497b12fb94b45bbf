"""`datasentinel drift`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datasentinel.cli.reading import ReadingOptions, data_argument, read_data, reading_options
from datasentinel.cli.recordings import score_dataset
from datasentinel.detector import Detector
from datasentinel.drift import PSI_DRIFTED, PSI_SHIFTING, Drift, compare
from datasentinel.errors import DataError
from datasentinel.types import BACKEND_NAMES

EXIT_DRIFTED = 3
_STYLES = {"stable": "green", "shifting": "yellow", "drifted": "bold red"}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@data_argument()
@reading_options
@click.option("--backend", type=click.Choice(BACKEND_NAMES), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(model: Path, data: tuple[str, ...], reading: ReadingOptions, backend: str, as_json: bool) -> None:
    """Compare the rows of DATA, and their scores, with those that MODEL was calibrated on.

    PSI below 0.1 is stable, from 0.1 shifting, from 0.25 drifted, provided that the KS statistic is too great
    for chance (1 % over all comparisons). Where the score or a column has drifted the model should be
    retrained, and the exit code is 3 instead of 0. A label column is ignored, and so are the rows by which a
    model with memory warms up.
    """
    detector = Detector.load(model, backend=backend)
    scored = score_dataset(detector, read_data(data, reading, detector.artifact.config, needs_label=False))
    told = ~scored.warming
    if not told.any():
        raise DataError("no rows to compare: all are of streams that warm up")
    drift = compare(detector.artifact, scored.rows[told], scored.scores[told])
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(drift) | {"retrain": drift.retrain}, indent=2))
    else:
        _print(Console(), drift)
    sys.exit(EXIT_DRIFTED if drift.retrain else 0)


def _print(console: Console, drift: Drift) -> None:
    table = Table("distribution", "PSI", "KS", "state")
    # The worst first: with many columns only the top is read.
    features = sorted(drift.features, key=lambda shift: -shift.psi)
    for shift in (drift.score, *features):
        state = f"[{_STYLES[shift.state]}]{shift.state}[/]"
        table.add_row(escape(shift.name), f"{shift.psi:.4f}", f"{shift.ks:.4f}", state)
    console.print(table)
    console.print(
        f"{drift.rows} rows against {drift.calibration_rows} calibration rows; PSI from {PSI_SHIFTING} is "
        f"shifting, from {PSI_DRIFTED} drifted, where KS is above {drift.ks_critical_value:.4f}",
        soft_wrap=True,
    )
    if not drift.features:
        console.print("the model keeps no columns' distributions; `datasentinel recalibrate` adds them")
    console.print(
        "[bold red]retrain[/]: the data has drifted" if drift.retrain else "no need to retrain seen"
    )
