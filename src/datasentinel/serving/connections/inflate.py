"""Decompression in small steps, so that a decompression bomb holds no one up."""

from __future__ import annotations

import zlib

from datasentinel.errors import InvalidInputError, ResourceExhaustedError

# What one step inflates at most takes a fraction of a millisecond.
_STEP_BYTES = 128 << 10
_INPUT_BYTES = 32 << 10

# zlib's numbers for the formats.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Inflater:
    """Inflates one body.

    Parameters
    ----------
    data : bytes
    coding : str
        "gzip", of any number of members (RFC 1952 2.2), its old name "x-gzip", or "deflate".
    max_bytes : int
        More content is refused.

    Attributes
    ----------
    done : bool
        Nothing is left to inflate.

    Raises
    ------
    InvalidInputError
        The coding is unknown.
    """

    def __init__(self, data: bytes, coding: str, max_bytes: int) -> None:
        self._coding = coding.strip().lower()
        if self._coding not in _WINDOW_BITS:
            raise InvalidInputError(
                f"Content-Encoding: expected identity, gzip or deflate, got {self._coding!r}"
            )
        self._data = data
        self._offset = 0
        self._input = b""
        self._max_bytes = max_bytes
        self._object = zlib.decompressobj(_WINDOW_BITS[self._coding])
        self._size = 0
        self.done = False

    def step(self) -> bytes:
        """Inflate and return a part; `done` then says whether it was the last one.

        Raises
        ------
        InvalidInputError
            The data are broken, or end too early.
        ResourceExhaustedError
            The content is longer than `max_bytes`.
        """
        pieces: list[bytes] = []
        left = _STEP_BYTES
        while left > 0 and not self.done:
            if not self._input:
                self._input = self._data[self._offset : self._offset + _INPUT_BYTES]
                self._offset += len(self._input)
            ended = not self._input
            piece = self._inflate(left)
            pieces.append(piece)
            self._size += len(piece)
            if self._size > self._max_bytes:
                raise ResourceExhaustedError(f"body longer than {self._max_bytes} bytes once decompressed")
            left -= max(1, len(piece))
            if self._object.eof:
                self._next_member()
            elif ended and not piece:
                raise InvalidInputError(f"the body's {self._coding} data end too early")
        return b"".join(pieces)

    def _next_member(self) -> None:
        self._input = self._object.unused_data
        self.done = not self._input and self._offset >= len(self._data)
        if self.done:
            return
        if self._coding == "deflate":
            raise InvalidInputError("the body goes on behind its deflate data")
        self._object = zlib.decompressobj(_WINDOW_BITS[self._coding])

    def _inflate(self, max_bytes: int) -> bytes:
        try:
            piece = self._object.decompress(self._input, max_bytes)
        except zlib.error as error:
            raise InvalidInputError(f"the body is not {self._coding} data: {error}") from error
        self._input = self._object.unconsumed_tail
        return piece
