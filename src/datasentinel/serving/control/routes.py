"""The table of routes: health, metrics, and the Open Inference Protocol under /v2."""

from __future__ import annotations

import ipaddress
import logging
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from datasentinel.errors import DataSentinelError, InvalidInputError
from datasentinel.serving import auth
from datasentinel.serving.control import live, metadata
from datasentinel.serving.control.messages import TEXT, Response
from datasentinel.serving.control.openapi import make_document
from datasentinel.serving.control.status import status_of
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from datasentinel.serving.control.messages import Request
    from datasentinel.serving.control.metrics import Metrics
    from datasentinel.serving.control.repository import ModelRepository
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard

_logger = logging.getLogger(__name__)

_HEALTH_PATHS = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})
_VITAL_PATHS = _HEALTH_PATHS | {"/metrics"}

_BROKEN_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")

_PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}


@dataclass(frozen=True, slots=True)
class Route:
    """One path and what answers it.

    Attributes
    ----------
    method : str
        "GET", which HEAD follows, or "POST".
    path : str
        Its segments in braces match anything; a handler finds them in its second argument.
    summary : str
        For the OpenAPI document.
    handler : callable
    """

    method: str
    path: str
    summary: str
    handler: Callable[[Request, Mapping[str, str]], Response | Awaitable[Response]]

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """Return the segments that stand for those in braces, as they came; None for another path."""
        own = self.path.split("/")
        if len(own) != len(segments):
            return None
        found: dict[str, str] = {}
        for pattern, segment in zip(own, segments, strict=True):
            if pattern.startswith("{") and segment:
                found[pattern[1:-1]] = segment
            elif pattern != segment:
                return None
        return found


class Routes:
    """The paths that can be asked for.

    Parameters
    ----------
    plane : DataPlane
    repository : ModelRepository
    metrics : Metrics
    guard : Guard
        Whose token each request needs; health is open to all.
    metrics_open : bool
        Whether the metrics need no token either.
    max_rows : int
        Limit of one request, for the model's configuration.
    page : bool
        Whether there is a page for people.
    """

    def __init__(
        self,
        plane: DataPlane,
        repository: ModelRepository,
        metrics: Metrics,
        guard: Guard,
        *,
        metrics_open: bool,
        max_rows: int,
        page: bool,
    ) -> None:
        self._plane = plane
        self._repository = repository
        self._metrics = metrics
        self._guard = guard
        self._open_paths = _HEALTH_PATHS | ({"/metrics"} if metrics_open else set())
        self._live_view = live.LiveView(plane)
        self._max_rows = max_rows
        self.table = [
            Route("GET", "/healthz", "Ready or not, in a word", self._healthz),
            Route("GET", "/metrics", "Metrics for Prometheus", self._render_metrics),
            Route("GET", "/openapi.json", "This document", self._openapi),
            Route("GET", "/v2", "Name, version and extensions of the server", self._server_metadata),
            Route("GET", "/v2/health/live", "Whether the server runs", self._live),
            Route("GET", "/v2/health/ready", "Whether requests are welcome", self._ready),
            Route("GET", "/v2/models/stats", "Statistics of all models", self._statistics),
            *self._model_routes("/v2/models/{model}"),
            *self._model_routes("/v2/models/{model}/versions/{version}"),
            Route("POST", "/v2/repository/index", "The models of the repository", self._index),
            Route("POST", "/v2/repository/models/{model}/load", "Load or reload a model", self._load),
            Route("POST", "/v2/repository/models/{model}/unload", "Serve a model no longer", self._unload),
        ]
        if page:
            self._open_paths |= _PAGE_FILES.keys()  # They show nothing of the models.
            self.table += [
                Route("GET", path, "A part of the page for people", self._page_file) for path in _PAGE_FILES
            ]
            self.table.append(Route("GET", "/live", "What the page shows, as an event", self._live_event))
        self._document = make_document((route.method, route.path, route.summary) for route in self.table)

    def _model_routes(self, path: str) -> list[Route]:
        return [
            Route("GET", path, "The tensors of a model", self._model_metadata),
            Route("GET", f"{path}/ready", "Whether a model is served", self._model_ready),
            Route("GET", f"{path}/config", "The configuration of a model", self._model_config),
            Route("GET", f"{path}/stats", "The statistics of a model", self._statistics),
            Route("POST", f"{path}/infer", "Score rows", _answered_before),
        ]

    def answer(self, request: Request) -> Response | Awaitable[Response]:
        """Answer one request, now or later."""
        path = request.path
        if path not in self._open_paths and not self._guard.admits(request.headers.get("authorization")):
            challenge = ("WWW-Authenticate", auth.CHALLENGE)
            return Response.error(HTTPStatus.UNAUTHORIZED, auth.REFUSAL, challenge)
        segments = path.split("/")
        matches = [(route, found) for route in self.table if (found := route.match(segments)) is not None]
        if not matches:
            known = ", ".join(route.path for route in self.table)
            return Response.error(HTTPStatus.NOT_FOUND, f"no such path; known: {known}")
        route, found = matches[0]  # The most particular one comes first.
        allowed = ["GET", "HEAD"] if route.method == "GET" else [route.method]
        if request.method not in allowed:
            reason = f"method {request.method} is not allowed here"
            return Response.error(HTTPStatus.METHOD_NOT_ALLOWED, reason, ("Allow", ", ".join(allowed)))
        if route.method == "POST" and is_cross_site(request.headers):
            return CROSS_SITE
        try:
            return route.handler(request, {key: _unescaped(segment) for key, segment in found.items()})
        except Exception as error:  # whatever it was, it stays in this request
            return refusal_of(error)

    def answer_vital(self, otherwise: Response, request: Request) -> Response | Awaitable[Response]:
        """Answer questions for health and metrics; `otherwise` to any other."""
        return self.answer(request) if request.path in _VITAL_PATHS else otherwise

    # --------------------------------------------------------------------------------------- health, metrics

    def _healthz(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        # For humans and simple probes: ready or not, in a word.
        ready = self._plane.ready
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(status, b"ok\n" if ready else b"not ready\n", TEXT)

    def _live(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        return Response.json({"live": True})

    def _ready(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        ready = self._plane.ready
        return Response.json({"ready": ready}, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    def _render_metrics(
        self,
        request: Request,
        found: Mapping[str, str],  # noqa: ARG002
    ) -> Response | Awaitable[Response]:
        return self._rendered_metrics(request) if self._metrics.is_prepared else self._first_metrics(request)

    async def _first_metrics(self, request: Request) -> Response:
        await self._metrics.prepare()
        return self._rendered_metrics(request)

    def _rendered_metrics(self, request: Request) -> Response:
        body, content_type = self._metrics.render(request.headers.get("accept", ""))
        return Response(HTTPStatus.OK, body, content_type)

    def _openapi(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        return Response.json(self._document)

    # ------------------------------------------------------------------------------------------------- page

    def _page_file(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        body, media_type = live.asset(_PAGE_FILES[request.path])
        return Response(HTTPStatus.OK, body, media_type, live.HEADERS)

    def _live_event(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        body = self._live_view.event(request.target.partition("?")[2])
        return Response(HTTPStatus.OK, body, "text/event-stream", live.HEADERS)

    # ------------------------------------------------------------------------------- Open Inference Protocol

    def _server_metadata(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        return Response.json(metadata.server_metadata())

    def _model_metadata(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        served = self._plane.served
        return Response.json(metadata.model_metadata(served, served.find(*_names(found))))

    def _model_ready(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        model = self._plane.served.find(*_names(found))
        ready = self._plane.ready
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response.json({"name": model.name, "ready": ready}, status)

    def _model_config(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        model = self._plane.served.find(*_names(found))
        return Response.json(metadata.model_config(model, self._max_rows))

    def _statistics(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        served = self._plane.served
        models = [served.find(*_names(found))] if found else served.all()
        return Response.json({"model_stats": [metadata.model_statistics(served, model) for model in models]})

    # -------------------------------------------------------------------------------------------- repository

    def _index(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        return Response.json(self._repository.index())

    async def _load(self, request: Request, found: Mapping[str, str]) -> Response:
        _refuse_parameters(request)
        await self._repository.load(found["model"])
        return Response.json({})

    async def _unload(self, request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG002
        await self._repository.unload(found["model"])
        return Response.json({})


def _unescaped(segment: str) -> str:
    if _BROKEN_ESCAPE.search(segment):
        raise InvalidInputError(
            f"path: a '%' in {segment!r} is not followed by two hexadecimal digits; write '%25' for itself"
        )
    return unquote(segment)


def _answered_before(request: Request, found: Mapping[str, str]) -> Response:  # noqa: ARG001
    raise AssertionError("the native session answers requests for inference")


CROSS_SITE = Response.error(HTTPStatus.FORBIDDEN, "a page of another site may not ask for this")


def refusal_of(error: Exception) -> Response:
    """Return the response to a request that failed; log internal errors."""
    status = status_of(error)
    if not isinstance(error, DataSentinelError):
        log(_logger, logging.ERROR, "request_failed", transport="http", exception=error)
        return Response.error(status.http, "internal error")
    if status.is_fault_of_ours:
        log(_logger, logging.ERROR, "request_failed", transport="http", reason=error)
    return Response.error(status.http, str(error))


def is_cross_site(headers: Mapping[str, str], *, by_any_name: bool = False) -> bool:
    """Return whether a browser asks on behalf of a page that this server did not send.

    Only browsers send `Origin`, and they do with every POST; `Host` must then be this server's own. Unless
    `by_any_name`, it must be an address, and not a name that an attacker could have made resolve to it (DNS
    rebinding).
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name != "localhost" and not by_any_name:
            ipaddress.ip_address(name)
    except ValueError:  # neither, or no host at all
        return True
    return origin.partition("://")[2].lower() != host.lower()


def _names(found: Mapping[str, str]) -> tuple[str, str]:
    return found["model"], found.get("version", "")


def _refuse_parameters(request: Request) -> None:
    # Clients that have nothing to say send nothing, or an empty object.
    if request.body.translate(None, b" \t\r\n") not in (b"", b"{}", b'{"parameters":{}}'):
        raise InvalidInputError("no parameters are supported here")
