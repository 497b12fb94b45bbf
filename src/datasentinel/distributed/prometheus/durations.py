"""Durations as Prometheus writes them: 15s, 1h30m, 14d."""

from __future__ import annotations

import re

from datasentinel.errors import SettingsError

_UNITS_S = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
# Each unit at most once, the greatest first, as in PromQL.
_DURATION = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS_S))


def parse_duration(text: str) -> float:
    """Return a duration in seconds.

    Raises
    ------
    SettingsError
        The text is not a PromQL duration.
    """
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise SettingsError(f"'{text}' is not a duration such as 15s, 1h30m or 14d")
    numbers = zip(match.groups(), _UNITS_S.values(), strict=True)
    return sum(int(number) * unit_s for number, unit_s in numbers if number)


def format_duration(duration_s: float) -> str:
    """Write a duration as PromQL takes it, to the millisecond."""
    left_ms = round(duration_s * 1000)
    parts = []
    for unit, unit_s in _UNITS_S.items():
        count, left_ms = divmod(left_ms, round(unit_s * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
