"""How a text file is laid out, found out from its beginning: encoding, delimiter, decimal mark, header."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from datasentinel.errors import DataError
from datasentinel.extension import native
from datasentinel.tables import labels
from datasentinel.tables.number_marks import COMMA, POINT, Marks, doubts, find_marks, has_marks, judge
from datasentinel.tables.sample_column import (
    MIN_ROWS_TO_JUDGE,
    SAMPLE_ROWS,
    SampleColumn,
    as_number,
    is_missing,
    is_time,
)

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

_DELIMITERS = (",", ";", "\t", "|", " ")
_RECORDS_TO_GUESS = 200
_IN_APOSTROPHES = re.compile(rb"(?:^|[,;\t| ])'[^'\n]*'(?:[,;\t| \r\n]|$)", re.MULTILINE)
# As Excel writes one and reads it: no data, but the delimiter of what follows.
_SEPARATOR_LINE = re.compile(rb"\s*\"?sep=(?P<delimiter>[!-/:-@[-`{-~\t ])\"?[ ,;]*\r?\n", re.IGNORECASE)
_COMMENT = "#"
# What a file of Campbell Scientific's loggers begins with; names are in its second line, whatever its width.
_CAMPBELL = "TOA5"


@dataclass(frozen=True)
class Dialect:
    """How fields are written."""

    delimiter: str = ","
    quote: str = '"'
    marks: Marks = POINT
    comment: str = ""
    escape: str = ""

    def split(self, text: bytes, limit: int) -> list[tuple[int, int, list[bytes]]]:
        """Split text into records: the end and the first line of each, and its fields."""
        return native.split_csv(
            text,
            limit,
            delimiter=self.delimiter,
            quote=self.quote,
            comment=self.comment,
            escape=self.escape,
        )


@dataclass(frozen=True)
class Layout:
    """How a file is laid out.

    Attributes
    ----------
    encoding : str
        "utf-8" or "latin-1".
    cr_line_ends : bool
        Whether carriage returns end the lines.
    dialect : Dialect
        How fields are written.
    names : tuple of str or None
        The columns' names, empty ones included, or None where the file names none.
    width : int
        Number of fields in a row.
    skip : int
        Bytes before the first row.
    first_line : int
        Line that they end in, from 1.
    sample : tuple of tuple of str
        The fields of the first rows that have `width` of them.
    doubts : dict of int to str
        What is said of columns whose numbers may mean others, by their positions.
    shows_marks : bool
        Whether numbers show which marks they have.
    preamble_lines : int
        How many lines are before the header, as loggers write them.
    """

    encoding: str
    cr_line_ends: bool
    dialect: Dialect
    names: tuple[str, ...] | None
    width: int
    skip: int
    first_line: int
    sample: tuple[tuple[str, ...], ...]
    doubts: dict[int, str] = field(default_factory=dict)
    shows_marks: bool = False
    preamble_lines: int = 0

    def columns(self) -> list[SampleColumn]:
        """Return the columns with their first values, numbers with a decimal point and no other marks."""
        columns = list(zip(*self.sample, strict=True)) or [()] * self.width
        names = self.names or ("",) * self.width
        return [
            SampleColumn(name, [self.dialect.marks.plain(field) for field in fields])
            for name, fields in zip(names, columns, strict=True)
        ]


def find_layout(
    name: str,
    head: bytes,
    *,
    header: bool | None,
    is_whole: bool,
    decimal: str | None = None,
    known: Marks | None = None,
    is_scored: bool = False,
) -> Layout:
    """Find out how a file is laid out.

    Parameters
    ----------
    name : str
        The file, for error messages.
    head : bytes
        Its beginning, as `sources.Stream` reads it.
    header : bool, optional
        Whether the first record names the columns; None to infer it.
    is_whole : bool
        Whether `head` is all there is.
    decimal : str, optional
        The decimal mark; None to infer it.
    known : Marks, optional
        Those of the table's first file, or of what a model was trained on, which decide where this file
        leaves it open.
    is_scored : bool
        Whether a model scores it: commas before three digits are decimal ones then where all that leaves it
        open, as few rows may show no others, and commas are not what is between the fields.

    Raises
    ------
    DataError
        It holds no rows.
    """
    encoding, text, start = _encoding_of(head), head, 0
    cr_line_ends = b"\r" in text and b"\n" not in text
    if cr_line_ends:
        text = text.replace(b"\r", b"\n")
    if not is_whole and b"\n" in text:
        text = text[: text.rindex(b"\n") + 1]
    told = _SEPARATOR_LINE.match(text)
    if told is not None:
        start, text = told.end(), text[told.end() :]
    dialect = _guess_dialect(text, "" if told is None else told["delimiter"].decode())
    found = [
        (end, line, [field.decode(encoding, "replace") for field in fields])
        for end, line, fields in dialect.split(text, SAMPLE_ROWS)
    ]
    if not found:
        raise DataError(f"{name}: holds no rows")
    records = [fields for _, _, fields in found]
    if dialect.delimiter == "|" and all(len(fields) > 2 and not any(fields[1::2]) for fields in records):
        raise DataError(f"{name}: '||' is between the fields; write a single '|'")
    names: tuple[str, ...] | None = None
    skip, first_line, width = start, 1 + (told is not None), _usual_width(records)
    first = 0 if header is False else _preamble(records, width, dialect.delimiter)
    preamble_lines = found[first][1] + first_line - 1 if first else 0
    found, records = found[first:], records[first:]
    if (
        header is not False
        and dialect.comment
        and (commented := _commented_header(text, dialect, encoding, records))
    ):
        names, header = commented, False
    if header or (header is None and _is_header(records, width, dialect.delimiter)):
        end, _, fields = found[0]
        skip, first_line = start + end, first_line + text[:end].count(b"\n")
        names, records = tuple(field.strip().lstrip("\ufeff") for field in fields), records[1:]
        width = _usual_width(records) if records else len(names)
        names, width = _fit_names(names, records, width)
    sample = tuple(tuple(record) for record in records if len(record) == width)
    in_doubt = {",": False} if is_scored and dialect.delimiter != "," else {}
    if known is not None:
        in_doubt = {mark: mark != known.decimal for mark in (POINT.decimal, COMMA.decimal)}
    judged = judge(sample)
    marks = find_marks(judged, dialect.delimiter, decimal, in_doubt)
    shows_marks = decimal is not None or has_marks(judged, marks)
    if known is not None and (not shows_marks or marks == Marks(known.decimal)):
        marks = known
    return Layout(
        encoding,
        cr_line_ends,
        replace(dialect, marks=marks),
        names,
        width,
        skip,
        first_line,
        sample,
        {} if decimal else doubts(judged, marks, known),
        shows_marks,
        preamble_lines,
    )


def _encoding_of(head: bytes) -> str:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # A character may be cut off where the sample ends.
        if error.start < len(head) - 4:
            return "latin-1"
    return "utf-8"


def _guess_dialect(text: bytes, delimiter: str) -> Dialect:
    """Return the dialect that makes most sense of a text, with the delimiter that the file says, if any."""
    lines = text.splitlines()[:SAMPLE_ROWS]
    commented = sum(line.startswith(_COMMENT.encode()) for line in lines)
    comment = _COMMENT if 0 < 2 * commented < len(lines) or (commented == 1 and len(lines) == 2) else ""
    quote = "'" if b'"' not in text and len(_IN_APOSTROPHES.findall(text)) > 1 else '"'
    dialects = [Dialect(each, quote, comment=comment) for each in delimiter or _DELIMITERS]
    dialect = max(dialects, key=lambda dialect: _fitness(dialect, text))
    # A backslash at the end of a path in quotation marks is none that escapes one.
    doubtful = b"".join(line for line in text.splitlines(keepends=True) if f"\\{quote}".encode() in line)
    escapes = replace(dialect, escape="\\")
    return max((dialect, escapes), key=lambda dialect: len(_usual_records(dialect, doubtful)[0]))


def _fitness(dialect: Dialect, text: bytes) -> tuple[float, int]:
    """Rate a dialect by the shares of rows with the usual width, and of their fields that make sense.

    Of equals, the one whose delimiter the first record has is better.
    """
    usual, first, num_records, end = _usual_records(dialect, text)
    if not usual:
        return 0.0, 0
    width = len(usual[0])
    marks = find_marks(judge(usual), dialect.delimiter)
    others = set(_DELIMITERS) - {dialect.delimiter, " "}
    fields = Counter(chain.from_iterable(usual))
    sense = sum(count * _sense(field, marks, others) for field, count in fields.items())
    share = len(usual) / num_records
    if not _may_head(first, usual, width):
        share *= 0.8
    if dialect.delimiter == " " and text.count(b"\t", 0, end) >= num_records:
        share *= 0.7  # Blanks separate as tabs do, and tabs that are there are hardly in between by chance.
    fitness = share * (sense + 0.01) / (width * len(usual)) + 0.01 * (width > 1)
    return round(fitness, 9), len(first) - 1


def _usual_records(dialect: Dialect, text: bytes) -> tuple[list[list[str]], list[str], int, int]:
    """Return the first records of the usual width and the first whole one; of all, the number and the end."""
    whole: list[list[str]] = []
    num_records = start = 0
    for end, _, fields in dialect.split(text, _RECORDS_TO_GUESS):
        if fields and not _is_cut(text[start:end], fields, dialect):
            whole.append([field.decode("latin-1") for field in fields])
        num_records, start = num_records + 1, end
    if not whole:
        return [], [], num_records, start
    width = _usual_width(whole)
    return [record for record in whole if len(record) == width], whole[0], num_records, start


def _is_cut(record: bytes, fields: Sequence[bytes], dialect: Dialect) -> bool:
    """Whether a stray quotation mark ends a record before its line does, or later."""
    if dialect.quote.encode() not in record:
        return False
    marks = f"{dialect.quote}{dialect.delimiter}{dialect.escape} \t\r\n".encode()
    return not record.translate(None, marks).endswith(b"".join(fields).translate(None, marks))


def _sense(field: str, marks: Marks, others: Container[str]) -> float:
    """Rate a field, between 0 and 1; text that other delimiters are in was hardly meant to be one."""
    if marks.is_number(field):
        return 1.0
    if is_time(field):
        return 0.95
    if is_missing(field):
        return 0.9
    inside = [char for char in set(field) if char in others]
    return 0.5 if not inside else 0.25 if inside == [","] else 0.0


def _may_head(first: Sequence[str], usual: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a file's first record is as wide as its rows, but for an index or a delimiter at the end."""
    if len(first) == width or all(COMMA.is_number(field) or is_missing(field) for field in first):
        return True
    if len(first) == width - 1:
        return len(first) > 1 or not any(record[-1].strip() for record in usual)
    return len(first) == width + 1 and not first[-1].strip()


def _usual_width(records: Sequence[Sequence[str]]) -> int:
    return Counter(map(len, records)).most_common(1)[0][0]


def _preamble(records: Sequence[Sequence[str]], width: int, delimiter: str) -> int:
    """Return how many records are before the header, in which loggers tell of themselves.

    All have other widths than the rows; one that lacks a single name may be the header itself.
    """
    if records[0][:1] == [_CAMPBELL]:
        return min(1, len(records) - 1)
    before = next((i for i, record in enumerate(records) if len(record) == width), 0)
    if all(abs(len(record) - width) == 1 for record in records[:before]):
        return 0
    has_names = 2 * sum(_are_words(records[before])) > width and _is_header(
        records[before:], width, delimiter
    )
    return before if has_names else 0


def _is_header(records: Sequence[Sequence[str]], width: int, delimiter: str) -> bool:
    """Whether the first record names the columns: by its types against those below, and by its own kind."""
    first, rest = records[0], [record for record in records[1:] if len(record) == width]
    names = [field.strip() for field in first]
    is_word = _are_words(names)
    marks = find_marks(judge(rest[:_RECORDS_TO_GUESS]), delimiter)
    if 2 * sum(is_word) > len(names):
        if len(set(names)) < len(names) and rest and not all(is_word):
            return False
        # All words: a header, unless the columns below hold words of the same kind.
        columns = list(zip(*rest, strict=True))[: len(names)]
        differs = any(word and _mostly(column, marks) for word, column in zip(is_word, columns, strict=False))
        return differs or not rest or not any(_mostly(column, marks) for column in columns)
    return _is_numbered_header(names, is_word, rest, marks.decimal) or _is_scale(names, rest, marks)


def _are_words(fields: Sequence[str]) -> list[bool]:
    return [not is_missing(field) and not COMMA.is_number(field) for field in fields]


def _is_scale(names: Sequence[str], rest: Sequence[Sequence[str]], marks: Marks) -> bool:
    """Whether a record is a header of years, wavelengths or the like: equal steps, far from what is below."""
    scale = [as_number(marks.plain(name)) for name in names]
    steps = [after - before for before, after in pairwise(scale)]
    if len(rest) < MIN_ROWS_TO_JUDGE or len(steps) < 2 or not all(map(math.isfinite, steps)):
        return False
    if not 0 < max(steps) <= min(steps) * (1 + 1e-6):
        return False
    for number, column in zip(scale, zip(*rest, strict=True), strict=False):
        below = [value for field in column if math.isfinite(value := as_number(marks.plain(field)))]
        if len(below) < MIN_ROWS_TO_JUDGE:
            return False
        if max(min(below) - number, number - max(below)) <= max(below) - min(below):
            return False
    return True


def _is_numbered_header(
    names: Sequence[str], is_word: Sequence[bool], rest: Sequence[Sequence[str]], decimal: str
) -> bool:
    """Whether a record is a header as pandas writes one: 0, 1, 2, ... and perhaps a word or two."""
    if not rest or len(set(names)) < len(names):
        return False
    numbered = [
        i for i, (name, word) in enumerate(zip(names, is_word, strict=True)) if not word and name != ""
    ]
    if not numbered or not all(names[i].isascii() and names[i].isdecimal() for i in numbered):
        return False
    values = [int(names[i]) for i in numbered]
    if values != list(range(values[0], values[0] + len(values))):
        return False
    others = [name for i, name in enumerate(names) if i not in numbered]
    if others and all(map(_is_common_name, others)):
        return True
    if values[0] not in (0, 1) or (len(values) < 2 and not others):
        return False
    # Whole numbers head columns of fractions.
    columns = list(zip(*rest, strict=True))
    fractions = [i for i in numbered if i < len(columns) and any(decimal in field for field in columns[i])]
    return 2 * len(fractions) > len(numbered)


def _is_common_name(name: str) -> bool:
    return (
        name.lower() in {"", "index", "id", "time", "timestamp"}
        or labels.is_label_name(name)
        or labels.may_be_label_name(name)
    )


def _mostly(column: Sequence[str], marks: Marks) -> bool:
    """Whether at least half of a column's values are numbers."""
    present = [field for field in column if not is_missing(field)]
    return bool(present) and 2 * sum(map(marks.is_number, present)) >= len(present)


def _commented_header(
    text: bytes, dialect: Dialect, encoding: str, records: Sequence[Sequence[str]]
) -> tuple[str, ...] | None:
    """Return the names in the last comment before the first row, where there are as many as columns."""
    width = _usual_width(records)
    if _is_header(records, width, dialect.delimiter):
        return None
    comments = []
    for line in text.splitlines():
        if line.strip() and not line.startswith(dialect.comment.encode()):
            break
        comments.append(line)
    line = next((line for line in reversed(comments) if line.strip()), b"").lstrip(b"# ")
    fields = replace(dialect, comment="").split(line, 1)
    names = tuple(field.decode(encoding, "replace").strip() for field in fields[0][2]) if fields else ()
    words = [name for name in names if name and not COMMA.is_number(name)]
    is_header = len(names) == width and len(words) == len(set(names)) == width
    return names if is_header else None


def _may_be_index(fields: Sequence[str]) -> bool:
    """Whether fields tell rows apart as a data frame's index does: no fractions, and no number twice."""
    numbers = [number for field in fields if math.isfinite(number := as_number(field))]
    if 2 * len(numbers) < len(fields):
        return True
    return len(set(numbers)) == len(numbers) and all(map(float.is_integer, numbers))


def _fit_names(
    names: tuple[str, ...], records: Sequence[Sequence[str]], width: int
) -> tuple[tuple[str, ...], int]:
    """Make the header as wide as the rows where a delimiter ends the lines, or an index has no name."""
    if width == len(names) + 1:
        rows = [record for record in records if len(record) == width]
        if not any(record[-1].strip() for record in rows):
            return (*names, ""), width
        if len(names) > 1 and _may_be_index([record[0] for record in rows]):
            return ("", *names), width
    if width == len(names) - 1 and not names[-1]:
        return names[:-1], width
    return names, len(names)
