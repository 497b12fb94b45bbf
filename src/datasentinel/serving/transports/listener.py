"""A listening socket whose connections are sans-IO sessions: bytes in, bytes out.

The listener owns what every stream protocol needs and no session should know: TLS, limits, slow readers, slow
and idle peers, half-closed sockets and draining.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import logging
import ssl
import struct
import termios
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from datasentinel.serving.logs import RateLimitedLog, log
from datasentinel.serving.tls import TlsChannel
from datasentinel.serving.transports import Address, listening_socket, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.serving.data_plane import TransportAccount

_logger = logging.getLogger(__name__)

_BACKLOG = 1024
_DRAIN_POLL_S = 0.01
# After the last reply the socket is read for a moment more: closing it with unread bytes would reset the
# connection and could take the reply from the peer.
_LINGER_S = 0.5


class Session(Protocol):
    """One connection's protocol, without the socket."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; give what is to be sent."""

    def finish(self) -> bytes:
        """Take the end of the stream; give what is still to be sent."""

    @property
    def closed(self) -> bool:
        """Whether nothing more will be read."""

    @property
    def mid_message(self) -> bool:
        """Whether the start of a message was read, but not its end."""


@runtime_checkable
class DeferringSession(Session, Protocol):
    """A session some of whose answers come later than the bytes they answer."""

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` when such an answer is there; `feed(b"")` then gives it."""

    @property
    def deferring(self) -> bool:
        """Whether the peer waits for such an answer."""


@runtime_checkable
class DrainingSession(DeferringSession, Protocol):
    """A session that takes part in the end of its connection."""

    def drain(self) -> None:
        """Have the peer asked, in its protocol, to send no more; called again and again until `drained`."""

    def abandon(self) -> None:
        """Take the end of the connection: nothing can be sent any more."""

    @property
    def drained(self) -> bool:
        """Whether everything that was asked is answered."""


class Admission(enum.Enum):
    """What becomes of a new connection."""

    ADMITTED = enum.auto()
    REFUSED = enum.auto()  # Over the limit: told so, then closed.
    CUT_OFF = enum.auto()  # Far over the limit: closed at once, which costs nothing.


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
        What a connection over the limit is told before it is closed; not over TLS, where that would take a
        handshake.
    max_connections : int
    idle_timeout_s : float
        0 waits for ever.
    write_buffer_bytes : int
        Above so many unsent bytes a connection is not read.
    receive_timeout_s : float
        How long a TLS handshake, or a message that has begun, may take to arrive; 0 waits for ever.
    tls_context : ssl.SSLContext, optional
        Speak TLS.
    reuse_port : bool
        Share the port with other processes that do so, too.
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
        receive_timeout_s: float = 0.0,
        tls_context: ssl.SSLContext | None = None,
        reuse_port: bool = False,
    ) -> None:
        self.name = name
        self.open_session = open_session
        self.refusal = refusal
        self._max_connections = max_connections
        self.write_buffer_bytes = write_buffer_bytes
        self._account = account
        self._connections: set[_Connection] = set()
        self._open_count = 0
        # Who floods the server with connections shall not flood its log, too.
        self._refusal_log = RateLimitedLog(_logger, logging.WARNING, "connection_refused")
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
        self._server = await loop.create_server(lambda: _Connection(self), sock=sock, backlog=_BACKLOG)
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
                connection.abort()
            await asyncio.sleep(_DRAIN_POLL_S)  # The event loop frees the sockets in its next rounds.
        if self._sweeper is not None:
            self._sweeper.cancel()

    def enter(self, connection: _Connection) -> Admission:
        """Register a new connection and decide whether there is room for it."""
        self._connections.add(connection)
        if self._open_count < self._max_connections:
            self._count(+1)
            return Admission.ADMITTED
        self._account.refused_connections += 1
        self._refusal_log(transport=self.name, peer=connection.peer, max_connections=self._max_connections)
        crowded = len(self._connections) > 2 * self._max_connections
        return Admission.CUT_OFF if crowded or self.tls_context else Admission.REFUSED

    def leave(self, connection: _Connection, *, admitted: bool) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if admitted:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._open_count += change
        self._account.open_connections = self._open_count

    async def _sweep(self) -> None:
        """Cut off, again and again, who has been idle or slow for too long."""
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
                log(_logger, logging.INFO, event, transport=self.name, peer=connection.peer)
                # Not close(): that would wait for a peer that reads nothing.
                connection.abort()


class _Connection(asyncio.Protocol):
    """Carries bytes between a socket and its session."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._session: Session | None = None
        self._draining: DrainingSession | None = None  # The session, if it is one.
        self._tls: TlsChannel | None = None
        self._ended = False  # The peer has ended its side; answers are still to come.
        self._closing = False
        self._linger: asyncio.TimerHandle | None = None
        self.last_active_s = self._loop.time()
        self.receiving_since_s: float | None = None  # Since when a message is read whose end is missing.
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        listener = self._listener
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=listener.write_buffer_bytes)
        self.peer = _peer_name(self._transport)
        admission = listener.enter(self)
        if admission is Admission.ADMITTED:
            self._session = listener.open_session()
            if isinstance(self._session, DeferringSession):
                self._session.on_wake(self._wake)
            if isinstance(self._session, DrainingSession):
                self._draining = self._session
            if listener.tls_context is not None:
                self._tls = TlsChannel(listener.tls_context)
                self.receiving_since_s = self.last_active_s
        elif admission is Admission.REFUSED:
            self._transport.write(listener.refusal)
            self._close()
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._session is None:
            return
        self.last_active_s = self._loop.time()
        if self._tls is None:
            self._take(self._session, data)
            return
        shaking_hands = not self._tls.established
        try:
            plain = self._tls.receive(data)
        except ssl.SSLError as error:
            self._fail_tls(error)
            return
        self._write_out(self._tls)
        if shaking_hands and self._tls.established:
            self.receiving_since_s = None
        if plain:
            self._take(self._session, plain)
        if self._tls.ended and not self._closing:
            self._finish(self._session)

    def _wake(self) -> None:
        if not self._closing and self._session is not None:
            self.last_active_s = self._loop.time()
            self._take(self._session, b"")

    def _take(self, session: Session, data: bytes) -> None:
        try:
            replies = session.feed(data)
        except Exception as error:  # whatever it was, it stays in this connection
            self._fail(error)
            return
        if replies:
            self._write(replies)
        if session.closed or (self._ended and self._draining is not None and self._draining.drained):
            self._close()
        elif not session.mid_message or (isinstance(session, DeferringSession) and session.deferring):
            self.receiving_since_s = None
        elif replies or self.receiving_since_s is None:
            self.receiving_since_s = self.last_active_s

    def eof_received(self) -> bool:
        # Over TLS the stream ends with TLS's own farewell; without it, somebody may have cut a message short.
        if not self._closing and self._session is not None and self._tls is None:
            self._finish(self._session)
        return self._ended  # If not, the transport closes once everything is written.

    def _finish(self, session: Session) -> None:
        try:
            replies = session.finish()
        except Exception as error:
            self._fail(error)
            return
        if replies:
            self._write(replies)
        if self._draining is not None and not self._draining.drained:
            self._ended = True
            return
        if self._tls is not None:
            self._close()
        self._closing = True

    def _write(self, replies: bytes) -> None:
        if self._tls is None:
            self._transport.write(replies)
        else:
            self._tls.send(replies)
            self._write_out(self._tls)

    def _write_out(self, tls: TlsChannel) -> None:
        if sealed := tls.outgoing():
            self._transport.write(sealed)

    def pause_writing(self) -> None:
        if not self._closing:
            self._transport.pause_reading()
            self.receiving_since_s = None  # It cannot send the rest as long as we do not read.

    def resume_writing(self) -> None:
        self.last_active_s = self._loop.time()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._linger is not None:
            self._linger.cancel()
        self._listener.leave(self, admitted=self._session is not None)
        if self._draining is not None:
            self._draining.abandon()
        self._session = self._draining = None

    def close_when_drained(self) -> None:
        """Close if everything that the peer sent has been answered."""
        if self._closing or self._session is None:
            return
        if self._draining is not None:
            self._draining.drain()
            self._wake()
        elif self._session.mid_message:
            return
        if self._draining is not None and not self._draining.drained:
            return
        if _unread_bytes(self._transport) == 0:
            self._close()

    def abort(self) -> None:
        """Close at once, without sending what is left."""
        self._closing = True
        self._transport.abort()

    def _close(self) -> None:
        """Send what is left and end the stream; then wait a moment for the peer to end it too."""
        if self._closing:
            return
        self._closing = True
        if self._tls is not None:
            self._tls.end()
            self._write_out(self._tls)
        self._transport.write_eof()
        self._transport.resume_reading()
        self._linger = self._loop.call_later(_LINGER_S, self._transport.close)

    def _fail(self, error: Exception) -> None:
        log(
            _logger,
            logging.ERROR,
            "connection_failed",
            transport=self._listener.name,
            peer=self.peer,
            exception=error,
        )
        self.abort()

    def _fail_tls(self, error: ssl.SSLError) -> None:
        log(
            _logger,
            logging.INFO,
            "tls_failed",
            transport=self._listener.name,
            peer=self.peer,
            reason=error.reason or error,
        )
        assert self._tls is not None  # noqa: S101
        self._write_out(self._tls)  # The alert tells the peer why.
        self._close()


def _peer_name(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    return str(Address(*name[:2])) if name else "unknown"


def _unread_bytes(transport: asyncio.Transport) -> int:
    """Bytes that the kernel received and we have not read."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0
    (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))
    return int(count)
