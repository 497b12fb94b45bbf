"""Requests and responses as the routes see them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked.

    Attributes
    ----------
    method : str
    target : str
        Path and query as they came.
    headers : mapping of str to str
        By lower-case name.
    body : bytes
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query, as it came."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Response:
    """What a route answers."""

    status: HTTPStatus
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(cls, content: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
        """Answer with JSON."""
        return cls(status, json.dumps(content).encode() + b"\n")

    @classmethod
    def error(cls, status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> Response:
        """Answer with the Open Inference Protocol's error object."""
        return cls(status, json.dumps({"error": reason}).encode() + b"\n", headers=headers)
