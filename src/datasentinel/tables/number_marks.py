"""Which marks numbers in text have: a decimal point or comma, and marks between thousands."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from datasentinel.tables.sample_column import as_number

if TYPE_CHECKING:
    from collections.abc import Sequence

_RECORDS_TO_GUESS = 200
_OTHER = {",": ".", ".": ","}
# Only ever between thousands: apostrophes, and blanks that do not break.
_OTHER_THOUSANDS = "'\u2019\u00a0\u202f"
_WORDS = {".": "point", ",": "comma"}
# What is known of a mark in a number: `1,5`; `1,234,567` and `1,234.5`; `1,234`.
_DECIMAL, _THOUSANDS, _EITHER = "decimal", "thousands", "either"
_PLAIN = re.compile(r"([0-9]+)(?:([.,])([0-9]*))?")
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


def find_marks(records: Sequence[Sequence[str]], delimiter: str, decimal: str | None = None) -> Marks:
    """Find the marks that most numbers have.

    Points before three digits are decimal points, and so are commas where neither the delimiter nor the
    numbers beside them say that they are between thousands.

    Parameters
    ----------
    records : sequence of sequences of str
        Rows of as many fields each.
    delimiter : str
        What is between the fields: numbers beside commas have them rather between thousands.
    decimal : str, optional
        The decimal mark, where it is known.
    """
    columns = _count(records)
    total = sum(columns, Counter[tuple[str, str]]())
    beside_short_ones = {mark for mark in _OTHER for column in columns if _is_beside_short_ones(column, mark)}
    has_points = total[_DECIMAL, "."] + total[_EITHER, "."] > 0
    is_between = {
        ".": total[_THOUSANDS, "."] > total[_DECIMAL, "."],
        ",": total[_THOUSANDS, ","] > total[_DECIMAL, ","]
        or (not total[_DECIMAL, ","] and (delimiter == "," or has_points))
        or "," in beside_short_ones,
    }
    explained = {
        mark: total[_DECIMAL, mark]
        + total[_EITHER, mark]
        + total[_THOUSANDS, other]
        + total[_EITHER, other] * is_between[other]
        for mark, other in _OTHER.items()
    }
    found = decimal or ("," if explained[","] > explained["."] else ".")
    other = _OTHER[found]
    may_be_between = decimal or is_between[other] or other in beside_short_ones
    marks = [*_OTHER_THOUSANDS, *([other] if may_be_between else [])]
    thousands = max(marks, key=lambda mark: total[_THOUSANDS, mark] + total[_EITHER, mark])
    is_there = total[_THOUSANDS, thousands] + total[_EITHER, thousands] > 0
    return Marks(found, thousands if is_there else other if decimal else "")


def doubts(records: Sequence[Sequence[str]], marks: Marks) -> dict[int, str]:
    """Return what to say of columns whose numbers may mean others, by their positions: `1,234` is 1.234."""
    columns = _count(records)
    total = sum(columns, Counter[tuple[str, str]]())
    other = _OTHER[marks.decimal]
    found = {}
    for mark in (marks.decimal, marks.thousands):
        is_sure = (
            total[_THOUSANDS, other] or total[_DECIMAL, mark]
            if mark == marks.decimal
            else total[_THOUSANDS, mark]
        )
        if mark not in _OTHER or is_sure:
            continue
        told = Marks(other, marks.decimal)
        for i, column in enumerate(columns):
            # Points are decimal points to most: only numbers below 1,000 without any say otherwise.
            is_usual = mark == marks.decimal == "." and not _is_beside_short_ones(column, mark)
            if column[_EITHER, mark] and not is_usual:
                field = next(record[i].strip() for record in records if (_EITHER, mark) in _kinds(record[i]))
                found[i] = (
                    f"'{field}' is read as {marks.plain(field)}; --decimal {_WORDS[other]} reads it as "
                    f"{told.plain(field)}"
                )
    return found


def _count(records: Sequence[Sequence[str]]) -> list[Counter[tuple[str, str]]]:
    return [
        Counter(kind for field in fields for kind in _kinds(field))
        for fields in zip(*records[:_RECORDS_TO_GUESS], strict=True)
    ]


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
            kinds += [(_THOUSANDS, mark)] if _thousands(mark, other).fullmatch(text) else []
    return kinds


def _is_beside_short_ones(column: Counter[tuple[str, str]], mark: str) -> bool:
    """Whether a column has three digits behind each mark, none in numbers below 1,000, and all above have it.

    Of fractions that are rounded to three digits, one in ten would have fewer.
    """
    few = column[_DECIMAL, mark]
    return (
        column[_EITHER, mark] >= 20 * few
        and column[_SHORT] > few
        and not column[_LONG]
        and (column[_EITHER, mark] > 0)
    )


@cache
def _decimal(mark: str) -> re.Pattern[str]:
    mark = re.escape(mark)
    return re.compile(rf"[+-]?([0-9]+{mark}[0-9]*|{mark}[0-9]+)([eE][+-]?[0-9]+)?")


@cache
def _thousands(mark: str, decimal: str) -> re.Pattern[str]:
    mark, decimal = re.escape(mark), decimal if decimal.startswith("[") else re.escape(decimal)
    # Groups of two digits before the last one are India's.
    return re.compile(rf"[+-]?[1-9][0-9]{{0,2}}({mark}[0-9]{{2,3}})*{mark}[0-9]{{3}}({decimal}[0-9]*)?")
