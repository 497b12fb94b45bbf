"""What the scores of held-out normal rows say: a threshold, p-values, and what normal data looks like.

Calibration is split-conformal. The held-out rows had no part in training, so their scores and the score of a
new normal row are exchangeable, and the rank of the new score among them is uniform. That gives guarantees
for finitely many rows and any model: V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random
World" (2005); A. Angelopoulos, S. Bates, "A Gentle Introduction to Conformal Prediction" (2023); for p-values
of outliers S. Bates et al., "Testing for Outliers with Conformal p-values" (2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from datasentinel.conformal import SortedScores, conformal_quantile, promised_beyond
from datasentinel.dependence import DriftingScores, independent_rows
from datasentinel.errors import ArtifactError, DataError
from datasentinel.events import FalseAlarms, count_false_alarms
from datasentinel.histogram import Histogram

if TYPE_CHECKING:
    from datasentinel.artifact import Config, Json
    from datasentinel.observed import Observed
    from datasentinel.types import Float32Array, Int64Array

ThresholdMethod: TypeAlias = Literal["conformal", "quantile", "mean+3std"]
THRESHOLD_METHODS: tuple[ThresholdMethod, ...] = get_args(ThresholdMethod)

# The greatest scores are all kept, where p-values are small and every rank counts; of the others so many that
# no p-value is raised by more than this factor.
EXACT_RANKS = 256
_THINNING = 1.02
_SCORE_BINS = 10
# The core reports a score that is not finite as the largest float32.
_OVERFLOWED = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The calibration scores, thinned out where that costs little: enough for p-values and distributions.

    The p-value of a score s is (1 + number of calibration scores >= s) / (1 + rows). Where scores were left
    out it is rounded up to the next one that is known, by 2 % at most, so it stays valid.

    Attributes
    ----------
    scores : float32 array, shape [K]
        Calibration scores, strictly ascending.
    greater : int64 array, shape [K]
        How many calibration scores are strictly greater than each.
    rows : int
        How many calibration scores there were.
    """

    scores: Float32Array
    greater: Int64Array
    rows: int

    @classmethod
    def of(cls, scores: Float32Array) -> ScoreTable:
        """Summarise scores [N], finite, N >= 1."""
        return cls.of_counts(*np.unique(np.asarray(scores, dtype=np.float32), return_counts=True))

    @classmethod
    def of_counts(cls, values: Float32Array, repeats: Int64Array) -> ScoreTable:
        """Summarise scores: `repeats` [V] >= 1 of each of `values` [V], which ascend strictly."""
        values = values[::-1]
        at_least = np.cumsum(repeats[::-1])  # calibration scores >= values[i]
        greater = at_least - repeats[::-1]
        kept = np.flatnonzero(greater < EXACT_RANKS).tolist()
        while kept[-1] < len(values) - 1:
            # A score in (values[j], values[kept[-1]]] gets 1 + greater[j], and deserves 1 + at_least or more.
            limit = _THINNING * (1 + at_least[kept[-1]])
            kept.append(int(np.searchsorted(1 + greater, limit, side="right")) - 1)
        return cls(values[kept][::-1].copy(), greater[kept][::-1].copy(), int(at_least[-1]))

    @classmethod
    def of_config(cls, config: Config) -> ScoreTable | None:
        """Read the table of a `config.json`; None where it has none.

        Raises
        ------
        ArtifactError
            It is broken; the key is named.
        """
        facts = config.calibration.get("score_table")
        if facts is None:
            return None
        key = "config.json: key 'calibration.score_table'"
        if not isinstance(facts, Mapping):
            raise ArtifactError(f"{key}: expected an object")
        scores = _float32s(facts.get("scores"), f"{key}: 'scores'")
        greater = _counts(facts.get("greater"), f"{key}: 'greater'")
        (rows,) = _counts([config.calibration.get("rows")], "config.json: key 'calibration.rows'").tolist()
        sound = (
            0 < len(scores) == len(greater)
            and bool((np.diff(scores) > 0).all())
            and bool((np.diff(greater) < 0).all())
            and greater[0] < rows
        )
        if not sound:
            raise ArtifactError(
                f"{key}: scores must ascend and counts descend from fewer than 'rows', one for each score"
            )
        return cls(scores, greater, rows)

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `calibration.score_table`."""
        return {"scores": _decimals(self.scores), "greater": self.greater.tolist()}

    def histogram(self, bins: int | None = _SCORE_BINS) -> Histogram:
        """Return the distribution of the calibration scores, in about `bins` equal shares or by all knots."""
        chosen = np.arange(len(self.scores))
        if bins is not None:
            wanted = self.rows * (1 - np.arange(1, bins) / bins)
            distance = np.abs(self.greater[:, np.newaxis] - wanted)
            chosen = np.unique(distance.argmin(axis=0))
        greater = self.greater[chosen]
        return Histogram(self.scores[chosen], -np.diff(np.concatenate([[self.rows], greater, [0]])))


# How outliers of single rows come together is seen at so many times the target: too few are beyond itself.
_TIMES_TARGET = 2.0


@dataclass(frozen=True, eq=False)
class Calibration:
    """A threshold, how it was found, and what the rows it was found on look like.

    Attributes
    ----------
    threshold : float
        A row is an anomaly iff its score is greater.
    method : str
        "conformal", "quantile" or "mean+3std".
    target_fpr : float or None
        Share of normal rows that may be called anomalies; None for "mean+3std".
    fpr_bound : float or None
        For "conformal": what the probability of calling a new normal row an anomaly does not exceed. Greater
        than `target_fpr` when there are too few rows to promise that.
    table : ScoreTable
        Their scores.
    features : tuple of Histogram
        The distribution of each column, or empty.
    observed : mapping of str to Observed
        What the model that is served was seen to do, by the rows' name.
    false_alarms : FalseAlarms or None
        Of a recording: how often the threshold raises false alarms.
    independent : int
        How many independent scores the threshold was chosen for; 0: all are taken to be.
    """

    threshold: float
    method: ThresholdMethod
    target_fpr: float | None
    fpr_bound: float | None
    table: ScoreTable
    features: tuple[Histogram, ...] = ()
    observed: Mapping[str, Observed] = field(default_factory=dict)
    false_alarms: FalseAlarms | None = None
    independent: int = 0

    @property
    def rows(self) -> int:
        """Number of held-out normal rows."""
        return self.table.rows

    @property
    def rows_needed(self) -> int:
        """How many held-out rows the target would need; 0 where it is promised, or nothing is.

        More than as many independent ones where scores depend on each other, so that theirs count as fewer.
        """
        if self.target_fpr is None or self.fpr_bound is None or self.fpr_bound <= self.target_fpr:
            return 0
        independent = self.independent or self.rows
        wanted = 1 / self.target_fpr - 1
        return math.ceil(wanted * self.rows / independent - 1e-9) if independent < wanted - 1e-9 else 0

    def describe(self) -> str:
        """Return a description of how the threshold was found and what it promises."""
        text = f"{self.method} on {self.rows} normal rows"
        if self.target_fpr is not None:
            text += f" for a false-positive rate of {self.target_fpr:g}"
        if self.fpr_bound is not None:
            text += f"; at most {self.fpr_bound:.4g} is promised"
            if self.false_alarms:
                text += " while the recording goes on as it did"
        if self.false_alarms:
            text += f"; {self.false_alarms}"
        if self.rows_needed:
            text += f" (less needs {self.rows_needed} rows or more)"
        return text

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `calibration`."""
        facts: dict[str, Json] = {
            "method": self.method,
            "target_fpr": self.target_fpr,
            "fpr_bound": self.fpr_bound,
            "rows": self.rows,
            "score_table": self.table.facts(),
        }
        if self.observed:
            facts["observed"] = {name: seen.facts() for name, seen in self.observed.items()}
        if self.false_alarms:
            facts["false_alarms"] = self.false_alarms.facts()
        if self.features:
            facts["features"] = {
                "edges": [_decimals(feature.edges) for feature in self.features],
                "counts": [feature.counts.tolist() for feature in self.features],
            }
        return facts


def calibrate(
    scores: Float32Array,
    *,
    method: ThresholdMethod,
    target_fpr: float,
    least: float | None = None,
    rows: Float32Array | None = None,
    recording: bool = False,
    has_memory: bool = False,
    row_s: float | None = None,
) -> Calibration:
    """Choose a threshold.

    Parameters
    ----------
    scores : float32 array, shape [N]
        Scores of normal rows that the model was not trained on.
    method : str
        "conformal": the k-th smallest score with k = ceil((N + 1)(1 - target_fpr)). The probability that a
        new normal row scores higher is then at most `target_fpr`, for exchangeable rows and whatever the
        model. With fewer than 1 / target_fpr - 1 rows there is no such score, the greatest one has to do,
        and `fpr_bound` says what holds instead.
        "quantile": the plain quantile at 1 - target_fpr, interpolated; right on average in the limit only.
        "mean+3std": mean and three standard deviations of the scores, whatever rate that gives.
    target_fpr : float
        For "conformal" and "quantile".
    least : float, optional
        No threshold is lower: scores below it are of rows that do not differ as far as the data resolves.
    rows : float32 array, shape [M, D], optional
        Normal rows, to remember how each column is distributed.
    recording : bool
        Whether the scores are those of rows that follow each other: then fewer independent ones say as much
        (`datasentinel.dependence.independent_rows`), "conformal" promises no more than those allow, and the
        false alarms among them are counted.
    has_memory : bool
        Whether a model with memory assigned the scores of a recording. "conformal" then takes a quantile
        that so few promise the target for, and at least what their drift from block to block asks for
        (`DriftingScores`): such scores wander. Those of single rows rather have outliers that come together,
        which should not hide all that are less far out.
    row_s : float, optional
        Seconds from one row of the recording to the next.

    Raises
    ------
    DataError
        There is no score, or one is not finite or overflowed.
    """
    require_finite(scores)
    ordered = SortedScores(np.sort(scores.astype(np.float64)))
    fpr_bound, independent = None, 0
    drifting = DriftingScores(scores) if has_memory and DriftingScores.applies(scores) else None
    if method == "conformal":
        independent = independent_rows(scores, target_fpr) if has_memory else 0
        threshold, fpr_bound = conformal_quantile(ordered, target_fpr, independent or len(scores))
        if recording and not has_memory:
            fpr_bound = _promised(ordered, scores, threshold, target_fpr)
        if drifting:
            threshold = max(threshold, drifting.threshold(target_fpr))
    elif method == "quantile":
        threshold = float(np.quantile(ordered.values, 1 - target_fpr))
    else:
        threshold = float(ordered.values.mean() + 3 * ordered.values.std())
    threshold = threshold if least is None else max(threshold, least)
    return Calibration(
        threshold=threshold,
        method=method,
        target_fpr=None if method == "mean+3std" else target_fpr,
        fpr_bound=fpr_bound,
        table=ScoreTable.of(scores),
        features=() if rows is None else tuple(Histogram.of_deciles(column) for column in rows.T),
        false_alarms=count_false_alarms(
            scores, threshold, expected=drifting.share_above(threshold) if drifting else None, row_s=row_s
        )
        if recording
        else None,
        independent=independent,
    )


def _promised(ordered: SortedScores, scores: Float32Array, threshold: float, target_fpr: float) -> float:
    """Return the share of new scores of a recording to expect above a threshold for the plain quantile."""
    independent = independent_rows(scores, min(_TIMES_TARGET * target_fpr, 0.5))
    return promised_beyond(ordered.at_most(threshold) / len(scores) * independent, independent)


def require_finite(scores: Float32Array, repeats: Int64Array | None = None) -> None:
    """Raise a DataError where one of scores [N], which occur so often, is not finite, or there is none."""
    repeats = np.ones(len(scores), np.int64) if repeats is None else repeats
    rows = int(repeats.sum())
    lost = rows - int(repeats[np.abs(scores.astype(np.float64)) < _OVERFLOWED].sum())
    if lost or not rows:
        raise DataError(
            f"{lost} of {rows} normal rows have no finite score, so no threshold means anything; leave out "
            "rows with a value far beyond all others, or mend the model"
        )


def feature_histograms(config: Config) -> tuple[Histogram, ...]:
    """Read the columns' distributions of a `config.json`; empty where it has none.

    Raises
    ------
    ArtifactError
        They are broken; the key is named.
    """
    facts = config.calibration.get("features")
    if facts is None:
        return ()
    key = "config.json: key 'calibration.features'"
    edges = facts.get("edges") if isinstance(facts, Mapping) else None
    counts = facts.get("counts") if isinstance(facts, Mapping) else None
    if not isinstance(edges, Sequence) or not isinstance(counts, Sequence):
        raise ArtifactError(f"{key}: expected an object with the lists 'edges' and 'counts'")
    if not len(edges) == len(counts) == config.input_dim:
        raise ArtifactError(f"{key}: expected {config.input_dim} lists of edges and of counts")
    features = []
    for i, (its_edges, its_counts) in enumerate(zip(edges, counts, strict=True)):
        feature = Histogram(
            _float32s(its_edges, f"{key}: 'edges' of column {i}"),
            _counts(its_counts, f"{key}: 'counts' of column {i}"),
        )
        if len(feature.counts) != len(feature.edges) + 1 or not (np.diff(feature.edges) > 0).all():
            raise ArtifactError(f"{key}: column {i}: edges must ascend, with one more count than edges")
        features.append(feature)
    return tuple(features)


def _decimals(values: Float32Array) -> list[Json]:
    # Nine digits tell all float32 values apart.
    return [float(f"{value:.9g}") for value in values.tolist()]


def _float32s(value: object, key: str) -> Float32Array:
    if not isinstance(value, Sequence) or not all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in value
    ):
        raise ArtifactError(f"{key}: expected a list of numbers")
    try:
        with np.errstate(over="ignore"):
            values = np.array(value, dtype=np.float64).astype(np.float32)
    except OverflowError:  # a whole number beyond float64
        raise ArtifactError(f"{key}: not finite as float32") from None
    if not np.isfinite(values).all():
        raise ArtifactError(f"{key}: not finite as float32")
    return values


def _counts(value: object, key: str) -> Int64Array:
    if not isinstance(value, Sequence) or not all(type(item) is int and 0 <= item < 2**62 for item in value):
        raise ArtifactError(f"{key}: expected whole numbers")
    return np.array(value, dtype=np.int64)
