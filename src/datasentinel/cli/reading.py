"""Reading of data files for a command: options, and reports on columns and bad rows."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from datasentinel.errors import DataError
from datasentinel.scoring import as_trained, check_width, roles_for_model
from datasentinel.tables import Roles, open_table
from datasentinel.tables.text_format import NOTHING_KNOWN, TextFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasentinel.artifact import Config
    from datasentinel.tables import Dataset, Problems, Table
    from datasentinel.types import Float32Array


_COLUMNS_SHOWN = 3


class Names(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Names or patterns such as "a,b,m*"."""

    name = "name,pattern,..."

    def convert(
        self, value: object, _param: click.Parameter | None, _ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split at the commas."""
        if isinstance(value, tuple):
            return value
        return tuple(name for part in str(value).split(",") if (name := part.strip()))


@dataclass(frozen=True)
class ReadingOptions:
    """What the options that `reading_options` adds say, and what is known of how text is written."""

    features: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    time: str | None = None
    id: str | None = None
    label: str | None = None
    day_first: bool | None = None
    normal: tuple[str, ...] = ()
    header: bool | None = None
    decimal: str | None = None
    text: TextFormat = NOTHING_KNOWN

    def roles(
        self,
        config: Config | None = None,
        *,
        keep: tuple[str, ...] = (),
        needs_label: bool = True,
        may_lack: bool = False,
    ) -> Roles:
        """Return the columns' roles, with those of a model where there is one."""
        asked = Roles(
            features=self.features,
            ignore=self.ignore,
            time=self.time,
            id=self.id,
            label=self.label,
            day_first=self.day_first,
            normal=self.normal,
            keep=keep,
            needs_label=needs_label,
            may_lack=may_lack,
            text=self.text,
        )
        return asked if config is None else roles_for_model(asked, config)


_DECIMALS = {"point": ".", "comma": ","}
_OPTIONS = (
    click.option(
        "--features", type=Names(), default="", help="Features, such as a,b,'m*'.  [default: inferred]"
    ),
    click.option("--ignore", type=Names(), default="", help="Columns to leave out, such as ts,host,'*_id'."),
    click.option("--time", help="Column that says when a row was taken."),
    click.option(
        "--day-first/--month-first",
        default=None,
        help="Whether times such as 03/04/2026 12:00 begin with the day or with the month.  [default: as in "
        "the model's training, or what suits all of them]",
    ),
    click.option("--id", help="Column that says which series a row belongs to."),
    click.option(
        "--label",
        help="Column that says which rows are anomalies; like the others, by name or by number from 1 "
        "(-1 is the last).  [default: inferred from names and values]",
    ),
    click.option(
        "--normal",
        type=Names(),
        default="",
        metavar="VALUE,..",
        help="The label's values that mean normal.  [default: 0, False, normal, ..., or 1 beside -1]",
    ),
    click.option(
        "--header/--no-header", default=None, help="Whether delimited text has a header.  [default: inferred]"
    ),
    click.option(
        "--decimal",
        type=click.Choice(list(_DECIMALS)),
        help="Decimal mark in delimited text; the other one is between thousands then.  [default: inferred, "
        "in doubt as in the model's training]",
    ),
)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how to read a table, and hand them over as `reading`."""

    @functools.wraps(command)
    def with_options(**options: Any) -> Any:  # noqa: ANN401
        names = ReadingOptions.__dataclass_fields__
        reading = ReadingOptions(**{name: options.pop(name) for name in names if name in options})
        return command(**options, reading=reading)

    decorated: Callable[..., Any] = with_options
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def data_argument(name: str = "data", metavar: str = "DATA...") -> Callable[..., Any]:
    """Return the argument for one or several files."""
    return click.argument(name, metavar=metavar, nargs=-1, required=True)


def open_data(
    paths: Sequence[str],
    reading: ReadingOptions,
    config: Config | None = None,
    *,
    keep: tuple[str, ...] = (),
    needs_label: bool = True,
    time_zone: str | None = None,
    may_lack: bool = False,
) -> Table:
    """Open files whose columns fit a model, and report which columns are left out.

    With a time zone, or a model with a season, the second of the week follows the features. Rows may lack
    values where `may_lack` or the model says so; they are NaN then.

    Raises
    ------
    DataError
        A file cannot be read or lacks columns.
    """
    roles = reading.roles(config, keep=keep, needs_label=needs_label, may_lack=may_lack)
    table = open_table(
        *paths, roles=roles, header=reading.header, decimal=_DECIMALS.get(reading.decimal or "")
    )
    for column in table.columns.left_out:
        click.echo(f"left out    {column}", err=True)
    for warning in table.warnings:
        click.echo(f"warning     {warning}", err=True)
    if config is not None:
        table.columns = as_trained(table.columns, config)
    zone = time_zone if config is None else config.time_zone
    if zone is not None:
        table.add_calendar(zone)
    if config is not None:
        check_width(table.name, table.num_features, config)
    return table


def read_data(
    paths: Sequence[str],
    reading: ReadingOptions,
    config: Config | None = None,
    *,
    max_rows: int | None = None,
    needs_label: bool = True,
    judge_columns: bool | None = None,
    time_zone: str | None = None,
    with_order: bool = False,
    needs_times: bool = True,
    may_lack: bool = False,
) -> Dataset:
    """Read files whole; bad rows are left out and reported.

    With their order, rows whose times cannot be read are bad ones only if times are needed.

    Raises
    ------
    DataError
        A file cannot be read, lacks columns, or has no usable rows.
    """
    table = open_data(paths, reading, config, needs_label=needs_label, time_zone=time_zone, may_lack=may_lack)
    with progress_bar(f"reading {table.name}") as progress:
        dataset = table.read(
            max_rows=max_rows,
            threads=os.cpu_count() or 1,
            judge_columns=config is None if judge_columns is None else judge_columns,
            with_times=with_order or (config is not None and bool(config.state)),
            needs_times=needs_times,
            with_series=with_order or (config is not None and bool(config.state)),
            progress=progress,
        )
    for column in dataset.columns.left_out[len(table.columns.left_out) :]:
        click.echo(f"left out    {column}", err=True)
    for warning in dataset.warnings[len(table.warnings) :]:
        click.echo(f"warning     {warning}", err=True)
    tell_problems(dataset.problems)
    worst = ", ".join(
        f"{count:,} for {column}" for column, count in dataset.problems.columns.most_common(_COLUMNS_SHOWN)
    )
    if not len(dataset.values):
        raise DataError(f"{table.name}: no usable rows{': ' * bool(worst)}{worst}")
    if dataset.problems.total > dataset.num_rows and worst:
        click.echo(
            f"warning     more rows are left out than used, {worst}: mend such columns, or leave them out "
            "with --ignore",
            err=True,
        )
    return dataset


def tell_problems(problems: Problems) -> None:
    """Report bad rows on stderr."""
    if problems.total:
        click.echo(f"bad rows    {problems.total:,} left out", err=True)
    for line in problems.lines():
        click.echo(f"            {line}", err=True)


def normal_rows(dataset: Dataset) -> Float32Array:
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
        raise DataError("no normal rows: all are labelled as anomalies")
    return values


class progress_bar:  # noqa: N801 - used as a function
    """A progress bar with rate and time left on stderr; invisible where stderr is not a terminal.

    Parameters
    ----------
    description : str
        What goes on.
    """

    def __init__(self, description: str) -> None:
        self._bar: Any = None
        self._description = description

    def __enter__(self) -> Callable[..., None]:
        if not sys.stderr.isatty():
            return lambda *_args: None
        # Slow to import, and needed by people only.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(self._description, total=1.0, rate="")
        self._bar.start()
        return self._show

    def _show(self, share: float, rows: int | None = None) -> None:
        elapsed = self._bar.tasks[0].elapsed or 0
        rate = f"{rows / elapsed:,.0f} rows/s" if rows and elapsed else ""
        self._bar.update(self._task, completed=share, rate=rate)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
