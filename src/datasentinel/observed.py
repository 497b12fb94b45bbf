"""What a model was seen to do on normal rows, as `config.json` keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasentinel.artifact import Json

# A count less likely than this is not chance.
LEVEL = 1e-3


@dataclass(frozen=True)
class Observed:
    """What a model was seen to do on some normal rows.

    Attributes
    ----------
    rows, above : int
        How many rows there were, and how many of them score above the threshold.
    chance : float
        Probability of so many or more, if the promise holds.
    """

    rows: int
    above: int
    chance: float

    @property
    def share(self) -> float:
        """Share of the rows above the threshold."""
        return self.above / self.rows if self.rows else 0.0

    @property
    def kept(self) -> bool:
        """Whether the promise may hold."""
        return self.chance >= LEVEL

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `calibration.observed`."""
        return {"rows": self.rows, "above": self.above, "chance": float(f"{self.chance:.3g}")}
