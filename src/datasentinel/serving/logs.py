"""Structured log lines: an event and its fields, as key=value text or as JSON."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasentinel.settings import Settings

_ROOT = "datasentinel"


def log(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Write one log line: what happened, and the facts about it."""
    # The caller's frame is of no interest in a structured line, so none is looked up.
    exception = fields.pop("exception", None)
    logger.log(
        level,
        event,
        extra={"fields": fields},
        exc_info=exception if isinstance(exception, BaseException) else None,
    )


class RateLimitedLog:
    """Writes an event at most once in a while, and then says how often it happened in between.

    Parameters
    ----------
    logger : logging.Logger
    level : int
    event : str
    interval_s : float
    """

    def __init__(self, logger: logging.Logger, level: int, event: str, interval_s: float = 1.0) -> None:
        self._logger = logger
        self._level = level
        self._event = event
        self._interval_s = interval_s
        self._next_s = 0.0
        self._suppressed = 0

    def __call__(self, **fields: object) -> None:
        """Write the line, or count it where the last one is too recent."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._suppressed += 1
            return
        self._next_s = now_s + self._interval_s
        if self._suppressed:
            fields["suppressed_before"] = self._suppressed
            self._suppressed = 0
        log(self._logger, self._level, self._event, **fields)


def configure_logging(settings: Settings, **constant: object) -> None:
    """Send our log lines to standard error, in the format asked for, with `constant` fields in each."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter(constant) if settings.log_format == "json" else _TextFormatter(constant)
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(_ROOT).setLevel(settings.log_level.upper())


class _Formatter(logging.Formatter):
    def __init__(self, constant: Mapping[str, object]) -> None:
        super().__init__()
        self._constant = constant

    def facts(self, record: logging.LogRecord) -> dict[str, object]:
        facts: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        facts |= self._constant
        facts |= getattr(record, "fields", {})
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return facts


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.facts(record), default=str)


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in self.facts(record).items())


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text != "" and not any(character in text for character in ' "=\\')
    return text if plain else json.dumps(text)
