"""`datasentinel train`."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datasentinel.artifact import CONFIG_FILE, MODEL_FILE, load_artifact
from datasentinel.cli.reading import data_argument, read_data, reading_options
from datasentinel.cli.recordings import HalfLives, as_recordings, put_in_order
from datasentinel.cli.threshold_options import threshold_options
from datasentinel.cli.writing import require_other_files
from datasentinel.errors import DataError, SettingsError
from datasentinel.missing import fill_forward
from datasentinel.precisions import PRECISIONS
from datasentinel.training.season import SEASONS
from datasentinel.training.settings import ACTIVATIONS, DEVICES, MISSING, MODELS, TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.artifact import Json
    from datasentinel.cli.reading import ReadingOptions
    from datasentinel.export import Exported
    from datasentinel.tables import Dataset
    from datasentinel.training import Epoch, TrainingResult
    from datasentinel.types import BoolArray, Float64Array


def _parse_hidden(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    if value.strip() == "none":
        return ()
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        raise click.BadParameter("expected widths such as 64,16, or none") from None


def _parse_name(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    # A number would be taken for a version.
    if value is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", value):
        raise click.BadParameter("expected a letter followed by letters, digits, '.', '_' and '-'")
    return value


@click.command()
@data_argument()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("models"),
    show_default=True,
    help="Directory for model.onnx and config.json.",
)
@click.option(
    "--name", callback=_parse_name, help="Write to OUT/NAME/VERSION instead, VERSION being the next one."
)
@reading_options
@click.option(
    "--max-rows",
    type=click.IntRange(1),
    default=2_000_000,
    show_default=True,
    help="Maximum number of rows to train on; larger files are sampled at random.",
)
@click.option("--test", "test_path", help="Labelled file to evaluate the model on.")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Directory for plots.")
@click.option(
    "--season",
    type=click.Choice(SEASONS),
    help="Subtract what the columns usually are at that time of the day or of the week, by the column "
    "--time; auto chooses. The model then takes one more column, the second of the local week, as its last.",
)
@click.option(
    "--time-zone",
    metavar="NAME",
    help="Time zone of the season, from the IANA database, such as Europe/Berlin.  [default: UTC]",
)
@click.option(
    "--model",
    type=click.Choice(MODELS),
    default="auto",
    show_default=True,
    help="What to train; auto takes a subspace for a recording, whose neighbouring rows are alike, and an "
    "ensemble for other data. context judges the rows of a recording by those before them; auto takes it "
    "for a recording with --time or --id. The options from --hidden to --device are for a plain autoencoder "
    "only.",
)
@click.option(
    "--half-life",
    "half_lives",
    type=HalfLives(),
    default=(),
    help="How long a context detector remembers, in rows or, with --time, in time, such as 8,32 or 30s,2m.  "
    "[default: chosen from the recording]",
)
@click.option(
    "--missing",
    type=click.Choice(MISSING),
    default="error",
    show_default=True,
    help="What a missing value is: carry lets a context detector take the one of the row before, in training "
    "and in use.",
)
@click.option(
    "--steps", type=click.IntRange(1), help="Training steps of the ensemble's autoencoder.  [default: 600]"
)
@click.option(
    "--prototypes",
    type=click.IntRange(1),
    help="Prototypes in each space of the ensemble; more are slower.  [default: by the number of columns]",
)
@click.option(
    "--hidden",
    callback=_parse_hidden,
    metavar="N,N,..|none",
    help="Widths of the encoder's hidden layers; the decoder mirrors them.  [default: chosen from the data]",
)
@click.option(
    "--latent", type=click.IntRange(1), help="Width of the bottleneck.  [default: chosen from the data]"
)
@click.option(
    "--activation", type=click.Choice(ACTIVATIONS), help="Activation of the hidden layers.  [default: relu]"
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Maximum number of passes over the data.  [default: chosen from the data]",
)
@click.option("--batch-size", type=click.IntRange(1), help="Rows per step.  [default: chosen from the data]")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help="[default: chosen from the network's size]",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@threshold_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Precision of the network's layers in the exported model.",
)
def command(  # noqa: PLR0917 - click passes them by name
    data: tuple[str, ...],
    out: Path,
    name: str | None,
    reading: ReadingOptions,
    max_rows: int,
    test_path: str | None,
    report: Path | None,
    precision: str,
    time_zone: str | None,
    half_lives: tuple[tuple[float, bool], ...],
    **settings: object,
) -> None:
    """Train a detector on the normal rows of DATA and write it as a model artifact.

    DATA is one or several files, patterns, folders, URLs or - for standard input: delimited text, JSON
    lines, Parquet, an .npy array or an .npz archive with X and, optionally, y; compressed or not. Indexes of
    data frames, timestamps, identifiers, text and constants are left out, with a line for each; --features
    and --ignore settle doubts. Rows labelled as anomalies are never trained on, only used to judge the
    detector.
    """
    chosen = TrainingSettings(**settings)  # type: ignore[arg-type]  # click has checked the types
    from datasentinel.export import export_artifact
    from datasentinel.training import train

    if chosen.season is None and time_zone is not None:
        raise SettingsError("--time-zone is for --season")
    _require_other_outputs(data, test_path, out if name is None else None, report)
    zone = None if chosen.season is None else time_zone or "UTC"
    has_memory = chosen.model == "context"
    if half_lives and not has_memory:
        raise SettingsError("--half-life is for --model context")
    may_be_recordings = chosen.may_have_memory and bool(reading.time or reading.id)
    carries = chosen.missing == "carry"
    dataset = read_data(
        data,
        reading,
        max_rows=max_rows,
        time_zone=zone,
        with_order=has_memory or may_be_recordings,
        needs_times=has_memory,
        may_lack=carries,
    )
    _tell(" ".join(data), dataset)
    order = None
    if test_path is not None and any(timed for _, timed in half_lives):
        raise SettingsError("--test knows no times: train without it, and judge the model by `evaluate`")
    if has_memory:
        dataset, chosen, order = put_in_order(dataset, chosen, half_lives)
    elif may_be_recordings:
        dataset, chosen, order = as_recordings(dataset, chosen)
    test = None
    if test_path is not None:
        test = _read_test(test_path, reading, dataset, time_zone=zone, may_lack=carries)
    with _TrainingProgress() as progress:
        result = train(
            dataset.values,
            labels=dataset.labels,
            test=test,
            settings=chosen,
            feature_names=dataset.feature_names,
            on_epoch=progress.show,
            order=order,
        )
    if carries and order is not None:
        values = fill_forward(dataset.values, result.first_values, order.starts)
        dataset = dataclasses.replace(dataset, values=values)
    for warning in result.warnings:
        click.echo(f"warning     {warning}", err=True)
    exported = export_artifact(
        result,
        out,
        rows=dataset.values.astype("float32"),
        name=name,
        feature_names=dataset.feature_names,
        columns=dataset.columns.facts(),
        time_zone=zone or "UTC",
        text_format=dataset.text.facts(),
        training_facts={**_data_facts(data), "seed": chosen.seed},
    )
    _summarise(result, exported)
    if precision != "fp32":
        from datasentinel.cli.export import report as report_precision
        from datasentinel.export.precision import change_precision

        rows, labels = (dataset.values, dataset.labels) if test is None else test
        change = change_precision(
            load_artifact(exported.directory),
            precision,
            exported.directory,
            rows=rows.astype("float32"),
            labels=None if labels is None else labels != 0,
        )
        report_precision(change)
    if report is not None:
        from datasentinel.training.report import write_report

        written = write_report(
            result,
            report,
            rows=dataset.values.astype("float32"),
            labels=dataset.labels,
            feature_names=dataset.feature_names,
            title=f"{exported.config.name} {exported.config.version}",
            facts=_report_facts(data, dataset, exported),
        )
        names = ", ".join(path.name for path in written)
        click.echo(f"report      {report} ({names})")


def _require_other_outputs(
    data: tuple[str, ...], test_path: str | None, model: Path | None, report: Path | None
) -> None:
    """Refuse to write over a file that is read."""
    inputs = [*data, *([] if test_path is None else [test_path])]
    if model is not None:
        require_other_files(model, (CONFIG_FILE, MODEL_FILE), inputs)
    if report is not None:
        from datasentinel.training.report import FILES

        require_other_files(report, FILES, inputs)


def _read_test(
    path: str, reading: ReadingOptions, trained: Dataset, *, time_zone: str | None, may_lack: bool
) -> tuple[Float64Array, BoolArray]:
    """Read rows and labels to judge the model by."""
    features = trained.columns.feature_names or reading.features
    reading = dataclasses.replace(reading, features=features, text=trained.text)
    found = read_data([path], reading, judge_columns=False, time_zone=time_zone, may_lack=may_lack)
    _tell(path, found)
    if found.labels is None:
        raise DataError(f"{path}: no label column; --test needs one")
    if found.values.shape[1] != trained.values.shape[1]:
        raise DataError(
            f"{path}: {found.values.shape[1]} feature columns, but the data to train on has "
            f"{trained.values.shape[1]}"
        )
    return found.values, found.labels


def _tell(name: str, dataset: Dataset) -> None:
    good, width = dataset.values.shape
    labelled = ""
    if dataset.labels is not None:
        label = dataset.columns.label
        by = "" if label is None else f" by column '{dataset.columns.names[label]}'"
        labelled = f", {int(dataset.labels.sum())} of them labelled as anomalies{by}"
    sampled = "" if good == dataset.num_rows else f", a random sample of {dataset.num_rows:,} (--max-rows)"
    click.echo(f"data        {name}: {good} rows of {width} features{labelled}{sampled}")


def _report_facts(paths: Sequence[str], dataset: Dataset, exported: Exported) -> list[tuple[str, str]]:
    facts = [
        ("data", ", ".join(Path(path).name for path in paths)),
        ("artifact", str(exported.directory)),
        ("bad rows left out", str(dataset.problems.total)),
    ]
    if dataset.columns.left_out:
        left_out = "; ".join(f"{column.name}: {column.reason}" for column in dataset.columns.left_out)
        facts.append(("columns left out", left_out))
    return facts + [("odd", warning) for warning in dataset.warnings]


def _data_facts(paths: Sequence[str]) -> dict[str, Json]:
    """Return the names of the data and, for a single file, its digest."""
    facts: dict[str, Json] = {"data": ", ".join(Path(path).name for path in paths)}
    if len(paths) == 1 and Path(paths[0]).is_file():
        with Path(paths[0]).open("rb") as file:
            facts["data_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return facts


def _summarise(result: TrainingResult, exported: Exported) -> None:
    calibration, check = result.calibration, exported.verification
    least = min((epoch.held_out_loss for epoch in result.history), default=None)
    loss = "" if least is None else f", loss {least:.4g}"
    held_out = "the last " if result.recording else ""
    click.echo(f"network     {result.model.summary()}")
    click.echo(
        f"rows        {result.rows_trained} trained on, {held_out}{result.rows_held_out} held out{loss}"
    )
    click.echo(f"threshold   {calibration.threshold:.6g} ({calibration.describe()})")
    for name, seen in calibration.observed.items():
        click.echo(f"checked     {seen.above} of {seen.rows} {name} above the threshold ({seen.share:.2%})")
    if result.quality:
        quality = result.quality
        click.echo(
            f"quality     AUROC {quality.auroc:.4f}, average precision {quality.average_precision:.4f} "
            f"on {quality.rows} test rows, {quality.anomalies} of them anomalies"
        )
        click.echo(
            f"decisions   precision {quality.precision:.4f}, recall {quality.recall:.4f}, "
            f"F1 {quality.f1:.4f}, false-positive rate {quality.false_positive_rate:.4f}"
        )
    elif result.test_labels is not None:
        click.echo("quality     not measured: the test rows are all of one kind")
    click.echo(
        f"export      max abs difference of scores to the trained detector's {check.max_absolute:.3g} "
        f"(relative {check.max_relative:.3g}, {check.rows} rows, {check.runtime})"
    )
    click.echo(f"model       {exported.directory}")


class _TrainingProgress:
    """A progress bar on stderr; invisible where stderr is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}  {task.description}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=1)

    def __enter__(self) -> _TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, epoch: Epoch) -> None:
        """Move on to `epoch`."""
        loss = f"loss {epoch.loss:.4g}, held out {epoch.held_out_loss:.4g}"
        self._progress.update(self._task, completed=epoch.number, total=epoch.of, description=loss)
