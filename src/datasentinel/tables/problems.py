"""Rows that cannot be used, and the account of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 10


class ProblemKind(StrEnum):
    """Kinds of bad rows, in the words of a summary."""

    WRONG_COUNT = "with the wrong number of values"
    EMPTY = "with an empty value"
    NOT_A_NUMBER = "with a value that is not a number"
    NOT_FINITE = "with a value that is not finite"
    OUT_OF_RANGE = "with a value outside float32's range"
    OPEN_QUOTE = "with a stray quotation mark"
    LABEL = "without a usable label"
    TIME = "without a usable time"
    NOT_JSON = "that are not JSON objects"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes
    ----------
    row : int
        Position among all data rows, from 0.
    line : int or None
        Line of a text file, from 1: the physical one, blank lines and comments counted.
    kind : ProblemKind
        What sort of problem it is.
    reason : str
        What is wrong with it, with the column's name.
    file : str
        The file's name, where there are several.
    """

    row: int
    line: int | None
    kind: ProblemKind
    reason: str
    file: str = ""

    def __str__(self) -> str:
        place = f"row {self.row}" if self.line is None else f"line {self.line}"
        return f"{self.file}{', ' * bool(self.file)}{place}: {self.reason}"


class Problems:
    """The first bad rows, and how many there are of each kind and for each column.

    Its memory does not grow with their number.
    """

    def __init__(self) -> None:
        self.first: list[BadRow] = []
        self.counts: Counter[ProblemKind] = Counter()
        self.columns: Counter[str] = Counter()

    def add(self, bad: Iterable[BadRow]) -> None:
        """Count bad rows, in order."""
        for row in bad:
            if len(self.first) < SHOWN:
                self.first.append(row)
            self.counts[row.kind] += 1
            if row.reason.startswith("column "):
                self.columns[row.reason.partition(": ")[0]] += 1

    @property
    def total(self) -> int:
        """How many bad rows there are."""
        return self.counts.total()

    def lines(self) -> list[str]:
        """Return the first bad rows in words, and where there are more, the numbers of all kinds."""
        told = [str(row) for row in self.first]
        if self.total > len(self.first):
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.most_common())
            told.append(f"and {self.total - len(self.first):,} more; of all {self.total:,}: {kinds}")
        return told
