"""Waits for clients of a server that has no timeouts of its own and no way to end a connection.

What it waits for is noted, and a connection is found among this process's open files.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(eq=False)
class Wait:
    """A wait for a client to send something, or to read.

    Attributes
    ----------
    peer : str
        The client, as gRPC calls it: `ipv4:127.0.0.1:40000` or `ipv6:[::1]:40000`, perhaps percent-encoded.
    since_s : float
        Of the monotonic clock.
    is_over : bool
        Whether it took too long, and the connection was ended.
    """

    peer: str
    since_s: float
    is_over: bool = False


class Waits:
    """All waits of a server, of any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: set[Wait] = set()

    @contextmanager
    def wait(self, peer: str) -> Iterator[Wait]:
        """Note that somebody waits for a client within this context."""
        mine = Wait(peer, monotonic())
        with self._lock:
            self._waits.add(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._waits.discard(mine)

    def end_late(self, port: int, timeout_s: float) -> list[Wait]:
        """End the connections to a port of those that have waited for longer, and return these waits."""
        before_s = monotonic() - timeout_s
        with self._lock:
            late = [wait for wait in self._waits if wait.since_s < before_s and not wait.is_over]
            for wait in late:
                wait.is_over = True
            if late:
                hang_up(port, {wait.peer for wait in late})
        return late


def hang_up(port: int, peers: set[str] | None = None) -> None:
    """End the connections to a port of this process: all, or those of clients as gRPC calls them."""
    wanted = None
    if peers is not None:
        wanted = {_address(*unquote(peer).partition(":")[2].rsplit(":", 1)) for peer in peers}
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            sock = socket.socket(fileno=int(descriptor.name))
            try:
                if sock.getsockname()[1:2] == (port,) and (
                    wanted is None or _address(*sock.getpeername()[:2]) in wanted
                ):
                    sock.shutdown(socket.SHUT_RDWR)
            finally:
                sock.detach()  # It is the server's to close.


def _address(host: str, port: str | int) -> tuple[str, int]:
    address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address), int(port)
