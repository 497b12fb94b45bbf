"""Shows reports and comparisons as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from datasentinel.bench.compare import Comparison
    from datasentinel.bench.report import Measurement, Report


def make_console(*, quiet: bool) -> Console:
    """Make a console wide enough for the tables, also where the output is a file."""
    console = Console(quiet=quiet, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, 110)
    return console


def _number(value: float) -> str:
    decimals = 3 if value < 10 else 1 if value < 1000 else 0
    return f"{value:,.{decimals}f}"


def print_report(console: Console, report: Report) -> None:
    """Print machine, roof, one table for each model and level, and which contenders were left out and why."""
    machine = report.machine
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']:.1f} before the run"
    )
    for roof in report.roof:
        console.print(
            f"one core, {roof['isa']}: {roof['gflops']:.1f} GFLOP/s; reads L1 {roof['l1_gb_s']:.0f}, "
            f"L2 {roof['l2_gb_s']:.0f}, memory {roof['memory_gb_s']:.0f} GB/s"
        )
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in report.measurements:
        groups.setdefault((measurement.model, measurement.level), []).append(measurement)
    for (model, level), measurements in groups.items():
        console.print(_table(f"{model}, called from {level}", measurements))
    places: dict[tuple[str, str], list[str]] = {}
    for entry in report.left_out:
        place = f"{entry['model']}, {entry['batch']} rows" if entry["batch"] else "everywhere"
        places.setdefault((entry["contender"], entry["reason"]), []).append(place)
    for (contender, reason), found in places.items():
        where = "everywhere" if "everywhere" in found else "; ".join(found)
        console.print(f"left out: {escape(contender)} ({where}): {escape(reason)}")


def _table(title: str, measurements: list[Measurement]) -> Table:
    table = Table(title=title)
    for heading in ("batch", "contender", "p50 µs", "p90 µs", "p99 µs", "rows/s", "of peak", "speed-up"):
        table.add_column(heading, justify="left" if heading == "contender" else "right", no_wrap=True)
    previous = measurements[0].batch
    for measurement in measurements:
        if measurement.batch != previous:
            table.add_section()
            previous = measurement.batch
        share, speedup = measurement.share_of_peak, measurement.speedup
        table.add_row(
            str(measurement.batch),
            escape(measurement.contender),
            _number(measurement.p50_us),
            _number(measurement.p90_us),
            _number(measurement.p99_us),
            f"{measurement.rows_per_s:,.0f}",
            "" if share is None else f"{share:.1%}",
            "" if speedup is None else f"{speedup:.2f}",
        )
    return table


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print every change with its bound, what is missing, and what makes the comparison doubtful."""
    for warning in comparison.warnings:
        console.print(f"careful: {escape(warning)}")
    table = Table(title="after by before, median latency")
    for heading in ("model", "level", "contender", "batch", "before µs", "after µs", "ratio", "noise", ""):
        left = heading in {"model", "level", "contender", ""}
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for change in comparison.changes:
        model, level, contender, batch = change.before.key
        table.add_row(
            escape(model),
            level,
            escape(contender),
            str(batch),
            _number(change.before.p50_us),
            _number(change.after.p50_us),
            f"{change.ratio:.3f}",
            f"±{change.bound - 1:.1%}",
            "" if change.verdict == "same" else change.verdict,
        )
    console.print(table)
    for measurement in comparison.missing:
        model, level, contender, batch = measurement.key
        console.print(f"not measured any more: {escape(f'{model}, {level}, {contender}, {batch} rows')}")
