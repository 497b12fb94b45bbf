"""Scoring of Arrow record batches: what Ray, Spark and Flight have in common."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError
from datasentinel.scoring import ChunkScorer, as_trained, check_width, roles_for_model
from datasentinel.tables.arrow import batch_of, chunk_of, has_order, output_schema, schema_columns
from datasentinel.tables.roles import assign
from datasentinel.tables.time_column import CalendarColumn, TimeColumn

if TYPE_CHECKING:
    from datasentinel.artifact import Config
    from datasentinel.detector import Detector
    from datasentinel.scoring import ScoringRequest
    from datasentinel.tables.chunk import Chunk

# What batches of an engine are called in messages.
_WHERE = "the data"


class BatchLayout:
    """What the columns of Arrow batches are to a model, and what scoring makes of them.

    Parameters
    ----------
    config : Config
        The model's.
    schema : pyarrow.Schema
        Of the batches.
    request : ScoringRequest
    with_rows : bool
        Whether batches follow each other, so that rows have a position: column `row`, and in errors.

    Raises
    ------
    DataError
        The batches lack a column that is asked for or that the model needs.
    InvalidInputError, UnsupportedModelError
        As for `ScoringRequest.outputs`.
    """

    def __init__(
        self,
        config: Config,
        schema: Any,  # noqa: ANN401
        request: ScoringRequest,
        *,
        with_rows: bool = False,
    ) -> None:
        asked = roles_for_model(request.roles, config)
        columns = assign(_WHERE, schema_columns(schema), asked, named=True)
        self.columns = as_trained(columns, config)
        time, self.id = (columns.name_of(c) for c in (self.columns.time, self.columns.id))
        self.time = None if time is None else TimeColumn(time, config.date_order)
        self.calendar: CalendarColumn | None = None
        if config.time_zone is not None:
            if self.time is None:
                raise DataError(f"{_WHERE}: a season needs the times of the rows; name their column")
            self.calendar = CalendarColumn(self.time, config.time_zone)
        check_width(_WHERE, len(columns.features) + (self.calendar is not None), config)
        self.outputs = request.outputs(config, [columns.names[column] for column in columns.keep])
        self.with_rows = with_rows
        self.has_memory = bool(config.state)
        self._schema = schema
        self.schema = output_schema(schema, self.outputs, with_rows=with_rows)

    def series_order(self) -> tuple[str, str]:
        """Return the columns that say to which series a row belongs, and when it was taken.

        An engine spreads rows over workers in no order: with these columns it can put those of a series
        together, and in order.

        Raises
        ------
        DataError
            There is no such column, or its values are not in order of time as they are.
        """
        if self.id is None or self.time is None:
            role = "id" if self.id is None else "time"
            raise DataError(
                f"{_WHERE}: this model has a memory, and to score rows that lie in no order it needs the "
                f"column `{role}`; a single recording is scored by `datasentinel score`"
            )
        if not has_order(kind := self._schema.field(self.time.name).type):
            raise DataError(
                f"{_WHERE}: column '{self.time.name}' holds {kind}, whose order need not be that of time; "
                "make it timestamps or numbers"
            )
        return self.id, self.time.name

    def chunk(self, batch: Any, first_row: int = 0) -> Chunk:  # noqa: ANN401
        """Take the rows out of a batch."""
        chunk = chunk_of(batch, self.columns, np.float32, where=_WHERE)
        if self.calendar is not None:
            chunk = self.calendar.add(chunk)
        elif self.has_memory and self.time is not None:
            # Nobody knows where in its series such a row belongs.
            chunk = chunk.without(self.time.bad_rows(chunk, self.time.seconds(chunk)))
        bad = [dataclasses.replace(wrong, row=wrong.row + first_row) for wrong in chunk.bad]
        return dataclasses.replace(chunk, rows=chunk.rows + first_row, bad=bad, first_row=first_row)


class RecordBatchScorer:
    """Scores Arrow record batches of one schema, as `datasentinel score` scores a Parquet file.

    Of a model with memory, the rows of a series must come in order of time: consecutive calls go on where
    the last one ended.

    Parameters
    ----------
    detector : Detector
    schema : pyarrow.Schema
        Of the batches.
    request : ScoringRequest
    with_rows : bool
        As of `BatchLayout`.

    Raises
    ------
    DataError, InvalidInputError, UnsupportedModelError
        As for `BatchLayout`.
    """

    def __init__(
        self,
        detector: Detector,
        schema: Any,  # noqa: ANN401
        request: ScoringRequest,
        *,
        with_rows: bool = False,
    ) -> None:
        self._layout = BatchLayout(detector.artifact.config, schema, request, with_rows=with_rows)
        self._scorer = ChunkScorer(
            detector,
            self._layout.outputs,
            time=self._layout.time,
            id=self._layout.id,
            alarm_budget=request.alarm_budget,
        )
        self._next_row = 0

    @property
    def schema(self) -> Any:  # noqa: ANN401
        """The pyarrow.Schema of what `score` returns."""
        return self._layout.schema

    def score(self, batch: Any) -> Any:  # noqa: ANN401
        """Score a pyarrow.RecordBatch.

        Returns
        -------
        pyarrow.RecordBatch
            A row for each: the columns handed through, `score`, `anomaly`, `error` and what else is asked
            for; of a row that cannot be scored only the error, otherwise null.

        Raises
        ------
        DataError
            A column does not hold numbers.
        BackendError
            The backend's library failed.
        """
        chunk = self._layout.chunk(batch, self._next_row)
        self._next_row += chunk.num_rows
        return batch_of(self._scorer.score(chunk), self._layout.outputs, with_rows=self._layout.with_rows)
