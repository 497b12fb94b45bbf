"""`datasentinel export`: a trained model in a lower precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from datasentinel.artifact import MODEL_FILE, load_artifact, save_artifact
from datasentinel.cli.reading import ReadingOptions, reading_options
from datasentinel.cli.writing import require_other_file
from datasentinel.precisions import PRECISIONS

if TYPE_CHECKING:
    from datasentinel.export.precision import PrecisionChange


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the new artifact.",
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option(
    "--data",
    multiple=True,
    help="Rows for calibrating int8 and comparing scores; required unless --precision is fp32.",
)
@reading_options
def command(model: Path, out: Path, precision: str, data: tuple[str, ...], reading: ReadingOptions) -> None:
    """Write MODEL (an artifact folder with a float32 model) to OUT in another precision.

    The layers of the network change; scaling, distances and the score stay in float32. The threshold stays
    the same, and how many decisions change is reported.
    """
    artifact = load_artifact(model)
    require_other_file(out / MODEL_FILE, artifact.files)
    if precision == "fp32":
        click.echo(f"model       {save_artifact(out, artifact.onnx, artifact.config)}")
        return
    if not data:
        raise click.UsageError(f"--precision {precision} needs --data")
    from datasentinel.cli.reading import read_data
    from datasentinel.export.precision import change_precision

    dataset = read_data(data, reading, artifact.config)
    change = change_precision(
        artifact, precision, out, rows=dataset.values.astype("float32"), labels=dataset.labels
    )
    report(change)
    click.echo(f"model       {out}")


def report(change: PrecisionChange) -> None:
    """Print what a lower precision did."""
    click.echo(
        f"precision   {change.precision} in {change.layers} layers, {change.bytes_before} -> "
        f"{change.bytes_after} bytes"
    )
    click.echo(
        f"scores      median error {change.median_error:.3g}, greatest {change.greatest_error:.3g} of the "
        f"interquartile range; {change.decisions_changed:.3%} of {change.rows} decisions change"
    )
    if change.auroc_before is not None and change.auroc_after is not None:
        click.echo(f"AUROC       {change.auroc_before:.4f} -> {change.auroc_after:.4f}")
