"""Writes scores by Prometheus' remote write protocol, version 1.0.

Its message is `WriteRequest { repeated TimeSeries timeseries = 1; }`, `TimeSeries { repeated Label labels =
1; repeated Sample samples = 2; }`, `Label { string name = 1; string value = 2; }`, `Sample { double value =
1; int64 timestamp = 2; }`, compressed as a block of Snappy. It is put together here, not by protobuf, since
the labels of a series are the same bytes each time.
"""

from __future__ import annotations

import logging
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.distributed.prometheus.http import HttpClient, RequestRefusedError
from datasentinel.errors import MissingDependencyError
from datasentinel.serving.logs import RateLimitedLog

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from datasentinel.distributed.prometheus.config import Endpoint
    from datasentinel.distributed.prometheus.publishing import Source
    from datasentinel.distributed.prometheus.scoring import Moment

# The value that says that a series has ended here: a NaN with these bits.
STALE = struct.pack("<Q", 0x7FF0000000000002)
_SERIES_AT_ONCE = 5_000
_REMEMBERED_LABELS = 200_000
_HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}

_refused = RateLimitedLog(logging.getLogger(__name__), logging.ERROR, "remote_write_refused", interval_s=60.0)


class RemoteWriter:
    """Writes to one server, with the times of the rows.

    Parameters
    ----------
    endpoint : Endpoint
    stop : threading.Event, optional
        Ends the waiting between attempts.

    Raises
    ------
    MissingDependencyError
        cramjam, or urllib3, is not installed.
    """

    def __init__(self, endpoint: Endpoint, stop: threading.Event | None = None) -> None:
        try:
            from cramjam import snappy
        except ImportError:
            raise MissingDependencyError(
                "remote_write needs cramjam: pip install 'datasentinel[prometheus]'"
            ) from None
        self._compress = snappy.compress_raw
        self._http = HttpClient(endpoint, stop)

    def publish(self, source: Source, moments: Sequence[Moment]) -> None:
        """Write the scores of moments, the earliest first.

        What the server refuses, as Prometheus does samples that are too old for it, is reported and left out;
        repeating would not help.

        Raises
        ------
        ServerUnreachableError
            The server does not answer; what was written may be written again.
        """
        for moment in moments:
            series = list(encode(source, moment))
            for first in range(0, len(series), _SERIES_AT_ONCE):
                request = b"".join(series[first : first + _SERIES_AT_ONCE])
                try:
                    self._http.post("", bytes(self._compress(request)), _HEADERS)
                except RequestRefusedError as error:
                    _refused(model=source.model, time_s=moment.time_s, reason=str(error))


def encode(source: Source, moment: Moment) -> Iterator[bytes]:
    """Encode a moment as the time series of a `WriteRequest`, the request being the sum of them."""
    time_ms = _varint(round(moment.time_s * 1000))
    numbers = np.column_stack([moment.severity, moment.anomaly, moment.expected]).astype("<f8")
    for key, row in zip(moment.keys, numbers, strict=True):
        for labels, value in zip(_series(source, key), row, strict=True):
            yield _time_series(labels, value.tobytes(), time_ms)
    for row, column in np.argwhere(moment.shares).tolist():
        share = struct.pack("<d", moment.shares[row, column])
        yield _time_series(_labels(*source.reason_of(moment.keys[row], column)), share, time_ms)
    for key in moment.ended:
        for labels in _series(source, key):
            yield _time_series(labels, STALE, time_ms)
    for key, column in moment.ended_reasons:
        yield _time_series(_labels(*source.reason_of(key, column)), STALE, time_ms)


@lru_cache(_REMEMBERED_LABELS)
def _series(source: Source, key: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(_labels(name, labels) for name, labels in source.series_of(key))


def _labels(name: str, labels: tuple[tuple[str, str], ...]) -> bytes:
    # Sorted by name, and none is empty, as the protocol asks.
    pairs = sorted([("__name__", name), *((label, value) for label, value in labels if value)])
    return b"".join(
        _field(1, _field(1, label.encode()) + _field(2, value.encode())) for label, value in pairs
    )


def _time_series(labels: bytes, value: bytes, time_ms: bytes) -> bytes:
    sample = b"\x09" + value + b"\x10" + time_ms  # Field 1, 64 bits; field 2, a varint.
    return _field(1, labels + _field(2, sample))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
