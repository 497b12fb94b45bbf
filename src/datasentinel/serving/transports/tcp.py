"""The TCP line protocol: everything received goes to one native call, its replies into one write."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from datasentinel.serving.transports.listener import Listener

if TYPE_CHECKING:
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.settings import Settings

NAME = "tcp"
_REFUSAL = b"ERROR: too many connections, try again later\n"


def tcp_transport(plane: DataPlane, settings: Settings, guard: Guard) -> Listener:
    """Make the transport of the line protocol."""
    account = plane.account(NAME)
    return Listener(
        NAME,
        settings.host,
        settings.tcp_port,
        account=account,
        open_session=partial(plane.line_stream, account, max_line_bytes=settings.tcp_max_line_bytes),
        refusal=_REFUSAL,
        max_connections=settings.tcp_max_connections,
        idle_timeout_s=settings.tcp_idle_timeout_s,
        write_buffer_bytes=settings.write_buffer_bytes,
        receive_timeout_s=settings.receive_timeout_s,
        tls_context=guard.tls_context(),
        reuse_port=settings.workers > 1,
        turns=plane.turns,
    )
