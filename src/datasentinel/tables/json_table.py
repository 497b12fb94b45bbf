"""JSON lines: an object a line."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError
from datasentinel.tables import labels
from datasentinel.tables.base import Part, describe_number, labelled
from datasentinel.tables.chunk import Chunk
from datasentinel.tables.problems import BadRow, ProblemKind
from datasentinel.tables.sample_column import SAMPLE_ROWS, SampleColumn, as_number, is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from datasentinel.tables.sources import Source

_BLOCK_BYTES = 1 << 20
_SHOWN = 40


class JsonPart(Part):
    """A file of JSON objects, one a line; the keys of the first ones are the columns."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._source = source
        lines = source.peek().splitlines()
        rows = [row for line in lines[:SAMPLE_ROWS] if isinstance(row := _parse(line), dict)]
        if not rows:
            raise DataError(f"{self.name}: holds no JSON objects, one a line")
        self._keys = list(dict.fromkeys(key for row in rows for key in row))
        self._head = rows

    @property
    def is_rereadable(self) -> bool:
        """See `Part.is_rereadable`."""
        return self._source.is_reopenable

    @property
    def first_line(self) -> int | None:
        """See `Part.first_line`."""
        return 1

    def sample(self) -> list[SampleColumn]:
        """See `Part.sample`."""
        columns = []
        for key in self._keys:
            values = [row.get(key) for row in self._head]
            nested = next((type(value).__name__ for value in values if isinstance(value, dict | list)), "")
            columns.append(SampleColumn(key, [] if nested else values, nested=nested and f"a {nested}"))
        return columns

    def blocks(self, block_rows: int | None) -> Iterator[tuple[list[bytes], float]]:
        """See `Part.blocks`."""
        stream = self._source.open()
        rest = b""
        try:
            while data := stream.read(_BLOCK_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                size = block_rows or max(1, len(lines))
                for first in range(0, len(lines), size):
                    yield lines[first : first + size], stream.share_read
            if rest:
                yield [rest], 1.0
        finally:
            stream.close()

    def parse(self, content: Any, dtype: type) -> Chunk:  # noqa: ANN401
        """See `Part.parse`."""
        columns = self.columns
        features = [self._keys[i] for i in columns.features]
        kept: dict[str, list[Any]] = {columns.names[i]: [] for i in columns.keep}
        label = None if columns.label is None else self._keys[columns.label]
        keep = [self._keys[i] for i in columns.keep]
        rows: list[int] = []
        values: list[list[float]] = []
        told: list[object] = []
        lines: list[int] = []
        bad: list[BadRow] = []
        for line, text in enumerate(content):
            if not text.strip():
                continue
            row = _parse(text)
            found = numbers_of_object(row, features, may_lack=columns.may_lack, take_texts=True)
            if isinstance(found, list):
                rows.append(len(lines))
                values.append(found)
            else:
                bad.append(BadRow(len(lines), line, *found))
            fields = row if isinstance(row, dict) else {}
            for key, column in zip(keep, kept.values(), strict=True):
                column.append(fields.get(key))
            told.append(fields.get(label))
            lines.append(line)
        chunk = Chunk(
            len(lines),
            np.array(rows, dtype=np.int64),
            np.array(values, dtype=dtype).reshape(len(rows), len(features)),
            bad,
            kept,
            num_lines=len(content),
        )
        return chunk if label is None else labelled(chunk, labels.normalise_all(told), columns, lines)


def _parse(text: bytes) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number_in(text: str) -> float | str:
    """Return the number that a text is, or the text."""
    number = as_number(text)
    return text if math.isnan(number) else number


def numbers_of_object(
    row: Any,  # noqa: ANN401
    features: Sequence[str],
    *,
    may_lack: bool = False,
    take_texts: bool = False,
) -> list[float] | tuple[ProblemKind, str]:
    """Return an object's features, or why there are none; NaN for those that it lacks where it may.

    With `take_texts`, numbers may be texts, and those that stand for missing values are such.
    """
    if not isinstance(row, dict):
        return ProblemKind.NOT_JSON, "is not a JSON object"
    numbers = []
    for name in features:
        value = row.get(name)
        if take_texts and isinstance(value, str):
            value = None if is_missing(value) else _number_in(value)
        if may_lack and (value is None or (isinstance(value, float) and np.isnan(value))):
            numbers.append(float("nan"))
            continue
        if value is None:
            return ProblemKind.EMPTY, f"column '{name}': is empty"
        if not isinstance(value, bool | int | float):
            shown = json.dumps(value)[:_SHOWN]
            return ProblemKind.NOT_A_NUMBER, f"column '{name}': {shown} is not a number"
        try:
            number = float(value)
        except OverflowError:
            return ProblemKind.OUT_OF_RANGE, f"column '{name}': {str(value)[:_SHOWN]} does not fit float32"
        with np.errstate(over="ignore"):
            if not np.isfinite(np.float32(number)):
                kind, what = describe_number(number)
                return kind, f"column '{name}': {what}"
        numbers.append(number)
    return numbers
