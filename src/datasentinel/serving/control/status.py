"""The one table from our errors to gRPC's status codes."""

from __future__ import annotations

from enum import IntEnum

from datasentinel.errors import (
    InvalidInputError,
    ModelNotFoundError,
    NotAllowedError,
    OutOfMemoryError,
    ResourceExhaustedError,
    UnsupportedModelError,
)


class Code(IntEnum):
    """gRPC's status codes that we use, by their numbers on the wire."""

    OK = 0
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


# The first class that fits tells the code.
_CODES: tuple[tuple[type[Exception], Code], ...] = (
    (InvalidInputError, Code.INVALID_ARGUMENT),
    (UnsupportedModelError, Code.INVALID_ARGUMENT),
    (ModelNotFoundError, Code.NOT_FOUND),
    (NotAllowedError, Code.PERMISSION_DENIED),
    (ResourceExhaustedError, Code.RESOURCE_EXHAUSTED),
    (OutOfMemoryError, Code.RESOURCE_EXHAUSTED),
    (Exception, Code.INTERNAL),
)


def code_of(error: Exception) -> Code:
    """Give the code of an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))
