"""`datasentinel import`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from datasentinel.artifact import CONFIG_FILE, MODEL_FILE, Artifact, Config, save_artifact
from datasentinel.cli.reading import ReadingOptions, normal_rows, read_data, reading_options
from datasentinel.cli.threshold_options import threshold_options
from datasentinel.cli.writing import require_other_files
from datasentinel.detector import Detector
from datasentinel.errors import DataError
from datasentinel.foreign import HIGHER_IS, KINDS, HigherIs, Kind, wrap
from datasentinel.promise import calibrate_served
from datasentinel.types import BACKEND_NAMES

if TYPE_CHECKING:
    from datasentinel.calibration import ThresholdMethod
    from datasentinel.types import Float32Array

# Of the normal rows: by chance hardly two have the greatest score.
_SHARED = 0.01


@click.command()
@click.argument("onnx_file", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option(
    "--calibrate",
    "data",
    required=True,
    help="Rows to calibrate the threshold on, ideally ones that the model was not trained on; only normal "
    "ones are used.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for model.onnx and config.json.",
)
@click.option("--output", help="The output to take.  [default: the only one that fits]")
@click.option(
    "--kind", type=click.Choice(KINDS), help="What that output is.  [default: inferred from its shape]"
)
@click.option("--higher-is", type=click.Choice(HIGHER_IS), help="What a higher score means; for scores.")
@threshold_options
@reading_options
@click.option("--backend", type=click.Choice(BACKEND_NAMES), default="auto", show_default=True)
def command(  # noqa: PLR0917 - click passes them by name
    onnx_file: Path,
    data: str,
    out: Path,
    output: str | None,
    kind: Kind | None,
    higher_is: HigherIs | None,
    target_fpr: float,
    threshold_method: ThresholdMethod,
    reading: ReadingOptions,
    backend: str,
) -> None:
    """Make a model artifact from MODEL.onnx, a detector made elsewhere.

    The graph takes one tensor [batch, D] and returns scores [batch] or [batch, 1], or reconstructions
    [batch, D]; the score of a reconstruction is its mean squared difference from the input. Whatever the
    fused backend cannot run, ONNX Runtime does.
    """
    require_other_files(out, (CONFIG_FILE, MODEL_FILE), [onnx_file, data])
    dataset = read_data([data], reading)
    rows = normal_rows(dataset)
    wrapped = wrap(onnx_file, sample=rows[:2], output=output, kind=kind, higher_is=higher_is)
    config = Config(
        input_dim=wrapped.input_dim,
        output_dim=wrapped.input_dim,
        latent_dim=wrapped.input_dim,
        threshold=0.0,
        name=onnx_file.stem,
        version="1",
        feature_names=dataset.feature_names,
        columns=dataset.columns.facts(),
        text_format=dataset.text.facts(),
        score=_definition(wrapped.output, wrapped.kind, higher_is),
        training={
            "imported_from": onnx_file.name,
            "sha256": hashlib.sha256(onnx_file.read_bytes()).hexdigest(),
            "producer": wrapped.producer,
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        },
    )
    from datasentinel.training.recording import is_recording

    detector = Detector(Artifact(out, config, wrapped.onnx), backend=backend)
    try:
        calibration = calibrate_served(
            detector.score,
            rows,
            method=threshold_method,
            target_fpr=target_fpr,
            recording=is_recording(rows),
        )
    except DataError as error:
        raise DataError(f"{onnx_file}: {error}") from error
    if len(calibration.table.scores) == 1:
        score = calibration.table.scores[0]
        raise DataError(f"{onnx_file}: all {len(rows)} normal rows of {data} have the score {score:g}")
    config = dataclasses.replace(config, threshold=calibration.threshold, calibration=calibration.facts())
    save_artifact(out, wrapped.onnx, config)
    click.echo(f"imported    {onnx_file}: {config.score}")
    click.echo(f"backend     {detector.backend}")
    for name, reason in detector.info()["refusals"].items():
        click.echo(f"            not {name}: {reason}")
    click.echo(f"threshold   {calibration.threshold:.6g} ({calibration.describe()})")
    if warning := _why_unreachable(calibration.threshold, detector.score(rows)):
        click.echo(f"warning     {warning}", err=True)
    click.echo(f"model       {out}")


def _why_unreachable(threshold: float, scores: Float32Array) -> str:
    """Return why no score may exceed the threshold, or an empty string."""
    greatest = float(scores.max())
    share = np.count_nonzero(scores == greatest) / len(scores)
    if threshold < greatest or share < _SHARED:
        return ""
    return (
        f"{share:.1%} of the normal rows share the greatest score, {greatest:g}: if scores end there, no row "
        "is ever an anomaly; take a score, not a decision or a saturated probability, with --output"
    )


def _definition(output: str, kind: Kind, higher_is: HigherIs | None) -> str:
    if kind == "reconstruction":
        return f"mean squared difference between the input and output '{output}'"
    return f"output '{output}'" + (", negated" if higher_is == "normal" else "")
