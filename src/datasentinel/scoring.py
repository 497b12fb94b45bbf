"""Scoring of a table's chunks, and of which columns: what every way to score many rows has in common."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calibration import ScoreTable
from datasentinel.errors import DataError, InvalidInputError, UnsupportedModelError
from datasentinel.series import Alarms, Chronology, known_times, require_times
from datasentinel.streams import StreamDetector
from datasentinel.tables.roles import Columns, Roles
from datasentinel.tables.scored import OutputColumns, Scored
from datasentinel.tables.text_format import TextFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.artifact import Config
    from datasentinel.detector import Detector
    from datasentinel.reasons import Reason
    from datasentinel.tables.chunk import Chunk
    from datasentinel.tables.time_column import TimeColumn
    from datasentinel.types import BoolArray, Float32Array


def scoring_roles(
    features: Sequence[str] = (),
    ignore: Sequence[str] = (),
    time: str | None = None,
    id: str | None = None,  # noqa: A002 - the role's name
    keep: Sequence[str] = (),
) -> Roles:
    """Return what is asked of the columns of rows to score, as `Roles` has it; no label is needed."""
    return Roles(tuple(features), tuple(ignore), time, id, keep=tuple(keep), needs_label=False)


@dataclass(frozen=True)
class ScoringRequest:
    """What is asked of the scoring of a table.

    Attributes
    ----------
    roles : Roles
        Of the table's columns, as far as they are asked for; the model says the rest.
    p_values : bool
        Whether to add how rare each score is among normal rows.
    num_reasons : int
        How many reasons to return for each score, at least 0.
    alarm_budget : float or None
        For a model with memory: the share of `datasentinel.events.AlarmBudget`.
    """

    roles: Roles = field(default_factory=scoring_roles)
    p_values: bool = False
    num_reasons: int = 0
    alarm_budget: float | None = None

    def outputs(self, config: Config, kept: Sequence[str]) -> OutputColumns:
        """Return the columns of the output for a model, and the columns of the input handed through.

        Raises
        ------
        InvalidInputError
            An alarm budget for a model without memory, or fewer than no reasons.
        UnsupportedModelError
            The model has no calibration scores to take p-values from.
        """
        if self.num_reasons < 0:
            raise InvalidInputError(f"the number of reasons must be at least 0, got {self.num_reasons}")
        if self.alarm_budget is not None and not config.state:
            raise DataError("an alarm budget is for models with memory (train --model context)")
        if self.p_values and ScoreTable.of_config(config) is None:
            raise UnsupportedModelError(
                "config.json has no 'calibration.score_table' to take p-values from; run "
                "`datasentinel recalibrate` with normal rows"
            )
        return OutputColumns(
            tuple(kept),
            # A logarithm of a distance, as old models score, has no ratio to its threshold.
            severity=config.threshold > 0,
            p_value=self.p_values,
            num_reasons=min(self.num_reasons, config.input_dim),
            warming=bool(config.state),
        )


def scoring_request(
    features: Sequence[str] = (),
    ignore: Sequence[str] = (),
    time: str | None = None,
    id: str | None = None,  # noqa: A002 - as `datasentinel score` names it
    keep: Sequence[str] = (),
    *,
    p_values: bool = False,
    explain: int = 0,
    alarm_budget: float | None = None,
) -> ScoringRequest:
    """Return what is asked of the scoring of a table, in the words of `datasentinel score`.

    Parameters
    ----------
    features, ignore : sequence of str
        Names or patterns of columns; by default the model's features are taken by name.
    time, id : str, optional
        Columns that say when a row was taken and to which series it belongs; by default those that the model
        was trained with. To score rows in no order, a model with memory needs both.
    keep : sequence of str
        Names or patterns of further columns to hand through; ["*"] for all.
    p_values : bool
        Add how rare each score is among normal rows.
    explain : int
        Reasons a row.
    alarm_budget : float, optional
        For a model with memory: the share of `datasentinel.events.AlarmBudget`.

    Returns
    -------
    ScoringRequest
        What comes of it has a row for each: `time`, `id` and `keep` columns, `score`, `anomaly`, `error`
        (null but for rows that cannot be scored, which have nothing else) and what else is asked for, as
        `datasentinel.tables.arrow.output_schema` says.
    """
    roles = scoring_roles(features, ignore, time, id, keep)
    return ScoringRequest(roles, p_values, explain, alarm_budget)


def roles_for_model(asked: Roles, config: Config) -> Roles:
    """Return the roles that are asked of a table's columns, with those that a model knows."""
    season_time = config.columns.get("time") if config.calendar else None
    return dataclasses.replace(
        asked,
        time=asked.time or (season_time if isinstance(season_time, str) else None),
        carry=config.carried_columns,
        model_features=() if asked.features else config.table_features,
        num_features=config.input_dim - bool(config.calendar),
        may_lack=bool(config.first_values),
        text=TextFormat.of_facts(config.text_format),
    )


def as_trained(columns: Columns, config: Config) -> Columns:
    """Default the time and series columns to those of the training, where the table has them."""
    kept = {columns.names[column]: column for column in columns.keep}
    known = {role: kept.get(str(config.columns.get(role))) for role in ("time", "id")}
    return dataclasses.replace(
        columns,
        time=known["time"] if columns.time is None else columns.time,
        id=known["id"] if columns.id is None else columns.id,
    )


def check_width(where: str, num_features: int, config: Config) -> None:
    """Raise a DataError if a model takes another number of features than a table has."""
    if num_features != config.input_dim:
        raise DataError(
            f"{where}: {num_features} feature columns, but the model takes {config.input_dim}; "
            "name the label with --label, and other columns that are not features with --ignore"
        )


class ChunkScorer:
    """Scores chunks of a table; those of a model with memory in their order, one call at a time.

    Parameters
    ----------
    detector : Detector
    outputs : OutputColumns
        What to compute.
    time : TimeColumn or None
    id : str or None
        Columns handed through that say when rows were taken and to which series they belong; for a model with
        memory, which scores each row in the past of its own series, or of all rows where there is no id. A
        row whose time is none is a bad one.
    alarm_budget : float, optional
        As of `ScoringRequest`.

    Attributes
    ----------
    chronology : Chronology
        Whether the rows came in order of time, where a model with memory knows their times.

    Raises
    ------
    DataError
        The model's half-lives count time, and no column says when rows were taken.
    """

    def __init__(
        self,
        detector: Detector,
        outputs: OutputColumns,
        *,
        time: TimeColumn | None = None,
        id: str | None = None,  # noqa: A002 - the role's name
        alarm_budget: float | None = None,
    ) -> None:
        self._detector = detector
        self._outputs = outputs
        self._time, self._id = time, id
        self.has_memory = detector.scorer.state_dim > 0
        if self.has_memory:
            require_times(detector, are_there=time is not None)
            self._streams = StreamDetector(detector)
            self._alarms = Alarms(detector.threshold, alarm_budget)
        self.chronology = Chronology()

    @property
    def evicted(self) -> int:
        """How many streams started over because too many are remembered."""
        return self._streams.evicted if self.has_memory else 0

    @property
    def stale_rows(self) -> int:
        """How many rows were scored with a value carried for longer than the model remembers."""
        return self._streams.stale_rows if self.has_memory else 0

    def score(self, chunk: Chunk) -> Scored:
        """Score the good rows of a chunk; thread-safe for models without memory."""
        if self.has_memory:
            return self._score_streams(chunk)
        detector, outputs = self._detector, self._outputs
        scores = detector.score(chunk.values)
        reasons = detector.explain(chunk.values, outputs.num_reasons) if outputs.num_reasons else None
        return self._scored(chunk, scores, scores.astype(np.float64) > detector.threshold, reasons)

    def _score_streams(self, chunk: Chunk) -> Scored:
        times = None
        if self._time is not None:
            times_s = self._time.seconds(chunk)
            if wrong := self._time.bad_rows(chunk, times_s, may_lack=True):
                times_s = times_s[~np.isin(chunk.rows, [bad.row for bad in wrong])]
                chunk = chunk.without(wrong)
            times = known_times(times_s)
        series = [""] * len(chunk.rows) if self._id is None else chunk.good_texts(self._id)
        if times is not None:
            self.chronology.follow(series, times)
        reasons: list[list[Reason]] | None = None
        if top := self._outputs.num_reasons:
            scores, warming, reasons = self._streams.explain_many(chunk.values, series, times, top=top)
        else:
            scores, warming = self._streams.update_many(chunk.values, series, times)
        return self._scored(chunk, scores, self._alarms.decide(scores, warming, series), reasons, warming)

    def _scored(
        self,
        chunk: Chunk,
        scores: Float32Array,
        anomalies: BoolArray,
        reasons: list[list[Reason]] | None,
        warming: BoolArray | None = None,
    ) -> Scored:
        detector, outputs = self._detector, self._outputs
        return Scored(
            chunk,
            scores,
            anomalies,
            detector.severity_of_scores(scores) if outputs.severity else None,
            detector.p_values_of_scores(scores) if outputs.p_value else None,
            reasons,
            warming,
        )
