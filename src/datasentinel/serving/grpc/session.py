"""gRPC: every chunk received goes to one native call.

Requests for scores are decoded, scored and answered in C++. Every other method is served from a table of
handlers in Python.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

from datasentinel.backend import GrpcService, GrpcSession, open_nghttp2
from datasentinel.errors import (
    BackendUnavailableError,
    InvalidInputError,
    ResourceExhaustedError,
    ServerError,
)
from datasentinel.serving.auth import REFUSAL
from datasentinel.serving.connections.inflate import Inflater
from datasentinel.serving.connections.session import ATTENTION, UNFINISHED, Session
from datasentinel.serving.control.methods import make_methods
from datasentinel.serving.control.status import Code, status_of
from datasentinel.serving.grpc.call import Call, CallEnd
from datasentinel.serving.listening import listener_of
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.backend import Nghttp2
    from datasentinel.serving.connections.listener import Listener
    from datasentinel.serving.control.repository import ModelRepository
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.settings import Settings

NAME = "grpc"
_HEALTH_PREFIX = "/grpc.health.v1.Health/"

# A turn takes no further event of the native session after so long.
_TURN_S = 0.0005

_STOPPING = "the server is draining; connect again"
_FULL = "too many connections, try again later; this one is for health alone"

# Kind, call, text, whether it is compressed, metadata.
_Event: TypeAlias = "tuple[str, int, bytes, bool, list[tuple[bytes, bytes]]]"

_GZIP_MAGIC = b"\x1f\x8b"
_CODE_NAMES = {code.value: code.name.lower() for code in Code}

_ADVICE = (
    "install it (apt install libnghttp2-14, dnf install libnghttp2, apk add nghttp2-libs, conda install "
    "libnghttp2), or leave gRPC out with --no-grpc"
)

_logger = logging.getLogger(__name__)


def grpc_transport(
    plane: DataPlane, repository: ModelRepository, settings: Settings, guard: Guard
) -> Listener | None:
    """Make the gRPC transport, or say in the log why there is none.

    Raises
    ------
    ServerError
        libnghttp2 cannot be opened, and gRPC is required or the only protocol that is on.
    """
    try:
        library = open_nghttp2()
    except BackendUnavailableError as error:
        if settings.require_grpc or not (settings.tcp or settings.http):
            raise ServerError(f"gRPC cannot be served: {error}; {_ADVICE}") from error
        log(_logger, logging.WARNING, "grpc_not_served", reason=error, advice=_ADVICE)
        return None
    log(_logger, logging.INFO, "grpc_library", name=library)
    server = GrpcServer(library, plane, repository, settings, guard)
    return listener_of(
        NAME,
        plane,
        settings,
        guard,
        server.open_session,
        open_reserved_session=server.open_reserved_session,
        alpn="h2",
    )


class GrpcServer:
    """What all gRPC connections share.

    Parameters
    ----------
    library : Nghttp2
        What speaks HTTP/2.
    plane : DataPlane
    repository : ModelRepository
    settings : Settings
    guard : Guard
    """

    def __init__(
        self,
        library: Nghttp2,
        plane: DataPlane,
        repository: ModelRepository,
        settings: Settings,
        guard: Guard,
    ) -> None:
        self.methods = make_methods(plane, repository, max_rows=settings.max_request_rows)
        self.settings = settings
        self.open_calls = 0
        self.inference = plane.inference
        make_service = partial(
            GrpcService,
            library,
            self.inference.native,
            plane.request_counts(NAME, _code_name),
            max_message_bytes=settings.grpc_max_message_bytes,
            max_request_rows=settings.max_request_rows,
            max_streams=settings.grpc_max_streams,
            receive_timeout_s=settings.receive_timeout_s,
            min_ping_interval_s=settings.grpc_min_ping_interval_s,
        )
        self._service = make_service(admit=_admission(guard))
        self._reserved_service = make_service(admit=_admit_to_health)

    def open_session(self) -> GrpcStream:
        """Make the session of a new connection."""
        return GrpcStream(self, self._service.open_session())

    def open_reserved_session(self) -> GrpcStream:
        """Make the session of a connection over the limit, which may ask for health alone."""
        return GrpcStream(self, self._reserved_service.open_session())


# The code and the words of a refusal, or None.
_Refusal: TypeAlias = "tuple[int, str] | None"


def _admission(guard: Guard) -> Callable[[bytes, bytes], _Refusal] | None:
    if guard.tokens is None:
        return None

    def admit(path: bytes, authorization: bytes) -> _Refusal:
        if _admit_to_health(path) is None or guard.admits(authorization):
            return None
        return Code.UNAUTHENTICATED, REFUSAL

    return admit


def _admit_to_health(path: bytes, _: bytes = b"") -> _Refusal:
    return None if path.startswith(_HEALTH_PREFIX.encode()) else (Code.UNAVAILABLE, _FULL)


class GrpcStream(Session):
    """One gRPC connection: the native session, and the calls that it leaves to Python."""

    __slots__ = (
        "_calls",
        "_events",
        "_in_turn",
        "_inflating",
        "_native",
        "_server",
        "_timer",
        "_wake",
    )

    def __init__(self, server: GrpcServer, native: GrpcSession) -> None:
        self._server = server
        self._native = native
        self.take_turn = native.feed
        self._wake: Callable[[], None] = _nobody
        self._calls: dict[int, Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._events: deque[_Event] = deque()  # Of the native session, and not attended to yet.
        self._in_turn = False  # Its end takes what is pending.
        # Whose message it is, and as far as it is inflated.
        self._inflating: tuple[int, Inflater, bytearray] | None = None
        self.state = 0

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there is something to send; `feed(b"")` then returns it."""
        self._wake = wake
        self._server.inference.enter(self._native.number, wake)

    @property
    def deferring(self) -> bool:
        """Whether the peer waits for an answer, and not we for its greeting or its headers."""
        return not self.mid_message and self._native.open_calls != 0

    @property
    def drained(self) -> bool:
        """Whether every call is answered."""
        return self._native.open_calls == 0

    def attend(self, out: bytes, state: int) -> bytes:
        """Handle the events that the native session leaves to Python, for one turn."""
        if state & ATTENTION or self._inflating is not None or self._events:
            self._in_turn = True
            self._take_events()
            self._in_turn = False
            more, state = self._native.take_output()
            out += more
            # The turn may have ended before all of the native session's events were taken.
            if state & ATTENTION or self._inflating is not None or self._events:
                state = state & ~ATTENTION | UNFINISHED
        self.state = state
        return out

    def finish(self) -> bytes:
        """Handle the end of the stream; complete requests are still answered."""
        for number, call in list(self._calls.items()):
            if call.is_stream:
                self._give_up(number)
                self._refuse(number, Code.UNAVAILABLE, "the client has ended the connection")
        return self.attend(*self._native.finish())

    def last_words(self) -> bytes:
        """End every call with a status: the connection is about to be cut off."""
        for number in list(self._calls):
            self._give_up(number)
        self._native.abandon_calls(Code.UNAVAILABLE, _STOPPING)
        words, _ = self._native.take_output()
        return words

    def drain(self) -> None:
        """Ask the peer to send no more calls, and end the streams."""
        self._native.drain()
        for number, call in list(self._calls.items()):
            if call.is_stream:
                self._give_up(number)
                self._refuse(number, Code.UNAVAILABLE, _STOPPING)

    def abandon(self) -> None:
        """Cancel every call: the connection is gone."""
        self._server.inference.leave(self._native.number)
        self._wake = _nobody
        self._inflating = None
        for number in list(self._calls):
            self._give_up(number)
        if self._timer is not None:
            self._timer.cancel()

    def flush(self) -> None:
        """Request that pending output is sent."""
        if not self._in_turn:
            self._wake()

    def reply(self, call: int, message: bytes) -> None:
        """Send one message on a call."""
        self._native.reply(call, message)
        self.flush()

    def end_call(self, call: int, end: CallEnd) -> None:
        """End a call with a status."""
        if self._calls.pop(call, None) is not None:
            self._server.open_calls -= 1
        self._native.finish_call(call, end.code, end.details)
        self.flush()

    def _take_events(self) -> None:
        turn_ends_s = perf_counter() + _TURN_S
        while perf_counter() < turn_ends_s:
            if self._inflating is not None:
                self._inflate(*self._inflating)
                continue
            if not self._events:
                self._events.extend(self._native.take_events())
            if not self._events:
                break
            self._take_event(*self._events.popleft())
        self._watch_deadlines()

    def _take_event(self, kind: str, call: int, text: bytes, compressed: bool, _: object) -> None:
        if kind == "call":
            self._open_call(call, text)
        elif kind == "inflate" or (compressed and call in self._calls):
            # What comes behind it waits, so that each call's messages keep their order.
            self._start_inflating(call, text)
        elif kind == "message" and call in self._calls:
            self._calls[call].put(text)
        elif kind == "failure":
            log(_logger, logging.ERROR, "request_failed", transport=NAME, reason=text.decode())
        elif kind == "end" and call in self._calls:
            self._calls[call].end()
        elif kind == "cancel":
            self._give_up(call)

    def _open_call(self, number: int, path: bytes) -> None:
        name = path.decode("latin-1")
        method = self._server.methods.get(name)
        if method is None:
            self._refuse(number, Code.UNIMPLEMENTED, f"unknown method {name}")
        # Health shares no fate with others' calls.
        elif self._server.open_calls >= self._server.settings.grpc_max_calls and not name.startswith(
            _HEALTH_PREFIX
        ):
            self._refuse(number, Code.RESOURCE_EXHAUSTED, "too many calls at a time")
        else:
            self._server.open_calls += 1
            self._calls[number] = Call(self, number, method)

    def _give_up(self, number: int) -> None:
        """Forget a call and stop its handler."""
        call = self._calls.pop(number, None)
        if call is not None:
            self._server.open_calls -= 1
            call.cancel()

    def _start_inflating(self, number: int, text: bytes) -> None:
        limit = self._server.settings.grpc_max_message_bytes
        coding = "gzip" if text.startswith(_GZIP_MAGIC) else "deflate"
        self._inflating = number, Inflater(text, coding, limit), bytearray()

    def _inflate(self, number: int, inflater: Inflater, message: bytearray) -> None:
        """Inflate one step; after the last one pass the message on."""
        try:
            message += inflater.step()
            if not inflater.done:
                return
        except (InvalidInputError, ResourceExhaustedError) as error:
            self._give_up(number)
            self._refuse(number, status_of(error).grpc, str(error))
        else:
            if number in self._calls:
                self._calls[number].put(bytes(message))
            else:
                self._native.deliver(number, bytes(message))
        self._inflating = None

    def _refuse(self, number: int, code: int, details: str) -> None:
        self._native.finish_call(number, code, details)

    def _watch_deadlines(self) -> None:
        delay_s = self._native.next_deadline_s()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s is not None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._native.expire()
        self.flush()


def _code_name(code: int) -> str:
    return _CODE_NAMES.get(code, str(code))


def _nobody() -> None:
    """Nobody listens: the connection is not open."""
