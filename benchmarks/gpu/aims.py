"""Shares of the roofs, and the aims: arithmetic on results, nothing measured here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.cases import TOLERANCES, batches_of, flops_per_row
from benchmarks.gpu.torch_contenders import GRAPHS
from benchmarks.models import SIZES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OURS = "fused-cuda"
MAX_ONE_ROW_US = 12.0
MIN_BUS_SHARE = 0.85
MIN_MEMORY_SHARE = 0.85
MIN_ARITHMETIC_SHARE = 0.5
# Fewer rows are about latency, not about bandwidth.
MIN_BULK_ROWS = 262_144

MET, MISSED, NOT_MEASURED = "met", "missed", "not measured"

Result = dict[str, Any]


@dataclass(frozen=True)
class Aim:
    """One aim beside what was measured.

    Attributes
    ----------
    aim, case : str
        In words.
    bound, value : str
        What is wanted, and what came out; the value is empty where nothing was measured.
    verdict : str
        "met", "missed" or "not measured".
    note : str
        The reason, or where the value comes from.
    """

    aim: str
    case: str
    bound: str
    value: str
    verdict: str
    note: str = ""


def shares(result: Result, roofs: dict[str, Any]) -> dict[str, float]:
    """What part of each roof that concerns it a result reaches.

    Rows on the host against the bus (only bulk: bytes of the rows by time), rows on the device against the
    device's memory (rows read and scores written) and against the matrix products of its precision (two
    operations for each multiply-add of the layers).
    """
    if "p50_us" not in result:
        return {}
    seconds = 1e-6 * result["p50_us"]
    rows, width = result["rows"], SIZES[result["size"]][0]
    work = {}
    if result["place"] == "device":
        precision = result["precision"]
        work["memory"] = (4e-9 * rows * (width + 1), roofs.get("device_memory_gb_s"))
        work["arithmetic"] = (1e-12 * rows * flops_per_row(result["size"]), roofs.get(f"{precision}_tflop_s"))
    elif rows >= MIN_BULK_ROWS:
        work["bus"] = (4e-9 * rows * width, roofs.get("host_to_device_gb_s"))
    return {name: amount / seconds / roof for name, (amount, roof) in work.items() if isinstance(roof, float)}


def ratio(other: Result, ours: Result) -> float:
    """How many times faster ours is: the median over the rounds, in which both were timed side by side."""
    theirs_us, ours_us = np.array(other["rounds_us"]), np.array(ours["rounds_us"])
    if len(theirs_us) != len(ours_us):
        return float(other["p50_us"] / ours["p50_us"])
    return float(np.median(theirs_us / ours_us))


def judge(results: Iterable[Result], roofs: dict[str, Any], sizes: Sequence[str]) -> list[dict[str, str]]:
    """Hold the results against the aims.

    Parameters
    ----------
    results : iterable of dict
    roofs : dict
        By name; a number, or {"not run": reason}.
    sizes : sequence of str
        The models that were asked for.
    """
    found = {(r["size"], r["rows"], r["place"], r["contender"], r["precision"]): r for r in results}
    aims: list[Aim] = []
    for size in sizes:
        aims.append(_one_row(found, size))
    for size in sizes:
        if size != "large":
            aims += [_share(found, roofs, size, place, "float32", "bus") for place in ("host", "pinned")]
    if "small" in sizes:
        aims.append(_share(found, roofs, "small", "device", "float32", "memory"))
    if "medium" in sizes:
        aims += [_share(found, roofs, "medium", "device", p, "arithmetic") for p in TOLERANCES]
    for size in sizes:
        for place in ("device", "host"):
            aims.append(_faster(found, size, place, "float32"))
        aims += [_faster(found, size, "device", p) for p in TOLERANCES if p != "float32"]
    return [asdict(aim) for aim in aims]


Found = dict[tuple[str, int, str, str, str], Result]
_ABOUT = {
    "bus": ("rows on the host go as fast as the bus", MIN_BUS_SHARE),
    "memory": ("rows on the device go as fast as its memory", MIN_MEMORY_SHARE),
    "arithmetic": ("rows on the device go as fast as its arithmetic", MIN_ARITHMETIC_SHARE),
}


def _one_row(found: Found, size: str) -> Aim:
    aim, case, bound = "one row, host to host", size, f"p50 at most {MAX_ONE_ROW_US:g} µs"
    result = found.get((size, 1, "host", OURS, "float32"), {})
    if "p50_us" not in result:
        return Aim(aim, case, bound, "", NOT_MEASURED, result.get("not run", "no result"))
    value = result["p50_us"]
    return Aim(aim, case, bound, f"{value:.1f} µs", MET if value <= MAX_ONE_ROW_US else MISSED)


def _share(found: Found, roofs: dict[str, Any], size: str, place: str, precision: str, roof: str) -> Aim:
    aim, least = _ABOUT[roof]
    case = f"{size}, {place} memory" + ("" if precision == "float32" else f", {precision}")
    bound = f"at least {least:.0%}"
    reason = "no result"
    # The largest batch that was measured: bandwidth is about bulk.
    for rows in reversed(batches_of(size)):
        if rows < MIN_BULK_ROWS:
            break
        result = found.get((size, rows, place, OURS, precision), {})
        reason = result.get("not run", reason)
        if "p50_us" not in result:
            continue
        share = shares(result, roofs).get(roof)
        if share is None:
            return Aim(aim, case, bound, "", NOT_MEASURED, "there is no roof to compare with")
        return Aim(aim, case, bound, f"{share:.0%}", MET if share >= least else MISSED, f"{rows:,} rows")
    return Aim(aim, case, bound, "", NOT_MEASURED, reason)


def _faster(found: Found, size: str, place: str, precision: str) -> Aim:
    aim = f"faster than {GRAPHS}, at every batch size"
    case = f"{size}, {place} memory" + ("" if precision == "float32" else f", {precision}")
    bound = "more than 1 x"
    ratios: dict[int, float] = {}
    missing: dict[int, str] = {}
    for rows in batches_of(size):
        pair = [found.get((size, rows, place, name, precision), {}) for name in (GRAPHS, OURS)]
        if all("p50_us" in result for result in pair):
            ratios[rows] = ratio(pair[0], pair[1])
        else:
            reasons = [result.get("not run", "no result") for result in pair if "p50_us" not in result]
            missing[rows] = reasons[-1]
    if not ratios:
        return Aim(aim, case, bound, "", NOT_MEASURED, next(iter(missing.values()), "no result"))
    least = min(ratios, key=lambda rows: ratios[rows])
    value = f"{ratios[least]:.2f} x"
    note = f"the least, at {least:,} rows; up to {max(ratios.values()):.2f} x"
    if ratios[least] <= 1:
        return Aim(aim, case, bound, value, MISSED, note)
    if missing:
        absent = ", ".join(f"{rows:,}" for rows in missing)
        return Aim(aim, case, bound, value, NOT_MEASURED, f"{note}; nothing at {absent} rows")
    return Aim(aim, case, bound, value, MET, note)
