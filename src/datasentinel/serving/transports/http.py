"""HTTP: health, readiness and metrics. A sans-IO session over h11, answering from a table of routes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING

import h11

import datasentinel
from datasentinel.serving import auth
from datasentinel.serving.transports.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datasentinel.serving.data_plane import DataPlane, TransportAccount
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.metrics import Metrics
    from datasentinel.settings import Settings

NAME = "http"

_MAX_HEADER_BYTES = 16 << 10
_MAX_BODY_BYTES = 64 << 10  # No route takes a body; a small one is read and left aside.
_HEALTH_PATHS = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_CLOSE = ("Connection", "close")
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Response:
    """What a route answers."""

    status: HTTPStatus
    body: bytes
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(cls, content: Mapping[str, object], status: HTTPStatus = HTTPStatus.OK) -> Response:
        """Answer with a JSON object."""
        return cls(status, json.dumps(content).encode() + b"\n")

    @classmethod
    def error(cls, status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> Response:
        """Answer with the Open Inference Protocol's error object."""
        return cls(status, json.dumps({"error": reason}).encode() + b"\n", headers=headers)


class Routes:
    """The paths that can be asked for.

    Parameters
    ----------
    plane : DataPlane
    metrics : Metrics
    guard : Guard
        Whose token each request needs; health is open to all.
    metrics_open : bool
        Whether the metrics are, too.
    """

    def __init__(self, plane: DataPlane, metrics: Metrics, guard: Guard, *, metrics_open: bool) -> None:
        self._plane = plane
        self._metrics = metrics
        self._guard = guard
        self._open_paths = _HEALTH_PATHS | ({"/metrics"} if metrics_open else set())
        self._by_path: dict[str, Callable[[Mapping[str, str]], Response]] = {
            "/healthz": self._healthz,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/metrics": self._render_metrics,
        }

    def answer(self, method: str, target: str, headers: Mapping[str, str]) -> Response:
        """Answer one request; `headers` have lower-case names."""
        path = target.partition("?")[0]
        if path not in self._open_paths and not self._guard.admits(headers.get("authorization")):
            challenge = ("WWW-Authenticate", auth.CHALLENGE)
            return Response.error(HTTPStatus.UNAUTHORIZED, auth.REFUSAL, challenge)
        route = self._by_path.get(path)
        if route is None:
            return Response.error(HTTPStatus.NOT_FOUND, f"no such path; known: {', '.join(self._by_path)}")
        if method not in ("GET", "HEAD"):
            reason = f"method {method} is not allowed here"
            return Response.error(HTTPStatus.METHOD_NOT_ALLOWED, reason, ("Allow", "GET, HEAD"))
        return route(headers)

    def _healthz(self, headers: Mapping[str, str]) -> Response:  # noqa: ARG002
        # For humans and simple probes: ready or not, in a word.
        ready = self._plane.ready
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(status, b"ok\n" if ready else b"not ready\n", _TEXT)

    def _live(self, headers: Mapping[str, str]) -> Response:  # noqa: ARG002
        return Response.json({"live": True})

    def _ready(self, headers: Mapping[str, str]) -> Response:  # noqa: ARG002
        ready = self._plane.ready
        return Response.json({"ready": ready}, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    def _render_metrics(self, headers: Mapping[str, str]) -> Response:
        body, content_type = self._metrics.render(headers.get("accept", ""))
        return Response(HTTPStatus.OK, body, content_type)


class HttpSession:
    """One HTTP/1.1 connection: bytes in, bytes out. Pipelined requests are answered in order."""

    __slots__ = ("_account", "_body_bytes", "_connection", "_request", "_routes", "closed")

    def __init__(self, routes: Routes, account: TransportAccount) -> None:
        self._routes = routes
        self._account = account
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEADER_BYTES)
        self._request: h11.Request | None = None
        self._body_bytes = 0
        self.closed = False

    @property
    def mid_message(self) -> bool:
        """Whether the start of a request was read, but not its end."""
        return self._request is not None or bool(self._connection.trailing_data[0])

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; give the responses to every request they complete."""
        self._connection.receive_data(data)
        return self._answer_all()

    def finish(self) -> bytes:
        """Nothing more will come; a half-sent request is refused."""
        self._connection.receive_data(b"")
        return self._answer_all()

    def _answer_all(self) -> bytes:
        replies = bytearray()
        while not self.closed:
            started = perf_counter()
            try:
                event = self._connection.next_event()
            except h11.RemoteProtocolError as error:
                status = HTTPStatus(error.error_status_hint)
                replies += self._send(Response.error(status, str(error), _CLOSE), started)
                break
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.Request):
                self._request, self._body_bytes = event, 0
                if self._connection.they_are_waiting_for_100_continue:
                    replies += self._encode(h11.InformationalResponse(status_code=100, headers=[]))
            elif isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                if self._body_bytes > _MAX_BODY_BYTES:
                    reason = f"body longer than {_MAX_BODY_BYTES} bytes"
                    too_long = Response.error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason, _CLOSE)
                    replies += self._send(too_long, started)
            elif isinstance(event, h11.EndOfMessage):
                replies += self._send(self._answer(), started)
            else:
                self.closed = True  # The peer ended the stream between two requests.
        return bytes(replies)

    def _answer(self) -> Response:
        assert self._request is not None  # noqa: S101  # h11 gives a request before its end
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in self._request.headers}
        method, target = self._request.method.decode("ascii"), self._request.target.decode("ascii")
        return self._routes.answer(method, target, headers)

    def _send(self, response: Response, started: float) -> bytes:
        connection = self._connection
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.closed = True
            return b""
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Server", f"datasentinel/{datasentinel.__version__}"),
            *response.headers,
        ]
        status = response.status
        sent = self._encode(h11.Response(status_code=status.value, reason=status.phrase, headers=headers))
        if self._request is None or self._request.method != b"HEAD":
            sent += self._encode(h11.Data(data=response.body))
        sent += self._encode(h11.EndOfMessage())
        self._request = None
        if set(connection.states.values()) == {h11.DONE}:
            connection.start_next_cycle()
        else:
            self.closed = True
        self._account.add(
            requests=1,
            rows=0,
            anomalies=0,
            errors=status >= HTTPStatus.BAD_REQUEST,
            latency_s=perf_counter() - started,
            code=str(status.value),
        )
        return sent

    def _encode(self, event: h11.Event) -> bytes:
        return self._connection.send(event) or b""


def http_transport(plane: DataPlane, metrics: Metrics, settings: Settings, guard: Guard) -> Listener:
    """Make the transport of health and metrics."""
    account = plane.account(NAME)
    routes = Routes(plane, metrics, guard, metrics_open=not settings.metrics_need_token)
    return Listener(
        NAME,
        settings.host,
        settings.http_port,
        account=account,
        open_session=lambda: HttpSession(routes, account),
        refusal=_REFUSAL,
        max_connections=settings.http_max_connections,
        idle_timeout_s=settings.http_idle_timeout_s,
        write_buffer_bytes=settings.write_buffer_bytes,
        receive_timeout_s=settings.receive_timeout_s,
        tls_context=guard.tls_context("http/1.1"),
        reuse_port=settings.workers > 1,
    )
