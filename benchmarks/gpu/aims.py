"""Shares of the roofs, and the aims: arithmetic on results, nothing measured here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.cases import DEFAULT, batches_of, case_s
from benchmarks.gpu.contenders import NO_WAIT, TENSOR_CORES
from benchmarks.gpu.torch_contenders import EAGER, GRAPHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

OURS = "fused-cuda"
# Fewer rows are about latency, not about bandwidth.
MIN_BULK_ROWS = 262_144

MET, NOT_MEASURED = "met", "not measured"

Result = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """What is wanted of one case, which is measured for it.

    Attributes
    ----------
    about : str
        In words.
    size, place, precision : str
    rows : int or None
        None: every batch size.
    kind : str
        "latency" (`bound` is the most microseconds), "bus" or "arithmetic" (the least share of that roof), or
        "faster" (the least ratio to `against`).
    bound : float
    against : str
        A contender.
    ours : str
        What of ours it is about.
    """

    about: str
    size: str
    place: str
    rows: int | None
    kind: str
    bound: float
    precision: str = "float32"
    against: str = ""
    ours: str = OURS

    @property
    def case(self) -> str:
        rows = "every batch size" if self.rows is None else f"{self.rows:,} row{'s' if self.rows > 1 else ''}"
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"{self.size}, {self.place} memory, {rows}{precision}"

    @property
    def wanted(self) -> str:
        if self.kind == "latency":
            return f"p50 at most {self.bound:g} µs"
        return f"more than {self.bound:g} x" if self.kind == "faster" else f"at least {self.bound:.0%}"

    def batches(self) -> list[int]:
        return batches_of(self.size) if self.rows is None else [self.rows]

    def verdict(self, value: float) -> str:
        """Whether a value is what is wanted, or else by what part of that it is not."""
        short = value / self.bound - 1 if self.kind == "latency" else 1 - value / self.bound
        if short < 0 or (short == 0 and self.kind != "faster"):
            return MET
        return f"missed by {short:.1%}"

    def cases(self) -> list[tuple[str, int, str, str]]:
        """What has to be measured: model, rows, place and contender's label."""
        ours = self.ours if self.precision == "float32" else f"{self.ours}, {self.precision}"
        labels = [ours, self.against] if self.against else [ours]
        return [(self.size, rows, self.place, label) for rows in self.batches() for label in labels]


_HOST = "rows on the host go as fast as the bus"
_DEVICE = "rows on the device go as fast as its arithmetic"
GOALS = (
    Goal("one row, host to host", "small", "host", 1, "latency", 12.0),
    Goal("one row, host to host", "large", "host", 1, "latency", 30.0),
    Goal(_HOST, "small", "pinned", 262_144, "bus", 0.85),
    Goal(_HOST, "small", "host", 16_777_216, "bus", 0.35),
    Goal("one row on the device", "small", "device", 1, "latency", 15.0),
    Goal("one row on the device, CPU time of a call", "small", "device", 1, "latency", 6.0, ours=NO_WAIT),
    Goal(_DEVICE, "medium", "device", 262_144, "arithmetic", 0.65),
    *(
        Goal(about, "medium", "device", 262_144, "arithmetic", bound, precision, ours=ours)
        for precision, bound in (("tf32", 0.40), ("bf16", 0.35))
        for about, ours in (
            (_DEVICE, OURS),
            *((f"the same by {some} alone", f"{OURS}, {some}") for some in TENSOR_CORES),
        )
    ),
    Goal(_DEVICE, DEFAULT, "device", 65_536, "arithmetic", 0.50),
    *(
        Goal(f"faster than {other}", "large", "device", None, "faster", 1.0, against=other)
        for other in (EAGER, GRAPHS)
    ),
)


def goals_of(sizes: Sequence[str], words: Sequence[str] = ()) -> list[Goal]:
    """Return the goals of these models, of which one of the words is part of the goal's name or case."""
    return [
        goal
        for goal in GOALS
        if goal.size in sizes and (not words or any(word in f"{goal.about}: {goal.case}" for word in words))
    ]


def cases_of(goals: Iterable[Goal]) -> dict[str, list[tuple[int, str, str]]]:
    """By model: the rows, place and contender's label of each case, what takes longest last."""
    cases: dict[str, dict[tuple[int, str, str], None]] = {}
    for goal in goals:
        for size, *case in goal.cases():
            cases.setdefault(size, {})[tuple(case)] = None
    return {size: list(some) for size, some in sorted(cases.items(), key=lambda item: needed_s(*item))}


def needed_s(size: str, cases: Iterable[tuple[int, str, str]]) -> float:
    """Seconds that a model's cases take."""
    return sum(case_s(size, label == GRAPHS) for _, _, label in cases)


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
        "met", "missed by" so much of what is wanted, or "not measured".
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
    rows, width = result["rows"], result["columns"]
    work = {}
    if result["place"] == "device":
        precision = result["precision"]
        work["memory"] = (4e-9 * rows * (width + 1), roofs.get("device_memory_gb_s"))
        work["arithmetic"] = (1e-12 * rows * result["flops_per_row"], roofs.get(f"{precision}_tflop_s"))
    elif rows >= MIN_BULK_ROWS:
        work["bus"] = (4e-9 * rows * width, roofs.get("host_to_device_gb_s"))
    return {name: amount / seconds / roof for name, (amount, roof) in work.items() if isinstance(roof, float)}


def ratio(other: Result, ours: Result) -> float:
    """How many times faster ours is: the median over the rounds, in which both were timed side by side."""
    theirs_us, ours_us = np.array(other["rounds_us"]), np.array(ours["rounds_us"])
    if len(theirs_us) != len(ours_us):
        return float(other["p50_us"] / ours["p50_us"])
    return float(np.median(theirs_us / ours_us))


def judge(results: Iterable[Result], roofs: dict[str, Any], goals: Sequence[Goal]) -> list[dict[str, str]]:
    """Hold each goal against its own measurement.

    Parameters
    ----------
    results : iterable of dict
    roofs : dict
        By name; a number, or {"not run": reason}.
    goals : sequence of Goal
    """
    found = {(r["size"], r["rows"], r["place"], r["label"]): r for r in results}
    return [asdict(_judged(goal, found, roofs)) for goal in goals]


def _judged(goal: Goal, found: dict[tuple[str, int, str, str], Result], roofs: dict[str, Any]) -> Aim:
    def aim(value: str, verdict: str, note: str = "") -> Aim:
        return Aim(goal.about, goal.case, goal.wanted, value, verdict, note)

    measured = [found.get(case, {}) for case in goal.cases()]
    missing = [result.get("not run", "no result") for result in measured if "p50_us" not in result]
    if goal.kind == "faster":
        return _faster(goal, measured, aim)
    if missing:
        return aim("", NOT_MEASURED, missing[0])
    (result,) = measured
    if goal.kind == "latency":
        value = result["p50_us"]
        return aim(f"{value:.1f} µs", goal.verdict(value))
    share = shares(result, roofs).get(goal.kind)
    if share is None:
        return aim("", NOT_MEASURED, "there is no roof to compare with")
    return aim(f"{share:.0%}", goal.verdict(share))


def _faster(goal: Goal, measured: Sequence[Result], aim: Callable[..., Aim]) -> Aim:
    ratios: dict[int, float] = {}
    missing: dict[int, str] = {}
    for rows, ours, theirs in zip(goal.batches(), measured[::2], measured[1::2], strict=True):
        if "p50_us" in ours and "p50_us" in theirs:
            ratios[rows] = ratio(theirs, ours)
        else:
            lacking = theirs if "p50_us" in ours else ours
            missing[rows] = lacking.get("not run", "no result")
    if not ratios:
        return aim("", NOT_MEASURED, next(iter(missing.values())))
    least = min(ratios, key=lambda rows: ratios[rows])
    value = f"{ratios[least]:.2f} x"
    note = f"the least, at {least:,} rows; up to {max(ratios.values()):.2f} x"
    verdict = goal.verdict(ratios[least])
    if missing:
        absent = ", ".join(f"{rows:,}" for rows in missing)
        note += f"; nothing at {absent} rows"
        verdict = NOT_MEASURED if verdict == MET else verdict
    return aim(value, verdict, note)
