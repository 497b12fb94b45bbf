"""What each protocol calls an error: the native half's tables, by the classes of `datasentinel.errors`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus

from datasentinel import errors
from datasentinel.backend import error_table


class Code(IntEnum):
    """gRPC's status codes that we use, by their numbers on the wire."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Status:
    """How a request ends that fails with an error of one class.

    Attributes
    ----------
    grpc : Code
    http : HTTPStatus
    """

    grpc: Code
    http: HTTPStatus

    @property
    def is_fault_of_ours(self) -> bool:
        """Whether the log is to tell."""
        return self.http >= HTTPStatus.INTERNAL_SERVER_ERROR


_STATUSES = {
    getattr(errors, kind): Status(Code(grpc), HTTPStatus(http)) for kind, _, grpc, http in error_table()
}
_INTERNAL = Status(Code.INTERNAL, HTTPStatus.INTERNAL_SERVER_ERROR)


def status_of(error: Exception) -> Status:
    """Return how a request ends that fails with `error`."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), _INTERNAL)
