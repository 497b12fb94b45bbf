"""`datasentinel export`: a trained model in a lower precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from datasentinel.artifact import load_artifact, save_artifact
from datasentinel.precisions import PRECISIONS

if TYPE_CHECKING:
    from datasentinel.export.precision import PrecisionChange


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the new artifact goes.",
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Rows to calibrate int8 with and to compare the scores on; needed unless --precision is fp32.",
)
@click.option("--label", help="Label column of DATA, 0 for normal.")
def command(model: Path, out: Path, precision: str, data: Path | None, label: str | None) -> None:
    """Write MODEL (an artifact folder with a float32 model) to OUT in another precision.

    The layers of the network change; scaling, distances and the score stay in float32. The threshold stays
    the same, and how many decisions change is reported.
    """
    artifact = load_artifact(model)
    if precision == "fp32":
        click.echo(f"model       {save_artifact(out, artifact.onnx, artifact.config)}")
        return
    if data is None:
        raise click.UsageError(f"--precision {precision} needs --data")
    from datasentinel.datasets import open_data
    from datasentinel.export.precision import change_precision

    dataset = open_data(data, label=label, features=artifact.config.feature_names).read()
    labels = None if dataset.labels is None else dataset.labels != 0
    change = change_precision(artifact, precision, out, rows=dataset.values.astype("float32"), labels=labels)
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
