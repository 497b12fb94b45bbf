"""A listening socket whose connections are sans-IO sessions: bytes in, bytes out.

The listener owns what every stream protocol needs and no session should know: TLS, limits, slow readers, slow
and idle peers, half-closed sockets and draining.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from datasentinel.serving.connections.addresses import Address, listening_socket, resolve
from datasentinel.serving.connections.connection import Admission, Connection
from datasentinel.serving.connections.turns import Turns
from datasentinel.serving.logs import RateLimitedLog, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.serving.accounts import TransportAccount
    from datasentinel.serving.connections.connection import Memory
    from datasentinel.serving.connections.session import Session
    from datasentinel.serving.connections.tls import TlsContext

_logger = logging.getLogger(__name__)

_BACKLOG = 1024
# Connections over the limit that are let in for health checks, which are short.
RESERVED_CONNECTIONS = 16
_DRAIN_POLL_S = 0.01


class Listener:
    """Listens on one address and runs a session on each connection.

    Parameters
    ----------
    name : str
        The transport's name, for messages.
    host, port : str, int
        Where to listen; port 0 picks a free one.
    account : TransportAccount
        Where open connections are counted.
    open_session : callable
        Makes the session of a new connection.
    refusal : bytes
        The answer to a connection over the limit before it is closed; not over TLS, where that would take a
        handshake.
    max_connections : int
    idle_timeout_s : float
        0 waits without a limit.
    write_buffer_bytes : int
        Above so many unsent bytes a connection is not read.
    memory : Memory, optional
        Charged for what is unsent then.
    receive_timeout_s : float
        How long a TLS handshake, or a message that has begun, may take to arrive; 0 waits without a limit.
    tls_context : TlsContext, optional
        Speak TLS.
    reuse_port : bool
        Share the port with other processes that do so, too.
    turns : Turns, optional
        Shares the event loop with the connections of other listeners.
    open_reserved_session : callable, optional
        Makes the session of a connection over the limit, which answers questions for health alone. There are
        a few of them; the oldest makes room for the next one.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        *,
        account: TransportAccount,
        open_session: Callable[[], Session],
        refusal: bytes,
        max_connections: int,
        idle_timeout_s: float,
        write_buffer_bytes: int,
        memory: Memory | None = None,
        receive_timeout_s: float = 0.0,
        tls_context: TlsContext | None = None,
        reuse_port: bool = False,
        turns: Turns | None = None,
        open_reserved_session: Callable[[], Session] | None = None,
    ) -> None:
        self.name = name
        self.turns = turns or Turns()
        self.open_session = open_session
        self.open_reserved_session = open_reserved_session
        self.refusal = refusal
        self._max_connections = max_connections
        self.write_buffer_bytes = write_buffer_bytes
        self.memory = memory
        self._account = account
        self._connections: set[Connection] = set()
        self._admitted: set[Connection] = set()
        self._reserved: dict[Connection, None] = {}  # The oldest first.
        # Who floods the server with connections shall not flood its log, too.
        self._refusal_log = RateLimitedLog(_logger, logging.WARNING, "connection_refused")
        self._timeout_logs = {
            event: RateLimitedLog(_logger, logging.INFO, event)
            for event in ("idle_closed", "slow_sender_closed")
        }
        account.open_connections = 0
        self._host = host
        self._port = port
        self._idle_timeout_s = idle_timeout_s
        self._receive_timeout_s = receive_timeout_s
        self.tls_context = tls_context
        self._reuse_port = reuse_port
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> Address:
        """Listen; return the address bound.

        Raises
        ------
        ServerError
            The address cannot be bound.
        """
        address = resolve(self._host, self._port, self.name)
        sock = listening_socket(address, self.name, _BACKLOG, reuse_port=self._reuse_port)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=sock, backlog=_BACKLOG)
        if self._idle_timeout_s or self._receive_timeout_s:
            self._sweeper = loop.create_task(self._sweep())
        return Address(address.host, sock.getsockname()[1])

    async def stop(self, timeout_s: float) -> None:
        """Stop accepting, answer what has arrived, and close.

        A connection is done when nothing that its peer sent is left to read, in the kernel either, and no
        message is half read. Whatever is left after `timeout_s` is cut off. A second call with a shorter
        time shortens the first.
        """
        if self._server is None:
            return
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        # Connections that the kernel has already accepted come in first: closing would reset them.
        await asyncio.sleep(_DRAIN_POLL_S)
        self._server.close()
        while self._connections and loop.time() < deadline_s:
            for connection in list(self._connections):
                connection.close_when_drained()
            await asyncio.sleep(_DRAIN_POLL_S)
        if self._connections:
            log(
                _logger,
                logging.WARNING,
                "drain_cut_off",
                transport=self.name,
                connections=len(self._connections),
            )
            for connection in list(self._connections):
                connection.say_last_words()
            await asyncio.sleep(_DRAIN_POLL_S)  # The event loop sends them in its next round.
            for connection in list(self._connections):
                connection.abort()
            await asyncio.sleep(_DRAIN_POLL_S)  # The event loop frees the sockets in its next rounds.
        if self._sweeper is not None:
            self._sweeper.cancel()

    def enter(self, connection: Connection) -> Admission:
        """Register a new connection and decide whether there is room for it."""
        self._connections.add(connection)
        if len(self._admitted) < self._max_connections:
            self._admitted.add(connection)
            self._account.open_connections = len(self._admitted)
            return Admission.ADMITTED
        crowded = len(self._connections) > 2 * self._max_connections + len(self._reserved)
        if self.open_reserved_session is None:
            self._count_refusal(connection.peer)
            return Admission.CUT_OFF if crowded else Admission.REFUSED
        if len(self._reserved) == RESERVED_CONNECTIONS:
            oldest = next(iter(self._reserved))
            del self._reserved[oldest]
            self._count_refusal(oldest.peer)
            if crowded:
                oldest.abort()
            else:
                oldest.refuse()
        self._reserved[connection] = None
        return Admission.RESERVED

    def _count_refusal(self, peer: str) -> None:
        self._account.refused_connections += 1
        self._refusal_log(transport=self.name, peer=peer, max_connections=self._max_connections)

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._admitted.discard(connection)
        self._reserved.pop(connection, None)
        self._account.open_connections = len(self._admitted)

    async def _sweep(self) -> None:
        """Periodically close connections that have been idle or slow for too long."""
        loop = asyncio.get_running_loop()
        limits = [limit for limit in (self._idle_timeout_s, self._receive_timeout_s) if limit]
        while True:
            await asyncio.sleep(min(1.0, min(limits) / 4))
            now_s = loop.time()
            for connection in list(self._connections):
                if self._idle_timeout_s and connection.last_active_s < now_s - self._idle_timeout_s:
                    event = "idle_closed"
                elif (
                    self._receive_timeout_s
                    and connection.receiving_since_s is not None
                    and connection.receiving_since_s < now_s - self._receive_timeout_s
                ):
                    event = "slow_sender_closed"
                else:
                    continue
                self._account.timed_out_connections += 1
                self._timeout_logs[event](transport=self.name, peer=connection.peer)
                # Not close(): that would wait for a peer that reads nothing.
                connection.abort()
