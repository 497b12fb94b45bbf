"""`datasentinel recalibrate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from datasentinel.artifact import save_config
from datasentinel.calibration import ThresholdMethod, calibrate
from datasentinel.cli.reading import ReadingOptions, data_argument, read_data, reading_options
from datasentinel.cli.recordings import score_dataset
from datasentinel.cli.threshold_options import threshold_options
from datasentinel.detector import Detector
from datasentinel.errors import DataError
from datasentinel.promise import calibrate_served
from datasentinel.types import BACKEND_NAMES

if TYPE_CHECKING:
    from datasentinel.artifact import Config

# As many as training asks for.
_LEAST_ROWS = 10


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@data_argument()
@threshold_options
@reading_options
@click.option("--backend", type=click.Choice(BACKEND_NAMES), default="auto", show_default=True)
def command(  # noqa: PLR0917 - click passes them by name
    model: Path,
    data: tuple[str, ...],
    target_fpr: float,
    threshold_method: ThresholdMethod,
    reading: ReadingOptions,
    backend: str,
) -> None:
    """Move the threshold of MODEL, without retraining, to suit the normal rows of DATA.

    The rows should be ones that the model was not trained on. Rows labelled as anomalies are left out. The
    p-values and the distributions that `drift` compares with are taken from the same rows. Only config.json
    is written; a server that runs takes it with --watch, or at SIGHUP.
    """
    detector = Detector.load(model, backend=backend)
    scored = score_dataset(detector, read_data(data, reading, detector.artifact.config))
    told = ~scored.warming
    if scored.dataset.labels is not None:
        told &= ~scored.dataset.labels
    if not told.any():
        raise DataError("no normal rows: all are labelled as anomalies, or of streams that warm up")
    rows, scores = scored.rows[told], scored.scores[told]
    if len(rows) < _LEAST_ROWS:
        raise DataError(f"{len(rows)} normal rows to find a threshold on, at least {_LEAST_ROWS} are needed")
    if detector.scorer.state_dim:
        # A score of a recording depends on the rows before it, as it should.
        calibration = calibrate(
            scores,
            method=threshold_method,
            target_fpr=target_fpr,
            rows=rows,
            recording=True,
            has_memory=True,
            row_s=_row_s(detector.artifact.config),
        )
    else:
        from datasentinel.training.recording import is_recording

        calibration = calibrate_served(
            detector.score,
            rows,
            method=threshold_method,
            target_fpr=target_fpr,
            recording=is_recording(rows),
        )
    artifact = detector.artifact
    save_config(
        artifact.directory,
        dataclasses.replace(
            artifact.config, threshold=calibration.threshold, calibration=calibration.facts()
        ),
    )
    for when, threshold in (("before", detector.threshold), ("now", calibration.threshold)):
        rate = np.mean(scores.astype(np.float64) > threshold)
        click.echo(f"{when:<12}threshold {threshold:.6g}, false-positive rate on these rows {rate:.4g}")
    click.echo(f"{'calibrated':<12}{calibration.describe()}")
    if calibration.rows_needed:
        click.echo(f"{'warning':<12}the target is out of reach of {len(rows)} rows", err=True)
    click.echo(f"{'model':<12}{artifact.directory}")


def _row_s(config: Config) -> float | None:
    """Return the seconds from one row to the next in training, where they are known."""
    alarms = config.calibration.get("false_alarms")
    row_s = alarms.get("row_s") if isinstance(alarms, Mapping) else None
    return row_s if isinstance(row_s, float | int) else config.row_s
