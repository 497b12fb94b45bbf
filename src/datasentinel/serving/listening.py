"""The listeners of the server, as its settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasentinel.serving.connections.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.serving.connections.session import Session
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.settings import Settings


def listener_of(
    name: str,
    plane: DataPlane,
    settings: Settings,
    guard: Guard,
    open_session: Callable[[], Session],
    *,
    open_reserved_session: Callable[[], Session] | None = None,
    refusal: bytes = b"",
    alpn: str = "",
    limits: str = "",
) -> Listener:
    """Make the listener of one protocol, as the settings that bear its name say.

    Parameters
    ----------
    name : {"tcp", "grpc", "http", "admin"}
    plane : DataPlane
        Whose turns its connections take, and where they are counted.
    settings : Settings
    guard : Guard
        Who may connect.
    open_session, open_reserved_session : callable
    refusal : bytes
    alpn : str
        What the protocol is called over TLS; empty where it has no name.
    limits : str
        Whose limits it has, where it has none of its own.
    """

    def limit(key: str) -> Any:  # noqa: ANN401  # what the setting is
        return getattr(settings, f"{limits or name}_{key}")

    return Listener(
        name,
        settings.host,
        settings.ports[name],
        account=plane.account(name),
        open_session=open_session,
        open_reserved_session=open_reserved_session,
        refusal=refusal,
        max_connections=limit("max_connections"),
        idle_timeout_s=limit("idle_timeout_s"),
        write_buffer_bytes=settings.write_buffer_bytes,
        memory=plane.inference.native,
        receive_timeout_s=settings.receive_timeout_s,
        tls_context=guard.tls_context(*filter(None, [alpn])),
        reuse_port=settings.workers > 1,
        turns=plane.turns,
    )
