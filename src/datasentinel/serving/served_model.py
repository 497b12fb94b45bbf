"""A model under the name and version that requests use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasentinel.detector import Detector
    from datasentinel.serving.states import ModelStreams


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under the name and version that requests use.

    Attributes
    ----------
    name, version : str
    detector : Detector
    outputs : tuple of str
        What it can compute.
    uncounted : dict of str to int
        The scorer's counters when serving began: the warm-up is not a client's work.
    uncounted_scores : list of int
        The same of its scores by interval; empty for a model without calibration scores.
    streams : ModelStreams or None
        Of a model with memory.
    """

    name: str
    version: str
    detector: Detector
    outputs: tuple[str, ...]
    uncounted: dict[str, int]
    uncounted_scores: list[int]
    streams: ModelStreams | None = None

    @property
    def feature_counts(self) -> list[list[int]]:
        """Sampled values since serving began, by column and interval; empty where they are not counted."""
        return self.detector.scorer.feature_counts

    @property
    def score_counts(self) -> list[int]:
        """Scores since serving began, by interval of the calibration scores."""
        now = self.detector.scorer.score_counts
        return [count - before for count, before in zip(now, self.uncounted_scores, strict=True)]

    @property
    def counts(self) -> dict[str, int]:
        """`rows`, `anomalies` and `batches` since serving began."""
        return {name: value - self.uncounted[name] for name, value in self.detector.scorer.counts.items()}
