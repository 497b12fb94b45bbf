"""The summary that `datasentinel produce` ends with, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datasentinel.producer import FileRows

if TYPE_CHECKING:
    from datasentinel.producer import Fleet, Summary, Telemetry


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2%}"


def print_summary(summary: Summary, rows: FileRows | Fleet | Telemetry) -> None:
    """Print what became of the samples."""
    facts = summary.as_dict()
    table = Table(show_header=False, title="Summary", title_justify="left")
    resent = f", {facts['resent']:,} sent again" if facts["resent"] else ""
    table.add_row("samples", f"{facts['sent']:,} sent, {facts['answered']:,} answered{resent}")
    table.add_row("replies", ", ".join(f"{name} {count:,}" for name, count in facts["replies"].items()))
    invalid = facts["invalid"]
    table.add_row("invalid", f"{invalid['refused']:,} refused, {invalid['not_refused']:,} not refused")
    for reason, count in facts["valid_refused"]["reasons"].items():
        table.add_row("valid refused", escape(f"{count:,} times: {reason}"))
    if facts["unanswered"]:
        table.add_row("unanswered", f"{facts['unanswered']:,}")
    if facts["reconnects"]:
        table.add_row("reconnects", f"{facts['reconnects']:,}")
    if isinstance(rows, FileRows) and rows.skipped:
        table.add_row("bad rows skipped", escape(f"{rows.skipped:,}; the first: {rows.first_problem}"))
    agreement = facts["agreement"]
    if agreement:
        ratios = ", ".join(
            f"{name} {_percent(agreement[name])}" for name in ("accuracy", "precision", "recall")
        )
        table.add_row("agreement", f"{ratios} on {agreement['labelled']:,} labelled samples")
    for row, key in (("latency", "latency_us"), ("before sending", "send_delay_us")):
        if facts[key]:
            table.add_row(row, ", ".join(f"{name} {value:,.0f} µs" for name, value in facts[key].items()))
    table.add_row("throughput", f"{facts['throughput_per_s']:,.0f} replies/s over {facts['elapsed_s']:.2f} s")
    Console().print(table)
