"""Holds one report against another: what became slower or faster by more than the noise.

The noise of a difference is taken from the spread of the rounds in both reports. With s the robust standard
deviation of the logarithm of the rounds' latencies (1.4826 times the median absolute deviation), a ratio of
two medians counts as a change when its logarithm exceeds 2 sqrt(s_a^2 + s_b^2), and the ratio itself exceeds
the smallest change of interest. Were rounds independent, fifteen of them would put that bound at about six
standard errors of the difference; they are not, since a machine drifts, and that is what the rest is for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from datasentinel.bench.report import Measurement, Report

DEFAULT_MIN_CHANGE = 0.03
_SPREADS = 2.0
_MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True)
class Change:
    """What happened to one measurement between two reports.

    Attributes
    ----------
    before, after : Measurement
        Of the same model, level, contender and batch size.
    ratio : float
        Median latency after by median latency before.
    bound : float
        A ratio between `1 / bound` and `bound` is noise, or too small to matter.
    verdict : {"slower", "faster", "same"}
    """

    before: Measurement
    after: Measurement
    ratio: float
    bound: float
    verdict: Literal["slower", "faster", "same"]


@dataclass(frozen=True)
class Comparison:
    """All changes between two reports.

    Attributes
    ----------
    changes : list of Change
        Of what both reports measured.
    missing : list of Measurement
        What only the first one measured.
    warnings : list of str
        Why the two may not be comparable: another CPU, another peak, another model.
    """

    changes: list[Change]
    missing: list[Measurement]
    warnings: list[str]

    @property
    def regressions(self) -> list[Change]:
        """The changes for the worse."""
        return [change for change in self.changes if change.verdict == "slower"]


def compare_reports(before: Report, after: Report, *, min_change: float = DEFAULT_MIN_CHANGE) -> Comparison:
    """Compare what two reports both measured.

    Parameters
    ----------
    before, after : Report
        Best of the same machine, with the same budget.
    min_change : float
        A relative change smaller than this is never reported.
    """
    found = {measurement.key: measurement for measurement in after.measurements}
    changes = [
        _change(measurement, found[measurement.key], min_change)
        for measurement in before.measurements
        if measurement.key in found
    ]
    missing = [measurement for measurement in before.measurements if measurement.key not in found]
    return Comparison(changes, missing, _warnings(before, after))


def _change(before: Measurement, after: Measurement, min_change: float) -> Change:
    ratio = float(np.median(after.rounds_us) / np.median(before.rounds_us))
    noise = math.exp(_SPREADS * math.hypot(_log_spread(before.rounds_us), _log_spread(after.rounds_us)))
    bound = max(noise, 1 + min_change)
    verdict: Literal["slower", "faster", "same"] = "same"
    if ratio > bound:
        verdict = "slower"
    elif ratio < 1 / bound:
        verdict = "faster"
    return Change(before, after, ratio, bound, verdict)


def _log_spread(rounds_us: tuple[float, ...]) -> float:
    logs = np.log(rounds_us)
    return float(_MAD_TO_DEVIATION * np.median(np.abs(logs - np.median(logs))))


def _warnings(before: Report, after: Report) -> list[str]:
    warnings = []
    for key in ("cpu", "isa_forced", "versions"):
        old, new = before.machine.get(key), after.machine.get(key)
        if old != new:
            warnings.append(f"{key} differs: {old} before, {new} after")
    models = {model["name"]: model["sha256"] for model in after.models}
    for model in before.models:
        if models.get(model["name"], model["sha256"]) != model["sha256"]:
            warnings.append(f"model {model['name']} is another one: its digest differs")
    ratio = after.roof[0]["gflops"] / before.roof[0]["gflops"]
    if abs(ratio - 1) > DEFAULT_MIN_CHANGE:
        warnings.append(
            f"the core itself had {ratio:.2f} times the multiply-add peak after: its frequency changed"
        )
    return warnings
