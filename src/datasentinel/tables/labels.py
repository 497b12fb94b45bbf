"""What the values of a label column mean."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import DataError
from datasentinel.tables.sample_column import to_float

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

    from datasentinel.types import BoolArray

_EVENTS = frozenset(
    {"anomaly", "anomalous", "abnormal", "outlier", "novelty", "attack", "intrusion", "malicious", "malware"}
    | {"fraud", "fraudulent", "fault", "faulty", "failure", "defect", "defective"}
)
# A column of such a name is the label; one of the others is if its values are those of a label. Case, spaces
# and what joins words make no difference.
_NAMES = frozenset(
    {"label", "labels"} | {f"is{event}" for event in _EVENTS} | {f"{event}label" for event in _EVENTS}
)
_POSSIBLE_NAMES = frozenset(
    {"class", "target", "y", "gt", "groundtruth", "ytrue", "normalattack", "machinefailure", "machinefault"}
    | _EVENTS
)

_NORMAL_WORDS = frozenset(
    {"normal", "false", "f", "no", "n", "benign", "inlier", "ok", "good", "nominal", "regular", "healthy"}
    | {"pass", "passed"}
)
_ANOMALY_WORDS = frozenset(
    {"anomaly", "anomalous", "anomalies", "abnormal", "true", "t", "yes", "y", "attack", "outlier", "bad"}
    | {"malicious", "intrusion", "fault", "faulty", "failure", "defect", "defective", "novelty", "fraud"}
    | {"fail", "failed"}
)
# Words that a rare flag's name may consist of, with one of the first.
_LABEL_WORDS = frozenset(
    {"label", "labels", "lable", "class", "target", "gt", "truth", "outcome", "changepoint", "fail"}
    | {"laundering", "anomalies", "outliers", "attacks", "frauds", "faults", "failures", "defects"}
    | _EVENTS
)
# What is named by one of these tells of rows, and is no measurement.
_ANNOTATION_WORDS = frozenset({"label", "labels", "lable", "truth", "changepoint"})
_FILLING_WORDS = frozenset({"is", "flag", "true", "ground", "binary", "found", "no", "normal", "pass", "p"})
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MAX_CLASSES = 20
_SHOWN = 6


def is_label_name(name: str) -> bool:
    """Whether a column of this name is the label: `label`, `anomaly_label`, `isFraud`."""
    return _joined(name) in _NAMES


def may_be_label_name(name: str) -> bool:
    """Whether a column of this name is the label if its values are those of one: `y`, `Normal/Attack`."""
    return _joined(name) in _POSSIBLE_NAMES


def sounds_like_label(name: str) -> bool:
    """Whether a rare flag of this name is a label: `anomaly_flag`, `label2`, `Attack LABLE (1:No Attack)`."""
    words = _words(name)
    return bool(words & _LABEL_WORDS) and words <= _LABEL_WORDS | _FILLING_WORDS


def is_annotation(name: str) -> bool:
    """Whether a flag of a name that sounds like a label cannot be a measurement: `changepoint`, `label2`."""
    return bool(_words(name) & _ANNOTATION_WORDS)


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(name)}


def is_flag(values: Collection[str | float]) -> bool:
    """Whether values, as `normalise` returns them, are 0 and 1, -1 and 1, or words for both."""
    distinct = set(values)
    if any(isinstance(value, str) for value in distinct):
        return distinct <= _NORMAL_WORDS | _ANOMALY_WORDS and bool(distinct & _NORMAL_WORDS)
    return looks_like_labels(distinct)


def is_rare_flag(values: Sequence[str | float]) -> bool:
    """Whether values, as `normalise` returns them, are flags of which at most half mean an anomaly."""
    marks: Collection[str | float] = {-1} if -1 in values else {1} | _ANOMALY_WORDS
    return is_flag(values) and 2 * sum(value in marks for value in values) <= len(values)


def _joined(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def normalise(value: object) -> str | float | None:
    """Return a label value as a number or a lower-case word, or None where it is missing.

    What is neither number nor text, as a list in a JSON object, is the word that it prints as.
    """
    if value is None:
        return None
    if isinstance(value, int | float | np.number | np.bool_):
        number = to_float(value)
        return None if math.isnan(number) else number
    text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
    try:
        if text.isascii() and "_" not in text:
            return normalise(float(text))
    except ValueError:
        pass
    return text.lower().rstrip(".") or None


def normalise_all(
    values: Sequence[Any], plain: Callable[[Any], object] = lambda value: value
) -> list[str | float | None]:
    """Return what `normalise` does of each value, as `plain` reads it."""
    try:
        known = {value: normalise(plain(value)) for value in set(values)}
    except TypeError:  # Lists and the like, which sets do not take.
        return [normalise(plain(value)) for value in values]
    return [known[value] for value in values]


def looks_like_labels(values: Collection[str | float]) -> bool:
    """Whether distinct values are ones that only a label has, or a flag."""
    if not values:
        return False
    words = {value for value in values if isinstance(value, str)}
    if len(words) == len(values):
        return words <= _NORMAL_WORDS | _ANOMALY_WORDS or (len(words & _NORMAL_WORDS) == 1 and len(words) > 1)
    return not words and (set(values) <= {0, 1} or set(values) == {-1, 1})


def could_be_classes(values: Collection[str | float]) -> bool:
    """Whether distinct values may be classes, without a statement of which are normal."""
    return 0 < len(values) <= _MAX_CLASSES and all(
        isinstance(value, str) or value == int(value) for value in values if not _is_infinite(value)
    )


def _is_infinite(value: str | float) -> bool:
    return not isinstance(value, str) and math.isinf(value)


def is_normal_by_value(
    where: str, column: str, values: Collection[str | float], normal: Sequence[str] = ()
) -> dict[str | float, bool]:
    """Decide for each distinct label value whether it means normal.

    Parameters
    ----------
    where, column : str
        The file and the column, for error messages.
    values : collection of str or float
        All distinct values of the column, as `normalise` returns them.
    normal : sequence of str
        The values that mean normal, where the user says so; all others are anomalies then.

    Notes
    -----
    0 is normal, and any other number beside it an anomaly; of 1 and -1, as scikit-learn writes them, -1 is
    the anomaly; of words, those that say so are normal or anomalies, and unknown ones beside a single word
    for normal are anomalies.

    Raises
    ------
    DataError
        The values do not say which rows are normal; the message asks for what does.
    """
    if normal:
        told = {normalise(value) for value in normal}
        return {value: value in told for value in values}
    numbers = {value for value in values if not isinstance(value, str)}
    words = {value for value in values if isinstance(value, str)}
    if not words and (0 in numbers or not numbers):
        return {value: value == 0 for value in values}
    if not words and -1 in numbers and numbers <= {1, -1}:
        return {value: value == 1 for value in values}
    normal_words = words & _NORMAL_WORDS
    if not numbers and (words <= _NORMAL_WORDS | _ANOMALY_WORDS or len(normal_words) == 1):
        return {value: value in normal_words for value in values}
    shown = ", ".join(sorted(_shown(value) for value in values)[:_SHOWN])
    more = ", ..." if len(values) > _SHOWN else ""
    raise DataError(
        f"{where}: label column '{column}' holds {shown}{more}, which does not say which rows are "
        "normal; name the values that mean normal with --normal"
    )


def _shown(value: str | float) -> str:
    return f"'{value}'" if isinstance(value, str) else f"{value:g}"


def decode(
    where: str,
    column: str,
    values: Sequence[str | float],
    seen: Collection[str | float],
    normal: Sequence[str],
) -> BoolArray:
    """Return which labels [N] mean anomaly; `seen` are all distinct ones of the table."""
    is_normal = is_normal_by_value(where, column, seen, normal)
    return ~np.fromiter((is_normal[value] for value in values), bool, count=len(values))
