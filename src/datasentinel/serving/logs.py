"""Structured log lines: an event and its fields, as key=value text or as JSON."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import stat
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasentinel.serving.settings import Settings

_ROOT = "datasentinel"
_STANDARD_ERROR = 2
# Lines of one kind that may come in a row, of as many models, say, at the start.
_BURST_LINES = 200.0


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
    handler = _StandardErrorHandler()
    handler.addFilter(_BurstFilter())
    handler.setFormatter(
        _JsonFormatter(constant) if settings.log_format == "json" else _TextFormatter(constant)
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(_ROOT).setLevel(settings.log_level.upper())


class _BurstFilter(logging.Filter):
    """Passes so many lines of one kind in a row, then one a second, which says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, object], _Allowance] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        allowance = self._kinds.setdefault((record.name, record.msg), _Allowance())
        now_s = time.monotonic()
        allowance.lines = min(_BURST_LINES, allowance.lines + now_s - allowance.since_s)
        allowance.since_s = now_s
        if allowance.lines < 1:
            allowance.suppressed += 1
            return False
        allowance.lines -= 1
        if allowance.suppressed:
            record.fields = getattr(record, "fields", {}) | {"suppressed_before": allowance.suppressed}
            allowance.suppressed = 0
        return True


@dataclass(slots=True)
class _Allowance:
    lines: float = _BURST_LINES
    since_s: float = field(default_factory=time.monotonic)
    suppressed: int = 0


class _StandardErrorHandler(logging.Handler):
    """Writes lines as far as standard error takes them at once; the number of lost lines is logged later.

    A log that waited for its reader would stop the server with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._descriptor = sys.__stderr__.fileno() if sys.__stderr__ is not None else _STANDARD_ERROR
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)
        self._socket: socket.socket | None = None
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(self._descriptor).st_mode):
                self._socket = socket.socket(fileno=os.dup(self._descriptor))
        self._lost = 0
        self._torn = False  # The last line ended half-way.

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it."""
        try:
            line = self.format(record)
        except Exception:  # as every handler of the standard library does
            self.handleError(record)
            return
        if self._lost:
            facts = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
            told = logging.makeLogRecord(facts | {"msg": "log_lines_lost", "fields": {"lines": self._lost}})
            if self._write(self.format(told)):
                self._lost = 0
        if self._lost or not self._write(line):
            self._lost += 1

    def close(self) -> None:
        """Close what was opened."""
        if self._socket is not None:
            self._socket.close()
        super().close()

    def _write(self, line: str) -> bool:
        content = (("\n" if self._torn else "") + line + "\n").encode("utf-8", "backslashreplace")
        for start in range(0, len(content), select.PIPE_BUF):
            piece = content[start : start + select.PIPE_BUF]
            if not self._write_piece(piece):
                self._torn = self._torn or start > 0
                return False
        self._torn = False
        return True

    def _write_piece(self, piece: bytes) -> bool:
        """Write it without waiting; a pipe that polls writable takes PIPE_BUF bytes."""
        if not self._poll.poll(0):
            return False
        try:
            if self._socket is not None:
                return self._socket.send(piece, socket.MSG_DONTWAIT) == len(piece)
            return os.write(self._descriptor, piece) == len(piece)
        except OSError:
            return False


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
