"""Delimited text."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError
from datasentinel.extension import native
from datasentinel.tables import labels
from datasentinel.tables.base import Part, labelled
from datasentinel.tables.chunk import Chunk
from datasentinel.tables.problems import BadRow, ProblemKind
from datasentinel.tables.sample_column import MISSING_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasentinel.tables.layout import Layout
    from datasentinel.tables.roles import Columns
    from datasentinel.tables.sample_column import SampleColumn
    from datasentinel.tables.sources import Source, Stream

_BLOCK_BYTES = 2 << 20
_MAX_RECORD_BYTES = 64 << 20
_KINDS = {
    native.CsvProblem.WRONG_COUNT: ProblemKind.WRONG_COUNT,
    native.CsvProblem.EMPTY: ProblemKind.EMPTY,
    native.CsvProblem.NOT_A_NUMBER: ProblemKind.NOT_A_NUMBER,
    native.CsvProblem.NOT_FINITE: ProblemKind.NOT_FINITE,
    native.CsvProblem.OUT_OF_RANGE: ProblemKind.OUT_OF_RANGE,
    native.CsvProblem.OPEN_QUOTE: ProblemKind.OPEN_QUOTE,
}


# Of the columns whose numbers are in doubt.
_SHOWN = 3


class CsvPart(Part):
    """A file of delimited text."""

    def __init__(self, source: Source, layout: Layout) -> None:
        self.name = source.name
        self.is_named = layout.names is not None
        self.marks = layout.dialect.marks if layout.shows_marks else None
        self._source = source
        self._layout = layout
        self._quote = layout.dialect.quote.encode()

    def bind(self, columns: Columns) -> None:
        """See `Part.bind`."""
        layout, dialect, doubts = self._layout, self._layout.dialect, self._layout.doubts
        self.columns = columns
        told = [f"{columns.describe(i)}: {doubts[i]}" for i in columns.features if i in doubts]
        self.warnings = tuple(told[:_SHOWN])
        if more := len(told) - len(self.warnings):
            self.warnings += (f"{self.name}: numbers of {more} more columns are in doubt, too",)
        if layout.preamble_lines:
            header = layout.preamble_lines + 1
            self.warnings += (f"{self.name}: line {header} is the header: what is before it is passed over",)
        label = [] if columns.label is None else [columns.label]
        self._texts = list(dict.fromkeys([*columns.keep, *label]))  # The label may be the series, too.
        self._parser = native.CsvParser(
            width=layout.width,
            numbers=list(columns.features),
            texts=self._texts,
            delimiter=dialect.delimiter,
            quote=dialect.quote,
            decimal=dialect.marks.decimal,
            # A mark of other files that this encoding does not have is nowhere in this one.
            thousands=dialect.marks.thousands.encode(layout.encoding, "ignore"),
            comment=dialect.comment,
            escape=dialect.escape,
            missing=sorted(MISSING_WORDS) if columns.may_lack else [],
        )

    def sample(self) -> list[SampleColumn]:
        """See `Part.sample`."""
        return self._layout.columns()

    @property
    def is_rereadable(self) -> bool:
        """See `Part.is_rereadable`."""
        return self._source.is_reopenable

    @property
    def first_line(self) -> int | None:
        """See `Part.first_line`."""
        return self._layout.first_line

    def _open(self) -> Stream:
        stream = self._source.open()
        if self._layout.cr_line_ends:
            stream.replace_line_ends()
        stream.read(self._layout.skip)
        return stream

    def blocks(self, block_rows: int | None) -> Iterator[tuple[bytes, float]]:
        """See `Part.blocks`; blocks end where records do."""
        stream = self._open()
        size = _BLOCK_BYTES if block_rows is None else max(1, block_rows) * self._usual_line_bytes()
        rest = b""
        try:
            while data := stream.read(size):
                text = rest + data
                end = self._whole_records(text) if len(data) == size else len(text)
                rest = text[end:]
                if len(rest) > _MAX_RECORD_BYTES:
                    raise DataError(f"{self.name}: a line is longer than {_MAX_RECORD_BYTES >> 20} MiB")
                if end:
                    yield text[:end] if rest else text, stream.share_read
            if rest:
                yield rest, 1.0
        finally:
            stream.close()

    def _whole_records(self, text: bytes) -> int:
        if self._quote in text:
            return self._parser.whole_records(text)
        return text.rfind(b"\n") + 1

    def _usual_line_bytes(self) -> int:
        sample = self._layout.sample
        fields = sum(len(field) + 1 for record in sample for field in record)
        return max(1, fields // max(1, len(sample)))

    def parse(self, content: Any, dtype: type) -> Chunk:  # noqa: ANN401
        """See `Part.parse`."""
        parse = self._parser.parse_float32 if dtype is np.float32 else self._parser.parse_float64
        values, found, texts, lines, num_lines = parse(content)
        num_rows = len(lines)
        bad = [self._bad_row(*record) for record in found]
        decoded = [self._decode(*text) for text in texts]
        kept = dict(zip((self.columns.names[i] for i in self.columns.keep), decoded, strict=False))
        good = np.ones(num_rows, bool)
        good[[wrong.row for wrong in bad]] = False
        rows = np.flatnonzero(good).astype(np.int64)
        marks = self._layout.dialect.marks
        chunk = Chunk(num_rows, rows, values, bad, kept, num_lines=num_lines, marks=marks)
        if self.columns.label is None:
            return chunk
        told = labels.normalise_all(list(map(marks.plain, decoded[self._texts.index(self.columns.label)])))
        return labelled(chunk, told, self.columns, lines)

    def _decode(self, offsets: Any, text: bytes) -> list[str]:  # noqa: ANN401
        bounds = list(pairwise(offsets.tolist()))
        if text.isascii():
            all_of_it = text.decode("ascii")
            return [all_of_it[a:b] for a, b in bounds]
        return [text[a:b].decode(self._layout.encoding, "replace") for a, b in bounds]

    def _bad_row(self, row: int, line: int, problem: Any, column: int, text: bytes) -> BadRow:  # noqa: ANN401
        kind = _KINDS[problem]
        if kind is ProblemKind.WRONG_COUNT:
            reason = f"expected {self._layout.width} values, got {column}"
        elif kind is ProblemKind.OPEN_QUOTE:
            reason = "a quotation mark is opened and not closed"
            if column < self._layout.width:
                reason = f"{self.columns.describe(column)}: {reason}"
        else:
            shown = text.decode(self._layout.encoding, "replace").strip(" \t\r\n")
            if not shown.isprintable():  # As blanks that do not break.
                shown = repr(shown)[1:-1]
            what = {
                ProblemKind.EMPTY: "is empty",
                ProblemKind.NOT_A_NUMBER: f"'{shown}' is not a number",
                ProblemKind.NOT_FINITE: f"{shown} is not finite",
                ProblemKind.OUT_OF_RANGE: f"{shown} does not fit float32",
            }[kind]
            reason = f"{self.columns.describe(column)}: {what}"
        return BadRow(row, line, kind, reason)
