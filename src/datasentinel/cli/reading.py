"""Reading of whole data files for a command, with the bad rows told on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np

from datasentinel.datasets import open_data
from datasentinel.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from datasentinel.datasets import Dataset
    from datasentinel.detector import Detector
    from datasentinel.types import Float32Array

_BAD_ROWS_SHOWN = 5


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--label` and `--header`, which say how to read a data file."""
    label = click.option(
        "--label", help="Label column, 0 for normal: its name, or its number from 1 (-1 is the last)."
    )
    header = click.option(
        "--header/--no-header", default=None, help="Whether a CSV file has a header.  [default: find out]"
    )
    return label(header(command))


def read_data(
    path: Path, *, detector: Detector | None = None, label: str | None, header: bool | None
) -> Dataset:
    """Read a file whose columns fit `detector`; bad rows are left out and told.

    Raises
    ------
    DataError
        The file cannot be read, lacks columns, or has no usable rows.
    """
    features = detector.feature_names if detector else ()
    dataset = open_data(path, label=label, header=header, features=features).read()
    for bad in dataset.bad[:_BAD_ROWS_SHOWN]:
        click.echo(f"bad row: {bad}", err=True)
    if len(dataset.bad) > _BAD_ROWS_SHOWN:
        click.echo(f"and {len(dataset.bad) - _BAD_ROWS_SHOWN} more bad rows", err=True)
    rows, width = dataset.values.shape
    if not rows:
        raise DataError(f"{path}: no usable rows")
    if detector and width != detector.input_dim:
        raise DataError(
            f"{path}: {width} feature columns, but the model takes {detector.input_dim}; "
            "a label column that is not last and named 'label' is told with --label"
        )
    return dataset


def normal_rows(path: Path, dataset: Dataset) -> Float32Array:
    """Return the rows that are not labelled as anomalies.

    Raises
    ------
    DataError
        There are none.
    """
    values = np.ascontiguousarray(dataset.values, dtype=np.float32)
    if dataset.labels is not None:
        values = values[~dataset.labels]
    if not len(values):
        raise DataError(f"{path}: no normal rows, all are labelled as anomalies")
    return values
