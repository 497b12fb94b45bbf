"""Requests to a server that may be away for a moment."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel.errors import DataSentinelError, MissingDependencyError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasentinel.distributed.prometheus.config import Endpoint

# Too many requests, and a server or what stands before it that is in trouble.
_PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 10.0
_SHOWN_CHARACTERS = 300
# Each model has a thread that asks.
_CONNECTIONS_KEPT = 16


class ServerUnreachableError(DataSentinelError, ConnectionError):
    """A server does not answer, or says that it cannot for now."""


class RequestRefusedError(DataSentinelError):
    """A server answers that the request is wrong.

    Attributes
    ----------
    status : int
        Of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class HttpClient:
    """Posts to one server, again and again while it is in trouble.

    Parameters
    ----------
    endpoint : Endpoint
    stop : threading.Event
        Ends the waiting between attempts.

    Raises
    ------
    MissingDependencyError
        urllib3 is not installed.
    SettingsError
        A certificate cannot be read.
    """

    def __init__(self, endpoint: Endpoint, stop: threading.Event | None = None) -> None:
        try:
            import urllib3
        except ImportError:
            raise MissingDependencyError(
                "watch needs urllib3: pip install 'datasentinel[prometheus]'"
            ) from None
        self._endpoint = endpoint
        self._stop = stop or threading.Event()
        for file in (endpoint.ca_file, endpoint.certificate_file, endpoint.key_file):
            if file:
                _read(file)
        self._pool = urllib3.PoolManager(
            ca_certs=endpoint.ca_file or None,
            cert_file=endpoint.certificate_file or None,
            key_file=endpoint.key_file or None,
            maxsize=_CONNECTIONS_KEPT,
            timeout=urllib3.Timeout(total=endpoint.timeout),
        )
        self._failure = urllib3.exceptions.HTTPError

    def post(self, path: str, body: str | bytes, headers: Mapping[str, str]) -> bytes:
        """Post a body; return the answer's.

        Raises
        ------
        ServerUnreachableError
            All attempts failed.
        RequestRefusedError
            The answer is one that another attempt would not change.
        """
        delay_s = _FIRST_DELAY_S
        for attempt in range(self._endpoint.retries + 1):
            if attempt:
                if self._stop.wait(delay_s):
                    break
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            try:
                response = self._pool.request(
                    "POST",
                    self._endpoint.url.rstrip("/") + path,
                    body=body,
                    headers={**headers, **self._endpoint.headers, **self._credentials()},
                    retries=False,
                )
            except self._failure as error:
                failure = f"{self._endpoint.url}: no answer: {error}"
                continue
            if response.status < 300:
                return response.data
            failure = f"{self._endpoint.url}: status {response.status}: {_shown(response.data)}"
            if response.status not in _PASSING_STATUSES:
                raise RequestRefusedError(failure, response.status)
        raise ServerUnreachableError(failure)

    def _credentials(self) -> dict[str, str]:
        import urllib3

        if self._endpoint.bearer_token_file:
            return {"Authorization": f"Bearer {_read(self._endpoint.bearer_token_file).strip()}"}
        if self._endpoint.username:
            password = _read(self._endpoint.password_file).strip()
            return urllib3.make_headers(basic_auth=f"{self._endpoint.username}:{password}")
        return {}


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _shown(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
