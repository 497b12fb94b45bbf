"""`datasentinel bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from datasentinel.artifact import load_artifact
from datasentinel.bench.charts import CHARTS, chart_file, draw_charts
from datasentinel.bench.compare import DEFAULT_MIN_CHANGE, compare_reports
from datasentinel.bench.contenders import our_contenders, peer_contenders
from datasentinel.bench.report import load_report, save_report
from datasentinel.bench.run import DEFAULT_BATCHES, run_python_level, start_report
from datasentinel.bench.subject import subject_of
from datasentinel.bench.tables import make_console, print_comparison, print_report
from datasentinel.cli.writing import require_other_file, require_other_files

if TYPE_CHECKING:
    from datasentinel.bench.report import Report
    from datasentinel.bench.subject import Subject

_EXIT_REGRESSION = 1


class BatchSizes(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Batch sizes such as "1,8,64"."""

    name = "rows,rows,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse, sort and check."""
        if isinstance(value, tuple):
            return value
        try:
            sizes = sorted({int(part) for part in str(value).split(",")})
        except ValueError:
            sizes = []
        if not sizes or sizes[0] < 1 or sizes[-1] > 1_000_000:
            self.fail(f"{value!r} is not a list of numbers from 1 to 1000000, such as 1,8,64", param, ctx)
        return tuple(sizes)


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--batches",
    type=BatchSizes(),
    default=",".join(map(str, DEFAULT_BATCHES)),
    show_default=True,
    help="Rows per call.",
)
@click.option(
    "--budget-s",
    type=click.FloatRange(min=0, min_open=True, max=86_400),
    default=30.0,
    show_default=True,
    help="About how long to measure, not counting loading and checking.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the whole result here.",
)
@click.option(
    "--charts",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for PNG charts: latency, throughput and share of peak by batch size.",
)
@click.option("--quiet", is_flag=True, help="Print neither table nor progress.")
@click.option(
    "--compare",
    nargs=2,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="BEFORE AFTER",
    help="Compare two results of --json instead of measuring.",
)
@click.option(
    "--min-change",
    type=click.FloatRange(min=0),
    default=DEFAULT_MIN_CHANGE,
    show_default=True,
    help="For --compare: the smallest relative change of interest.",
)
@click.pass_context
def command(  # noqa: PLR0917 - click passes them by name
    context: click.Context,
    model: Path | None,
    batches: tuple[int, ...],
    budget_s: float,
    json_path: Path | None,
    charts: Path | None,
    quiet: bool,
    compare: tuple[Path, Path] | None,
    min_change: float,
) -> None:
    """Measure MODEL on this machine: our backends beside ONNX Runtime's and OpenVINO's Python APIs.

    Every contender's scores are first checked against a float64 evaluation of the model. The contenders take
    turns on one thread, so that a busy machine affects all alike. "speed-up" is ONNX Runtime's time over
    the contender's in the same round, median over the rounds; "of peak" is the arithmetic of the dense layers
    done per second by the core's measured multiply-add peak.

    With --compare, show what changed between two results; the exit code is 1 when something became slower by
    more than the noise, which is taken from the spread of the rounds.
    """
    console = make_console(quiet=quiet)
    if compare:
        if model is not None:
            raise click.UsageError("--compare takes two result files and no MODEL")
        comparison = compare_reports(*map(load_report, compare), min_change=min_change)
        print_comparison(console, comparison)
        regressions = len(comparison.regressions)
        console.print(f"{len(comparison.changes)} compared, {regressions} slower by more than the noise")
        if regressions:
            context.exit(_EXIT_REGRESSION)
        return
    if model is None:
        raise click.UsageError("name a MODEL to measure, or two results to --compare")
    subject = subject_of(load_artifact(model))
    files = subject.artifact.files
    if json_path is not None:
        require_other_file(json_path, files)
    if charts is not None:
        require_other_files(charts, [chart_file(subject.name, chart) for chart in CHARTS], files)
    report = _measure(subject, batches, budget_s, quiet=quiet)
    print_report(console, report)
    if json_path:
        save_report(report, json_path)
        console.print(f"wrote {json_path}")
    if charts:
        for path in draw_charts(report, charts):
            console.print(f"wrote {path}")


def _measure(subject: Subject, batches: tuple[int, ...], budget_s: float, *, quiet: bool) -> Report:
    errors = Console(stderr=True, quiet=quiet)
    with errors.status("measuring the core's peak") as status:
        report = start_report([subject], {"batches": list(batches), "budget_s": budget_s, "num_threads": 1})
        run_python_level(
            report,
            [subject],
            [*our_contenders(), *peer_contenders()],
            batches=batches,
            budget_s=budget_s,
            progress=lambda text: status.update(f"measuring {text}"),
        )
    return report
