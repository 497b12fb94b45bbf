"""The report as Markdown, fit for docs/performance.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.gpu.cases import PLACES
from benchmarks.gpu.roofs import ROOFS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PLACES = {
    "host": "rows and scores in ordinary host memory",
    "pinned": "rows and scores in page-locked host memory",
    "device": "rows and scores on the device",
}


def markdown(report: dict[str, Any]) -> str:
    """Write the roofs, the aims, the times, and what was not run."""
    parts = [_head(report), _roofs(report.get("roofs", {}))]
    if report.get("aims"):
        parts.append(aims_table(report["aims"]))
    results = report.get("results", [])
    for size in dict.fromkeys(result["size"] for result in results):
        for place in PLACES:
            some = [r for r in results if r["size"] == size and r["place"] == place]
            if any("p50_us" in result for result in some):
                parts.append(f"### {size}, {_PLACES[place]}\n\n{_times(some)}")
    missing = _missing(results)
    if missing:
        parts.append(missing)
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def duration(us: float) -> str:
    """Three digits with a unit."""
    for factor, unit in ((1e-6, "s"), (1e-3, "ms")):
        if us * factor >= 1:
            return f"{us * factor:.3g} {unit}"
    return f"{us:.3g} µs"


def _head(report: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.get("versions", {}).items())
    rehearsal = (
        "" if report.get("device") == "cuda" else " **A rehearsal on the CPU: these numbers mean nothing.**"
    )
    return (
        f"{report.get('gpu') or 'No GPU'}; {report.get('machine', '')}; {versions}.{rehearsal} "
        "Times are p50 of one call that ends with the scores there; contenders took turns, and each one's "
        "scores were compared with float64 first."
    )


def _roofs(roofs: dict[str, Any]) -> str:
    rows = [
        (about, f"{roofs[name]:.4g} {unit}" if isinstance(roofs[name], float) else _not_run(roofs[name]))
        for name, unit, about in ROOFS
        if name in roofs
    ]
    return table(("roof", "measured"), rows) if rows else ""


def _not_run(outcome: dict[str, Any]) -> str:
    return f"not run: {outcome['not run']}"


def aims_table(aims: list[dict[str, str]]) -> str:
    """Each aim beside what was measured, with the verdict."""
    return table(
        ("aim", "case", "wanted", "measured", "verdict"),
        (
            (
                aim["aim"],
                aim["case"],
                aim["bound"],
                aim["value"],
                aim["verdict"] + (f" ({aim['note']})" if aim["note"] else ""),
            )
            for aim in aims
        ),
    )


def _times(results: list[dict[str, Any]]) -> str:
    labels = list(dict.fromkeys(r["label"] for r in results if "p50_us" in r))
    cells = {(r["rows"], r["label"]): r for r in results if "p50_us" in r}
    batches = sorted({rows for rows, _ in cells})

    def text(rows: int, label: str) -> str:
        result = cells.get((rows, label))
        if result is None:
            return "-"
        reached = result.get("shares", {})
        best = f" ({max(reached.values()):.0%} of {max(reached, key=reached.get)})" if reached else ""
        return duration(result["p50_us"]) + best

    return table(
        ("rows", *labels), ([f"{rows:,}", *(text(rows, label) for label in labels)] for rows in batches)
    )


def _missing(results: list[dict[str, Any]]) -> str:
    cases: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if "not run" in result:
            case = f"{result['size']} {result['place']} {result['rows']:,}"
            cases.setdefault((result["label"], result["not run"]), []).append(case)
    if not cases:
        return ""
    rows = [(label, reason[:300], _some(places)) for (label, reason), places in cases.items()]
    return "### Not run\n\n" + table(("contender", "reason", "cases"), rows)


def _some(cases: list[str]) -> str:
    return "; ".join(cases) if len(cases) <= 3 else f"{cases[0]} and {len(cases) - 1} more"
