"""Errors as clients of Flight get to know them."""

from __future__ import annotations

import logging

from pyarrow import flight

from datasentinel.errors import DataSentinelError, ResourceExhaustedError
from datasentinel.serving.control.status import status_of
from datasentinel.serving.flight import NAME
from datasentinel.serving.logs import log

_logger = logging.getLogger(__name__)


def code_of(error: Exception) -> str:
    """Return what an error is counted as."""
    return type(error).__name__.removesuffix("Error") if isinstance(error, DataSentinelError) else "Internal"


def flight_error(error: Exception) -> Exception:
    """Return what a client gets to know: one of Flight's errors, as only these bring no traceback along."""
    text = str(error)
    if isinstance(error, ResourceExhaustedError):
        kind = flight.FlightUnavailableError
    elif isinstance(error, DataSentinelError) and not status_of(error).is_fault_of_ours:
        kind = flight.FlightServerError
    else:
        kind, text = flight.FlightInternalError, "the server failed to score this batch; its log says why"
        facts = {"reason" if isinstance(error, DataSentinelError) else "exception": error}
        log(_logger, logging.ERROR, "request_failed", transport=NAME, **facts)
    sent: Exception = kind(text, code_of(error).encode())
    return sent
