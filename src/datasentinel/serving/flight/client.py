"""The other end of an exchange, which is waited for within limits."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import flight

from datasentinel.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasentinel.serving.flight.waits import Waits


class TooSlowError(Exception):
    """The client took too long, and its connection was ended."""


class Client:
    """The other end of an exchange, which is waited for within limits.

    Whatever waits for it raises a TooSlowError where that took too long, and an InvalidInputError for what
    cannot be read.
    """

    def __init__(self, waits: Waits, context: Any, reader: Any, writer: Any) -> None:  # noqa: ANN401
        self._waits = waits
        self._context = context
        self._peer = context.peer()
        self._reader = reader
        self._writer = writer

    def schema(self) -> Any:  # noqa: ANN401
        """Return the pyarrow.Schema of the batches, once it is there."""
        with self._waiting(), _reading():
            return self._reader.schema

    def next_batch(self) -> Any:  # noqa: ANN401
        """Return the next pyarrow.RecordBatch, or None at the end."""
        with self._waiting(), _reading():
            chunk = next(self._reader, None)
        return None if chunk is None else chunk.data

    def begin(self, schema: Any) -> None:  # noqa: ANN401
        """Send the schema of the answers."""
        with self._waiting():
            self._writer.begin(schema)

    def write(self, batch: Any) -> None:  # noqa: ANN401
        """Send an answer."""
        with self._waiting():
            self._writer.write_batch(batch)

    def check(self) -> None:
        """Raise a FlightCancelledError if the client no longer waits for an answer."""
        if self._context.is_cancelled():
            raise flight.FlightCancelledError("the exchange was cancelled")

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        with self._waits.wait(self._peer) as wait:
            try:
                yield
            finally:
                # However it ended: to pyarrow, the end of a connection may be that of the batches.
                if wait.is_over:
                    raise TooSlowError("the client sent or read nothing for too long (receive_timeout_s)")


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"the record batches cannot be read: {error}") from error
