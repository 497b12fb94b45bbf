"""Requests and responses as the routes see them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from datasentinel.errors import InvalidInputError, ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"

JSON_BYTES_HEADER = "Inference-Header-Content-Length"

_GZIP_OR_ZLIB = 47  # zlib's number for: find out which, by the first bytes


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

    def content(self, max_bytes: int) -> bytes:
        """Give the body, decompressed.

        Raises
        ------
        InvalidInputError
            Its encoding is unknown or its bytes are broken.
        ResourceExhaustedError
            It is longer than `max_bytes`.
        """
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding == "identity":
            return self.body
        if encoding not in ("gzip", "deflate"):
            raise InvalidInputError(f"Content-Encoding: expected identity, gzip or deflate, got {encoding!r}")
        inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            content = inflate.decompress(self.body, max_bytes)
        except zlib.error as error:
            raise InvalidInputError(f"the body is not {encoding} data: {error}") from error
        if inflate.unconsumed_tail:
            raise ResourceExhaustedError(f"body longer than {max_bytes} bytes once decompressed")
        if not inflate.eof:
            raise InvalidInputError(f"the body's {encoding} data end too early")
        return content


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
