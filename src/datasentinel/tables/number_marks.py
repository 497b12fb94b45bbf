"""Which marks numbers in text have: a decimal point or comma, and marks between thousands."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from datasentinel.tables.sample_column import as_number, is_missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_OTHER = {",": ".", ".": ","}
# Only ever between thousands: apostrophes, and blanks that do not break.
_OTHER_THOUSANDS = "'\u2019\u00a0\u202f"
_WORDS = {".": "point", ",": "comma"}
# What is known of a mark in a number: `1,5`; `1,234,567` and `1,234.5`; only the latter; `1,234`.
_DECIMAL, _THOUSANDS, _BOTH, _EITHER = "decimal", "thousands", "both", "either"
_PLAIN = re.compile(r"([0-9]+)(?:([.,])([0-9]*))?")
_BYTE = "(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_ADDRESS = rf"(?!{_BYTE}([.]{_BYTE}){{3}}\Z)"
_ENDS = frozenset("0123456789.,")
# Whole numbers that are too short for a mark between thousands, and ones that lack it.
_SHORT, _LONG = ("short", ""), ("long", "")


@dataclass(frozen=True)
class Marks:
    """Marks in numbers.

    Attributes
    ----------
    decimal : str
        A point or a comma.
    thousands : str
        What is between thousands; empty for nothing.
    """

    decimal: str = "."
    thousands: str = ""

    def plain(self, field: str) -> str:
        """Return a number as `float` reads it; any other text as it is."""
        if self.decimal == "." and not self.thousands:
            return field
        text = field.strip()
        if self.thousands and _thousands(self.thousands, self.decimal).fullmatch(text):
            text = text.replace(self.thousands, "")
        elif self.decimal == "." or not _decimal(self.decimal).fullmatch(text):
            return field
        return text.replace(self.decimal, ".")

    def is_number(self, field: str) -> bool:
        """Whether a text is a number, or "true" or "false"."""
        return not math.isnan(as_number(self.plain(field)))


POINT, COMMA = Marks("."), Marks(",")


def find_marks(
    columns: Sequence[Column],
    delimiter: str,
    decimal: str | None = None,
    in_doubt: Mapping[str, bool] | None = None,
) -> Marks:
    """Find the marks that most numbers have.

    What may be a decimal mark is one, unless there is more to say that it is between thousands.

    Parameters
    ----------
    columns : sequence of Column
        What `judge` returned.
    delimiter : str
        What is between the fields: numbers beside commas have them rather between thousands.
    decimal : str, optional
        The decimal mark, where it is known.
    in_doubt : mapping of str to bool, optional
        Whether a mark is between thousands where all numbers with it are such as `1,234`.
    """
    in_doubt = in_doubt or {}
    total = sum((column.counts for column in columns), Counter[tuple[str, str]]())
    num_possible = {mark: total[_DECIMAL, mark] + total[_EITHER, mark] for mark in _OTHER}
    found = decimal or ("," if num_possible[","] > num_possible["."] else ".")
    between = {mark: _is_between(mark, columns, found, delimiter, in_doubt) for mark in _OTHER}
    if decimal is None and between[found] and not between[_OTHER[found]]:
        found = _OTHER[found]
    other = _OTHER[found]
    marks = [*_OTHER_THOUSANDS, *([other] if decimal or between[other] else [])]
    thousands = max(marks, key=lambda mark: total[_THOUSANDS, mark] + total[_EITHER, mark])
    is_there = total[_THOUSANDS, thousands] + total[_EITHER, thousands] > 0
    return Marks(found, thousands if is_there else other if decimal else "")


def _is_between(
    mark: str, columns: Sequence[Column], usual: str, delimiter: str, in_doubt: Mapping[str, bool]
) -> bool:
    """Whether a mark is between thousands, where the decimal mark is usually another or the same."""
    if any(column.has_decimals(mark) for column in columns):
        return False
    if any(column.has_groups(mark) for column in columns):
        return True
    either = [column for column in columns if column.counts[_EITHER, mark]]
    if not either or mark in in_doubt:
        return bool(either) and in_doubt[mark]
    other = _OTHER[mark]
    has_others = mark != usual and any(column.has_decimals(other) for column in columns)
    if has_others and any(column.is_beside_short_ones(mark) for column in either):
        return True
    if any(column.counts[_LONG] for column in either):
        return False
    return mark == delimiter or (mark != usual and any(column.has_rather(other) for column in either))


def has_marks(columns: Sequence[Column], marks: Marks) -> bool:
    """Whether numbers have any of these marks."""
    used = {marks.decimal, marks.thousands} - {""}
    return any(mark in used for column in columns if column.is_numeric for _, mark in column.counts)


def doubts(columns: Sequence[Column], marks: Marks, known: Marks | None) -> dict[int, str]:
    """Return what to say of columns whose numbers may mean others, by their positions: `1,234` is 1.234.

    Parameters
    ----------
    columns : sequence of Column
        What `judge` returned.
    marks : Marks
        Those that the numbers are read with.
    known : Marks, optional
        Those of tables before, which leave no doubt; others are told of.
    """
    other = _OTHER[marks.decimal]
    is_odd = known is not None and known.decimal != marks.decimal
    found = {}
    for mark in filter(_OTHER.get, (marks.decimal, marks.thousands)):
        is_sure = any(
            column.has_groups(other) or column.has_decimals(mark)
            if mark == marks.decimal
            else column.has_groups(mark)
            for column in columns
        )
        is_known = known is not None and mark in (known.decimal, known.thousands)
        if (is_sure or is_known) and not is_odd:
            continue
        for i, column in enumerate(columns):
            fields = [
                field
                for kind, field in column.examples.items()
                if kind[1] == mark and (is_odd or kind[0] == _EITHER)
            ]
            # Points are decimal points to most: only numbers below 1,000 without any say otherwise.
            is_usual = mark == marks.decimal == "." and not is_odd and not column.is_beside_short_ones(mark)
            if not fields or is_usual:
                continue
            if is_odd:
                why = f", though decimal marks were {_WORDS[other]}s before; --decimal point or comma decides"
            else:
                told = Marks(other, marks.decimal).plain(fields[0])
                why = f"; --decimal {_WORDS[other]} reads it as {told}"
            found[i] = f"'{fields[0]}' is read as {marks.plain(fields[0])}{why}"
    return found


@dataclass(frozen=True)
class Column:
    """How often each kind of number is in a column, one of each, and whether most fields are numbers."""

    counts: Counter[tuple[str, str]]
    examples: dict[tuple[str, str], str]
    is_numeric: bool

    def has_decimals(self, mark: str) -> bool:
        """Whether a mark is a decimal mark in it, no doubt."""
        more = self.counts[_DECIMAL, mark] > self.counts[_THOUSANDS, mark]
        return self.is_numeric and more and not self.is_beside_short_ones(mark)

    def has_rather(self, mark: str) -> bool:
        """Whether it has more numbers with a mark than with the other one."""
        counts = self.counts
        return counts[_DECIMAL, mark] + counts[_EITHER, mark] > counts[_EITHER, _OTHER[mark]]

    def has_groups(self, mark: str) -> bool:
        """Whether a mark is between thousands in it, no doubt.

        A cell or two do not say so, where most may be decimals; nor do points in texts of one length, as
        numbers of documents have them.
        """
        counts = self.counts
        few, most = counts[_THOUSANDS, mark], counts[_EITHER, mark]
        if not self.is_numeric or few <= counts[_DECIMAL, mark]:
            return False
        if 20 * few < most and not self.is_beside_short_ones(mark):
            return False
        return bool(mark == "," or counts[_BOTH, mark] or most or counts[_SHORT])

    def is_beside_short_ones(self, mark: str) -> bool:
        """Whether three digits follow each mark, numbers below 1,000 have none, and all above have it.

        Of fractions that are rounded to three digits, one in ten would have fewer.
        """
        few, most = self.counts[_DECIMAL, mark], self.counts[_EITHER, mark]
        return 0 < most >= 20 * few and self.counts[_SHORT] > few and not self.counts[_LONG]


def judge(records: Iterable[Sequence[str]]) -> list[Column]:
    """Count the kinds of numbers in each column of records of as many fields each."""
    columns = []
    for fields in zip(*records, strict=True):
        counts: Counter[tuple[str, str]] = Counter()
        examples: dict[tuple[str, str], str] = {}
        num_texts = 0
        for field, count in Counter(fields).items():
            kinds = _kinds(field)
            for kind in kinds:
                counts[kind] += count
                examples.setdefault(kind, field.strip())
            if not kinds and not is_missing(field) and math.isnan(as_number(field)):
                num_texts += count
        columns.append(Column(counts, examples, 2 * num_texts <= len(fields)))
    return columns


def _kinds(field: str) -> list[tuple[str, str]]:
    """Return what a field's marks are, where it may be a number."""
    text = field.strip().lstrip("+-")
    if not text or text[-1] not in _ENDS:
        return []
    if (plain := _PLAIN.fullmatch(text)) is not None:
        whole, mark, fraction = plain.groups()
        may_group = whole[0] != "0" and len(whole) <= 3
        if mark is None:
            return [] if whole[0] == "0" else [_SHORT if may_group else _LONG]
        return [(_EITHER if may_group and len(fraction) == 3 else _DECIMAL, mark)]
    for mark in _OTHER_THOUSANDS:
        if mark in text and _thousands(mark, "[.,]").fullmatch(text):
            return [(_THOUSANDS, mark), *_kinds(text.replace(mark, ""))]
    kinds = []
    for mark, other in _OTHER.items():
        if mark in text:
            kinds += [(_DECIMAL, mark)] if _decimal(mark).fullmatch(text) else []
            is_grouped = _thousands(mark, other).fullmatch(text) is not None
            kinds += [(_THOUSANDS, mark)] * is_grouped + [(_BOTH, mark)] * (is_grouped and other in text)
    return kinds


@cache
def _decimal(mark: str) -> re.Pattern[str]:
    mark = re.escape(mark)
    return re.compile(rf"[+-]?([0-9]+{mark}[0-9]*|{mark}[0-9]+)([eE][+-]?[0-9]+)?")


@cache
def _thousands(mark: str, decimal: str) -> re.Pattern[str]:
    # Groups of two digits before the last one are India's; four groups between points may be an address.
    group, unless = "[0-9]{2,3}" if mark == "," else "[0-9]{3}", _ADDRESS if mark == "." else ""
    mark, decimal = re.escape(mark), decimal if decimal.startswith("[") else re.escape(decimal)
    return re.compile(rf"{unless}[+-]?[1-9][0-9]{{0,2}}({mark}{group})*{mark}[0-9]{{3}}({decimal}[0-9]*)?")
