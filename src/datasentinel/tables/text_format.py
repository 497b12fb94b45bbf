"""How numbers and dates in text are written, as far as that was found out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasentinel.tables.number_marks import Marks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from datasentinel.time_text import DateOrder


@dataclass(frozen=True)
class TextFormat:
    """What is known of how numbers and dates are written.

    Attributes
    ----------
    marks : Marks or None
        Which marks numbers have.
    date_order : str or None
        What dates begin with that do not begin with the year.
    """

    marks: Marks | None = None
    date_order: DateOrder | None = None

    def facts(self) -> dict[str, str]:
        """Return the same as a model's configuration has it."""
        marks = {} if self.marks is None else vars(self.marks)
        return marks | ({} if self.date_order is None else {"date_order": self.date_order})

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> TextFormat:
        """Return what a model's configuration says."""
        marks = Marks(facts["decimal"], facts.get("thousands", "")) if "decimal" in facts else None
        return cls(marks, facts.get("date_order"))


NOTHING_KNOWN = TextFormat()
