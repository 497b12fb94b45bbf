"""Where to listen: names to addresses, addresses to sockets."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import NamedTuple

from datasentinel.errors import ServerError

# A peer that vanished without a word is noticed after a minute of silence and three questions.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class Address(NamedTuple):
    """A numeric IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def resolve(host: str, port: int, transport: str) -> Address:
    """Turn a host name into the one numeric address to listen on; one of IPv4, where a name has both.

    Raises
    ------
    ServerError
        The name cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServerError(
            f"cannot listen for {transport}: host '{host}' cannot be resolved: {error}"
        ) from error
    hosts = [str(sockaddr[0]) for _, _, _, _, sockaddr in found]
    return Address(next((host for host in hosts if ":" not in host), hosts[0]), port)


def bound_socket(address: Address, transport: str, *, reuse_port: bool = False) -> socket.socket:
    """Bind an address, with `reuse_port` beside other processes that allow it, too; `::` takes IPv4 as well.

    Raises
    ------
    ServerError
        The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise bind_error(address, transport, _reason(error)) from error
    return sock


def listening_socket(
    address: Address, transport: str, backlog: int = 1, *, reuse_port: bool = False
) -> socket.socket:
    """Listen on an address as `bound_socket` binds it.

    Raises
    ------
    ServerError
        The address cannot be bound.
    """
    sock = bound_socket(address, transport, reuse_port=reuse_port)
    try:
        # What is accepted takes after it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise bind_error(address, transport, _reason(error)) from error
    return sock


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def bind_error(address: Address, transport: str, reason: str) -> ServerError:
    """Return the error for an address that cannot be bound."""
    without = f"--{transport}-port -1" if transport in ("admin", "flight") else f"--no-{transport}"
    return ServerError(
        f"cannot listen for {transport} on {address}: {reason}; choose another port with --{transport}-port "
        f"(0 picks a free one), or leave {transport} out with {without}"
    )


def is_loopback(address: Address) -> bool:
    """Whether only this machine can connect to the address."""
    return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback
