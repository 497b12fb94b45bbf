"""HTTP/1.1: the native session answers requests for inference; the others go to the routes."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING

import datasentinel
from datasentinel.backend import HttpService
from datasentinel.errors import DataSentinelError, InvalidInputError, ResourceExhaustedError
from datasentinel.serving.connections.inflate import Inflater
from datasentinel.serving.connections.session import ATTENTION, EVENT, UNFINISHED, WAITING, Session
from datasentinel.serving.control.messages import Request, Response
from datasentinel.serving.control.routes import CROSS_SITE, Routes, is_cross_site, refusal_of
from datasentinel.serving.listening import listener_of
from datasentinel.serving.logs import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from datasentinel.backend import RequestCounts
    from datasentinel.serving.connections.listener import Listener
    from datasentinel.serving.control.metrics import Metrics
    from datasentinel.serving.control.repository import ModelRepository
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.inference import Inference
    from datasentinel.serving.settings import Settings

NAME = "http"
ADMIN = "admin"

_SERVER = f"datasentinel/{datasentinel.__version__}"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
)
_FULL = Response.error(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "too many connections, try again later; this one is for health and metrics alone",
    ("Retry-After", "1"),
)
_NOT_HERE = Response.error(HTTPStatus.NOT_FOUND, "this port is for health and metrics alone")
_TURN_S = 0.001
# A client that is between two requests when the server stops gets so long to send the next one, whose reply
# tells it to connect elsewhere: HTTP/1.1 has no other word for that.
_DRAIN_S = 0.25

_failure_log = RateLimitedLog(logging.getLogger(__name__), logging.ERROR, "request_failed")


class HttpStream(Session):
    """One HTTP/1.1 connection: bytes in, bytes out. Pipelined requests are answered in order.

    Parameters
    ----------
    inference : Inference
    service : HttpService
        Of all connections.
    answer : callable
        Answers what the native session leaves.
    max_body_bytes : int
        Limit of a body once it is decompressed.
    once : bool
        Whether the first answer is the last one.
    """

    __slots__ = (
        "_answer",
        "_drained_s",
        "_inference",
        "_inflater",
        "_max_body_bytes",
        "_native",
        "_pending",
        "_wake",
    )

    def __init__(
        self,
        inference: Inference,
        service: HttpService,
        answer: Callable[[Request], Response | Awaitable[Response]],
        *,
        max_body_bytes: int,
        once: bool = False,
    ) -> None:
        self._inference = inference
        self._native = service.open_session()
        self.take_turn = self._native.feed
        if once:
            self._native.drain()
        self._answer = answer
        self._max_body_bytes = max_body_bytes
        self.state = 0
        self._pending: asyncio.Task[Response] | None = None
        self._inflater: Inflater | None = None
        self._drained_s: float | None = None  # When there is no more to wait for, by the loop's clock.
        self._wake: Callable[[], None] = _nobody

    @property
    def unfinished(self) -> bool:
        """Whether the turn ended before all was answered that can be."""
        return self.state & (UNFINISHED | EVENT) != 0 or self._inflater is not None

    @property
    def blocked(self) -> bool:
        """Whether a request is being answered elsewhere: replies are in order, so the next ones wait."""
        return self.state & WAITING != 0 and not self.unfinished

    @property
    def drained(self) -> bool:
        """Whether everything that was asked is answered, and nothing more is to be expected."""
        if self.closed:
            return True
        if self.mid_message or self.unfinished or self.deferring:
            return False
        return self._drained_s is None or asyncio.get_running_loop().time() >= self._drained_s

    def drain(self) -> None:
        """Make the next reply announce that it is the last one."""
        if self._drained_s is None:
            self._drained_s = asyncio.get_running_loop().time() + _DRAIN_S
            self._native.drain()

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` when an answer that had to wait is there."""
        self._wake = wake
        self._inference.enter(self._native.number, wake)

    def abandon(self) -> None:
        """Forget the waiting requests: the connection is gone."""
        self._wake = _nobody
        self._inflater = None
        self._inference.leave(self._native.number)

    def attend(self, out: bytes, state: int) -> bytes:
        """Answer what the native session leaves to Python, as far as a turn goes."""
        native = self._native
        started_s = perf_counter()
        self.state = state
        while self._go_on():
            more, self.state = native.feed(b"")
            out += more
            if perf_counter() - started_s > _TURN_S:
                break
        if self.state & ATTENTION:
            _failure_log(transport=NAME, reason=native.take_failure())
        return out

    def finish(self) -> bytes:
        """Nothing more will come; a half-sent request is refused."""
        out, self.state = self._native.finish()
        return out

    def _go_on(self) -> bool:
        """Do what the native session leaves to Python; return whether it can go on then."""
        if self._inflater is not None:
            return self._inflate(self._inflater)
        if self._pending is not None:
            if not self._pending.done():
                return False
            response = self._pending.result()
            self._pending = None
            self._respond(response)
            return True
        return self.state & EVENT != 0 and self._take_event()

    def _take_event(self) -> bool:
        is_inference, method, target, fields, body = self._native.take_event()
        if is_inference:
            coding = fields.get("content-encoding", "identity")
            # The live page's form asks for it, under whatever name the server has.
            if is_cross_site(fields, by_any_name=True):
                self._respond(CROSS_SITE)
            elif coding.lower() == "identity":
                self._native.deliver(b"", is_last=True)  # The body has stayed there.
            else:
                self._begin_to_inflate(body, coding)
            return True
        answer = self._answer(Request(method, target, fields, body))
        if isinstance(answer, Response):
            self._respond(answer)
            return True
        self._pending = asyncio.ensure_future(_caught(answer))
        self._pending.add_done_callback(lambda _: self._wake())
        self.state = self._native.state
        return False

    def _begin_to_inflate(self, body: bytes, coding: str) -> None:
        try:
            self._inflater = Inflater(body, coding, self._max_body_bytes)
        except InvalidInputError as error:
            unsupported = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            self._respond(Response.error(unsupported, str(error), ("Accept-Encoding", "gzip, deflate")))

    def _inflate(self, inflater: Inflater) -> bool:
        try:
            self._native.deliver(inflater.step(), is_last=inflater.done)
        except ResourceExhaustedError as error:  # More than a body may have, and not our lack of room.
            self._respond(Response.error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)))
        except DataSentinelError as error:
            self._respond(refusal_of(error))
        if inflater.done or not self._native.state & WAITING:
            self._inflater = None
        return True

    def _respond(self, response: Response) -> None:
        fields = [("Content-Type", response.content_type), *response.headers]
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self._native.respond(response.status.value, lines, response.body)


async def _caught(answer: Awaitable[Response]) -> Response:
    try:
        return await answer
    except Exception as error:  # whatever it was, it stays in this request
        return refusal_of(error)


def _nobody() -> None:
    """Nobody waits for a session without a connection."""


def http_transport(
    plane: DataPlane, repository: ModelRepository, metrics: Metrics, settings: Settings, guard: Guard
) -> Listener:
    """Make the transport of inference over HTTP, health and metrics."""
    counts = plane.request_counts(NAME, str)
    service = _service(plane, settings, counts, guard.admits if guard.tokens is not None else None)
    reserved = _service(plane, settings, counts, _nobody_may)
    routes = _routes(plane, repository, metrics, settings, guard)
    open_session = partial(HttpStream, plane.inference, max_body_bytes=settings.http_max_body_bytes)
    return listener_of(
        NAME,
        plane,
        settings,
        guard,
        partial(open_session, service, routes.answer),
        open_reserved_session=partial(open_session, reserved, partial(routes.answer_vital, _FULL), once=True),
        refusal=_REFUSAL,
        alpn="http/1.1",
    )


def admin_transport(
    plane: DataPlane, repository: ModelRepository, metrics: Metrics, settings: Settings, guard: Guard
) -> Listener:
    """Make the transport of health and metrics alone."""
    service = _service(plane, settings, plane.request_counts(ADMIN, str), _nobody_may)
    answer = partial(_routes(plane, repository, metrics, settings, guard).answer_vital, _NOT_HERE)
    return listener_of(
        ADMIN,
        plane,
        settings,
        guard,
        partial(HttpStream, plane.inference, service, answer, max_body_bytes=settings.http_max_body_bytes),
        refusal=_REFUSAL,
        alpn="http/1.1",
        limits=NAME,
    )


def _service(
    plane: DataPlane,
    settings: Settings,
    counts: RequestCounts,
    authorize: Callable[[bytes | None], bool] | None,
) -> HttpService:
    return HttpService(
        plane.inference.native,
        counts,
        max_body_bytes=settings.http_max_body_bytes,
        max_request_rows=settings.max_request_rows,
        server=_SERVER,
        authorize=authorize,
    )


def _routes(
    plane: DataPlane, repository: ModelRepository, metrics: Metrics, settings: Settings, guard: Guard
) -> Routes:
    return Routes(
        plane,
        repository,
        metrics,
        guard,
        metrics_open=not settings.metrics_need_token,
        max_rows=settings.max_request_rows,
        page=settings.page,
    )


def _nobody_may(_: object) -> bool:
    """Leave requests for inference to Python, which answers that this is not the place."""
    return False
