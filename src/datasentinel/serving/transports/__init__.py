"""The transports: each one listens, decodes requests, asks the data plane, and encodes replies."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import NamedTuple, Protocol

from datasentinel.errors import ServerError


class Address(NamedTuple):
    """A numeric IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Transport(Protocol):
    """What the server's lifecycle needs from a transport."""

    name: str

    async def start(self) -> Address:
        """Listen; return the address bound.

        Raises
        ------
        ServerError
            The address cannot be bound.
        """

    async def stop(self, timeout_s: float) -> None:
        """Stop accepting, finish what was accepted within `timeout_s`, and close."""


def resolve(host: str, port: int, transport: str) -> Address:
    """Turn a host name into the one numeric address to listen on.

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
    return Address(str(found[0][4][0]), port)


def listening_socket(
    address: Address, transport: str, backlog: int = 1, *, reuse_port: bool = False
) -> socket.socket:
    """Listen on an address, with `reuse_port` beside other processes that allow it, too.

    Raises
    ------
    ServerError
        The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=backlog, reuse_port=reuse_port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise bind_error(address, transport, reason) from error


def bind_error(address: Address, transport: str, reason: str) -> ServerError:
    """Say that an address cannot be bound, and what to do."""
    return ServerError(
        f"cannot listen for {transport} on {address}: {reason}; choose another port with --{transport}-port "
        f"(0 picks a free one), or leave {transport} out with --no-{transport}"
    )


def is_loopback(address: Address) -> bool:
    """Whether only this machine can connect to the address."""
    return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback
