"""What is written for a moment: names of metrics, and the labels of series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from datasentinel.distributed.prometheus.config import OWN_LABELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from datasentinel.distributed.prometheus.samples import Key
    from datasentinel.distributed.prometheus.scoring import Moment

SCORE = "anomaly_score"
ANOMALY = "anomaly"
EXPECTED = "anomaly_expected"
REASON = "anomaly_reason"

HELP = {
    SCORE: "Score over the model's threshold: above 1 for an anomaly.",
    ANOMALY: "1 for an anomaly.",
    EXPECTED: "What the model would have expected a query to say.",
    REASON: "Share of a query in the score of an anomaly.",
}


class Publisher(Protocol):
    """Where scores go."""

    def publish(self, source: Source, moments: Sequence[Moment]) -> None:
        """Take the scores of moments that follow each other."""


@dataclass(frozen=True)
class Source:
    """Whose scores they are.

    Attributes
    ----------
    model : str
    labels : tuple of str
        That distinguish its series.
    columns : tuple of str
        The names of its queries, D.
    """

    model: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names as they are written: ours first, and those of the series like ours renamed.

        Prometheus renames labels so that clash with a target's.
        """
        return ("model", *(f"exported_{name}" if name in OWN_LABELS else name for name in self.labels))

    def values(self, key: Key) -> tuple[str, ...]:
        """Return the labels' values, in the order of `names`."""
        return (self.model, *key)

    def series_of(self, key: Key) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
        """Name every metric that a series has in any case, with its labels."""
        labels = tuple(zip(self.names, self.values(key), strict=True))
        yield SCORE, labels
        yield ANOMALY, labels
        for column in self.columns:
            yield EXPECTED, (*labels, ("query", column))

    def reason_of(self, key: Key, column: int) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Name the metric of a reason, with its labels."""
        labels = tuple(zip(self.names, self.values(key), strict=True))
        return REASON, (*labels, ("reason", self.columns[column]))
