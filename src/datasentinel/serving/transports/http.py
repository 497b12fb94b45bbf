"""HTTP/1.1: a native session answers plain inference requests; all others go through h11 to the routes."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING

import h11

import datasentinel
from datasentinel import backend
from datasentinel.serving.rest.messages import Request, Response
from datasentinel.serving.rest.off_loop import OffLoop
from datasentinel.serving.rest.routes import Routes, refusal_of
from datasentinel.serving.transports.listener import Listener
from datasentinel.serving.transports.session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from datasentinel.serving.data_plane import DataPlane, TransportAccount
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.metrics import Metrics
    from datasentinel.serving.repository import ModelRepository
    from datasentinel.serving.settings import Settings

NAME = "http"

_MAX_HEADER_BYTES = 16 << 10
_SERVER = f"datasentinel/{datasentinel.__version__}"
_CLOSE = ("Connection", "close")
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
)


class _Exchange:
    """One request that goes through h11, and its response: bytes in, bytes out.

    Attributes
    ----------
    done : bool
        The response is complete, and the connection goes on with what is in `rest`.
    closed : bool
        The connection ends with what was sent.
    """

    def __init__(self, routes: Routes, account: TransportAccount, wake: Callable[[], None]) -> None:
        self._routes = routes
        self._account = account
        self._wake = wake
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEADER_BYTES)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._pending: asyncio.Task[Response] | None = None
        self._started = 0.0
        self.done = False
        self.closed = False

    @property
    def pending(self) -> bool:
        """Whether the request is read, and its answer not there yet."""
        return self._pending is not None

    @property
    def rest(self) -> bytes:
        """What came behind the request."""
        return self._connection.trailing_data[0]

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, or b"" to look whether the answer is there by now."""
        if data:
            self._connection.receive_data(data)
        # Whoever sends more requests before the answer comes than one body may hold is cut off.
        if self._pending is not None and len(self.rest) > self._routes.max_body_bytes("/infer"):
            self.closed = True
        return self._go_on()

    def finish(self) -> bytes:
        """Nothing more will come; a half-sent request is refused."""
        self._connection.receive_data(b"")
        return self._go_on()

    def _go_on(self) -> bytes:
        sent = b""
        while not (self.done or self.closed):
            if self._pending is not None:
                return sent + self._send(self._pending.result()) if self._pending.done() else sent
            try:
                event = self._connection.next_event()
            except h11.RemoteProtocolError as error:
                return sent + self._refuse(HTTPStatus(error.error_status_hint), str(error))
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.Request):
                sent += self._begin(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._max_body_bytes():
                    sent += self._refuse_length()
            elif isinstance(event, h11.EndOfMessage):
                sent += self._answer()
            else:
                self.closed = True  # The peer ended the stream between two requests.
        return sent

    def _begin(self, request: h11.Request) -> bytes:
        self._request = request
        self._started = perf_counter()
        # Later lengths are checked as the bytes come; what is announced need not come first.
        lengths = [int(value) for name, value in request.headers if name == b"content-length"]
        if any(length > self._max_body_bytes() for length in lengths):
            return self._refuse_length()
        if self._connection.they_are_waiting_for_100_continue:
            return self._encode(h11.InformationalResponse(status_code=100, headers=[]))
        return b""

    def _max_body_bytes(self) -> int:
        assert self._request is not None  # noqa: S101  # h11 gives a request before its body
        return self._routes.max_body_bytes(self._request.target.decode("ascii").partition("?")[0])

    def _answer(self) -> bytes:
        assert self._request is not None  # noqa: S101
        answer = self._routes.answer(
            Request(
                method=self._request.method.decode("ascii"),
                target=self._request.target.decode("ascii"),
                headers={
                    name.decode("ascii"): value.decode("latin-1") for name, value in self._request.headers
                },
                body=bytes(self._body),
            )
        )
        if isinstance(answer, Response):
            return self._send(answer)
        self._pending = asyncio.ensure_future(_caught(answer))
        self._pending.add_done_callback(lambda _: self._wake())
        return b""

    def _refuse_length(self) -> bytes:
        reason = f"body longer than {self._max_body_bytes()} bytes"
        return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)

    def _refuse(self, status: HTTPStatus, reason: str) -> bytes:
        return self._send(Response.error(status, reason, _CLOSE))

    def _send(self, response: Response) -> bytes:
        connection = self._connection
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.closed = True
            return b""
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Server", _SERVER),
            *response.headers,
        ]
        status = response.status
        sent = self._encode(h11.Response(status_code=status.value, reason=status.phrase, headers=headers))
        if self._request is None or self._request.method != b"HEAD":
            sent += self._encode(h11.Data(data=response.body))
        sent += self._encode(h11.EndOfMessage())
        self.done = set(connection.states.values()) == {h11.DONE}
        self.closed = not self.done
        self._account.add(
            requests=1,
            rows=0,
            anomalies=0,
            errors=status >= HTTPStatus.BAD_REQUEST,
            latency_s=perf_counter() - self._started if self._started else 0.0,
            code=str(status.value),
        )
        return sent

    def _encode(self, event: h11.Event) -> bytes:
        return self._connection.send(event) or b""


async def _caught(answer: Awaitable[Response]) -> Response:
    try:
        return await answer
    except Exception as error:  # whatever it was, it stays in this request
        return refusal_of(error)


class HttpSession(Session):
    """One HTTP/1.1 connection: bytes in, bytes out. Pipelined requests are answered in order.

    Parameters
    ----------
    lean : HttpSession
        The native session, which takes what it understands.
    inference : RestInference
        Where that session counts what it answers.
    routes : Routes
        Answers everything else.
    account : TransportAccount
    """

    __slots__ = ("_account", "_exchange", "_inference", "_lean", "_routes", "_wake", "closed")

    closed: bool

    def __init__(
        self,
        lean: backend.HttpSession,
        inference: backend.RestInference,
        routes: Routes,
        account: TransportAccount,
    ) -> None:
        self._lean = lean
        self._inference = inference
        self._routes = routes
        self._account = account
        self._exchange: _Exchange | None = None
        self._wake: Callable[[], None] = _nobody
        self.closed = False

    @property
    def mid_message(self) -> bool:
        """Whether the start of a request was read, but not its end, or its answer is not there yet."""
        return self._exchange is not None or self._lean.mid_message

    @property
    def deferring(self) -> bool:
        """Whether the peer waits for an answer that takes long."""
        return self._exchange is not None and self._exchange.pending

    @property
    def drained(self) -> bool:
        """Whether everything that was asked is answered."""
        return self.closed or not self.mid_message

    def drain(self) -> None:
        """Do nothing: HTTP/1.1 has no word for it."""

    def abandon(self) -> None:
        """Forget who waits: the connection is gone."""
        self._wake = _nobody

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` when an answer that had to wait is there; `feed(b"")` then gives it."""
        self._wake = wake

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; give the responses to every request they complete."""
        replies = b""
        while True:
            if self._exchange is None:
                replies += self._feed_lean(data)
                if not self._lean.declined:
                    return replies
                data = self._lean.take_declined()
                self._exchange = _Exchange(self._routes, self._account, self._wake)
            replies += self._exchange.feed(data)
            if not self._exchange.done:
                self.closed = self._exchange.closed
                return replies
            data = self._exchange.rest
            self._exchange = None
            if not data:
                return replies

    def finish(self) -> bytes:
        """Nothing more will come; a half-sent request is refused."""
        replies = b""
        self._lean.finish()
        if self._exchange is None and self._lean.declined:
            self._exchange = _Exchange(self._routes, self._account, self._wake)
            replies = self._exchange.feed(self._lean.take_declined())
        if self._exchange is not None and not self._exchange.closed:
            replies += self._exchange.finish()
        self.closed = not self.deferring
        return replies

    def _feed_lean(self, data: bytes) -> bytes:
        started = perf_counter()
        replies = self._lean.feed(data)
        if replies:
            requests, rows, anomalies, errors = self._inference.take_counts()
            self._account.add(
                requests=requests,
                rows=rows,
                anomalies=anomalies,
                errors=sum(errors.values()),
                latency_s=perf_counter() - started,
            )
            for status, count in errors.items():
                self._account.error_codes[str(status)] += count
        return replies


def _nobody() -> None:
    """Nobody waits for a session without a connection."""


def http_transport(
    plane: DataPlane, repository: ModelRepository, metrics: Metrics, settings: Settings, guard: Guard
) -> Listener:
    """Make the transport of inference over HTTP, health and metrics."""
    account = plane.account(NAME)

    def make_inference() -> backend.RestInference:
        return backend.RestInference(
            plane.models, max_rows=settings.max_request_rows, max_inline_us=settings.max_inline_us
        )

    inference = make_inference()
    routes = Routes(
        plane,
        repository,
        metrics,
        guard,
        inference=inference,
        off_loop=OffLoop(make_inference(), account, settings.queue_rows),
        account=account,
        metrics_open=not settings.metrics_need_token,
        max_rows=settings.max_request_rows,
        max_body_bytes=settings.http_max_body_bytes,
    )

    def open_session() -> HttpSession:
        lean = backend.HttpSession(
            inference,
            max_header_bytes=_MAX_HEADER_BYTES,
            max_body_bytes=settings.http_max_body_bytes,
            server=_SERVER,
            authorize=guard.admits if guard.tokens is not None else None,
        )
        return HttpSession(lean, inference, routes, account)

    return Listener(
        NAME,
        settings.host,
        settings.http_port,
        account=account,
        open_session=open_session,
        refusal=_REFUSAL,
        max_connections=settings.http_max_connections,
        idle_timeout_s=settings.http_idle_timeout_s,
        write_buffer_bytes=settings.write_buffer_bytes,
        receive_timeout_s=settings.receive_timeout_s,
        tls_context=guard.tls_context("http/1.1"),
        reuse_port=settings.workers > 1,
        turns=plane.turns,
    )
