"""What is wrong with the columns of training rows, found in float64 before they become float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from datasentinel.errors import DataError
from datasentinel.training.standardise import LEAST_SPREAD, resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from datasentinel.artifact import Json
    from datasentinel.types import Float64Array

FindingKind: TypeAlias = Literal["constant", "unresolved", "coarse"]

# Steps of float32 in a standard deviation: with fewer, rounding is a part of what the model sees.
_ENOUGH_STEPS = 6.0
# What float64 arithmetic may leave of a constant, as a share of it.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Finding:
    """Something wrong with a column.

    Attributes
    ----------
    kind : str
        "constant": it does not vary; "unresolved": it does, but not in float32, so it is left out of the
        score; "coarse": float32 leaves only a few steps of its variation, which are used as they are.
    column : int
    name : str
    text : str
        The message to the user: what was found, and what to do.
    """

    kind: FindingKind
    column: int
    name: str
    text: str

    @property
    def is_warning(self) -> bool:
        """Whether information is lost that a change of the data would keep."""
        return self.kind != "constant"

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `training.findings`."""
        return {"kind": self.kind, "column": self.name, "text": self.text}


def examine(rows: npt.NDArray[Any], names: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Find the columns that are constant, or that float32 does not resolve.

    Parameters
    ----------
    rows : array, shape [N, D]
        Finite raw rows, best in float64.
    names : sequence of str, optional
        One a column.

    Raises
    ------
    DataError
        A column's values are so great that float32 does not hold differences of two.
    """
    wide = rows.astype(np.float64)
    _check_range(wide, names)
    centre = wide.mean(axis=0)
    spread = (wide - centre).std(axis=0)
    magnitude = np.abs(wide).max(axis=0)
    step = resolution(magnitude)
    doubtful = np.flatnonzero(spread < np.maximum(_ENOUGH_STEPS * step, LEAST_SPREAD)).tolist()
    findings = []
    for i in doubtful:
        name = _name(names, i)
        kind, text = _judge(wide[:, i], float(spread[i]), float(step[i]))
        findings.append(Finding(kind, i, name, f"{name} {text}"))
    return tuple(findings)


def _name(names: Sequence[str], column: int) -> str:
    return names[column] if len(names) else f"column {column}"


def _check_range(rows: Float64Array, names: Sequence[str]) -> None:
    # Twice a value, as a difference or a sum, has to be within float32, too.
    most = np.abs(rows).max(axis=0)
    too_great = np.flatnonzero(most > np.finfo(np.float32).max / 2)
    if too_great.size:
        i = int(too_great[0])
        raise DataError(
            f"{_name(names, i)} comes to {most[i]:.3g}, too near to float32's limit; divide it "
            "by a constant before sending rows, or leave it out"
        )


def _judge(values: Float64Array, spread: float, step: float) -> tuple[FindingKind, str]:
    magnitude = float(np.abs(values).max())
    if spread <= _ROUNDING * magnitude:
        return "constant", "is constant"
    if spread < LEAST_SPREAD:
        lost = f"has a standard deviation of {spread:.3g}, less than float32 computes with"
        return "unresolved", f"{lost}: left out of the score; use a smaller unit"
    where = f"has a standard deviation of {spread:.3g} at {values.mean():.9g}, where float32 has steps of "
    advice = f"subtract {_round_offset(values):.15g} from it before sending rows"
    if spread < step:
        return "unresolved", f"{where}{step:.3g}: left out of the score; {advice}"
    return "coarse", f"{where}{step:.3g}, {spread / step:.1f} a standard deviation; {advice}"


def _round_offset(values: Float64Array) -> float:
    """Return a number near the values with few digits."""
    spread = float(np.ptp(values)) or 1.0
    unit = 10.0 ** np.floor(np.log10(spread))
    return float(np.round(values.mean() / unit) * unit)
