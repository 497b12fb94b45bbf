"""The TCP line protocol: the bytes received go to one native call a turn, its replies into one write."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from datasentinel.backend import LineSession
from datasentinel.serving.connections.session import ATTENTION, Session
from datasentinel.serving.listening import listener_of
from datasentinel.serving.logs import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.backend import RequestCounts
    from datasentinel.serving.connections.listener import Listener
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.inference import Inference
    from datasentinel.serving.settings import Settings

NAME = "tcp"
_REFUSAL = b"ERROR: too many connections, try again later\n"

_logger = logging.getLogger(__name__)
# A broken backend fails every line; a line in the log for each would be a second failure.
_failure_log = RateLimitedLog(_logger, logging.ERROR, "lines_failed")


class LineStream(Session):
    """One connection of the line protocol: bytes in, reply bytes out.

    Parameters
    ----------
    inference : Inference
    counts : RequestCounts
        Of all connections.
    max_line_bytes : int
    """

    __slots__ = ("_inference", "_native")

    def __init__(self, inference: Inference, counts: RequestCounts, *, max_line_bytes: int) -> None:
        self._inference = inference
        self._native = LineSession(inference.native, counts, max_line_bytes=max_line_bytes)
        self.take_turn = self._native.feed
        self.state = 0

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` when lines were scored off the loop."""
        self._inference.enter(self._native.number, wake)

    def abandon(self) -> None:
        """Forget the waiting requests: the connection is gone."""
        self._inference.leave(self._native.number)

    def attend(self, out: bytes, state: int) -> bytes:
        """Log internal errors."""
        self.state = state
        if state & ATTENTION:
            lines, reason = self._native.take_failures()
            _failure_log(lines=lines, reason=reason)
        return out

    def finish(self) -> bytes:
        """Answer a last line without a newline: the stream ended."""
        return self.attend(*self._native.finish())


def tcp_transport(plane: DataPlane, settings: Settings, guard: Guard) -> Listener:
    """Make the transport of the line protocol."""
    counts = plane.request_counts(NAME)
    return listener_of(
        NAME,
        plane,
        settings,
        guard,
        lambda: LineStream(plane.inference, counts, max_line_bytes=settings.tcp_max_line_bytes),
        refusal=_REFUSAL,
    )
