"""What `datasentinel produce` sends: rows of a file or synthetic telemetry, and how a broker gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from datasentinel.cli.reading import ReadingOptions
from datasentinel.producer import FileRows, Fleet, Telemetry
from datasentinel.producer.broker_client import Payloads

if TYPE_CHECKING:
    from pathlib import Path

    from datasentinel.artifact import Config


def rows_to_send(
    *,
    count: int | None,
    file: Path | None,
    label: str | None,
    normal: tuple[str, ...],
    config: Config | None,
    dim: int | None,
    anomaly_share: float | None,
    seed: int,
    id_column: str | None,
    time_column: str | None,
    streams: int | None,
) -> FileRows | Fleet | Telemetry:
    """Return the samples that the command's options of the same names ask for.

    Raises
    ------
    click.UsageError
        The options do not go together.
    DataError
        The file cannot be read, or its columns are not what the options or the model say.
    """
    if file is None:
        if label is not None or normal or id_column is not None or time_column is not None:
            raise click.UsageError("--label, --normal, --id and --time need --file.")
        if (dim is None) == (config is None):
            raise click.UsageError(
                "Synthetic telemetry needs one of --dim and --model; rows come from --file."
            )
        width = config.input_dim if config is not None else dim
        assert width is not None  # noqa: S101
        share = 0.05 if anomaly_share is None else anomaly_share
        if streams is not None:
            return Fleet(streams, width, anomaly_share=share, seed=seed)
        return Telemetry(width, anomaly_share=share, seed=seed)
    if dim is not None or anomaly_share is not None or streams is not None:
        raise click.UsageError(
            "--dim, --anomaly-share and --streams are for synthetic telemetry, not for --file."
        )
    from datasentinel.tables import open_table

    roles = ReadingOptions(label=label, normal=normal, id=id_column, time=time_column).roles(config)
    table = open_table(file, roles=roles)
    for warning in table.warnings:
        click.echo(f"warning     {warning}", err=True)
    if time_column is not None and config is not None and config.time_zone is not None:
        table.add_calendar(config.time_zone)
    return FileRows(table, repeat=count is not None, with_times=time_column is not None)


def payloads_for(rows: FileRows | Fleet | Telemetry, config: Config | None, time: str | None) -> Payloads:
    """Return how samples are written for a broker: by name where there are names."""
    names = config.table_features if config is not None else ()
    if isinstance(rows, FileRows) and not names:
        names = rows.names
    if time is None and config is not None and isinstance(told := config.columns.get("time"), str):
        time = told
    if time is not None and not names:
        raise click.UsageError("--time needs the names of the features: say --model or --file.")
    return Payloads(names, time)
