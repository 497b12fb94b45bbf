"""One connection: carries bytes between a socket and its session, turn by turn."""

from __future__ import annotations

import asyncio
import enum
import fcntl
import logging
import ssl
import struct
import termios
from time import monotonic
from typing import TYPE_CHECKING, Protocol, cast

from datasentinel.serving.connections.addresses import Address
from datasentinel.serving.connections.tls import TlsChannel
from datasentinel.serving.connections.turns import RECEIVING_S_PER_BYTE
from datasentinel.serving.logs import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.serving.connections.session import Session
    from datasentinel.serving.connections.tls import TlsContext
    from datasentinel.serving.connections.turns import Turns

_logger = logging.getLogger(__name__)
_failure_log = RateLimitedLog(_logger, logging.ERROR, "connection_failed")
_tls_log = RateLimitedLog(_logger, logging.INFO, "tls_failed")

# After the last reply the socket is read for a moment more: closing it with unread bytes would reset the
# connection and could take the reply from the peer.
_LINGER_S = 0.5
# Who waits for its turn is read no further than this.
_MAX_INBOX_BYTES = 64 << 10


class Admission(enum.Enum):
    """What becomes of a new connection."""

    ADMITTED = enum.auto()
    RESERVED = enum.auto()  # Over the limit, and let in to ask for health.
    REFUSED = enum.auto()  # Over the limit: refused, then closed.
    CUT_OFF = enum.auto()  # Far over the limit: closed at once, which costs nothing.


class Memory(Protocol):
    """The budget of all connections; where it is spent, their next requests are refused."""

    def hold(self, size_bytes: int) -> None:
        """Charge so many bytes, room or not."""

    def release(self, size_bytes: int) -> None:
        """Return them."""


class Owner(Protocol):
    """Who accepted the connection, and decides about it."""

    name: str
    open_session: Callable[[], Session]
    open_reserved_session: Callable[[], Session] | None
    refusal: bytes
    write_buffer_bytes: int
    memory: Memory | None
    tls_context: TlsContext | None
    turns: Turns

    def enter(self, connection: Connection) -> Admission:
        """Register a new connection and decide whether there is room for it."""

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""


class Connection(asyncio.Protocol):
    """Carries bytes between a socket and its session.

    Parameters
    ----------
    owner : Owner

    Attributes
    ----------
    last_active_s : float
        When something moved last, by the loop's clock.
    receiving_since_s : float or None
        Since when a message is read whose end is missing.
    peer : str
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._turns = owner.turns
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._session: Session | None = None
        self._tls: TlsChannel | None = None
        self._inbox: list[bytes] = []  # Received, and its turn is still to come.
        self._inbox_bytes = 0
        self._write_paused = False
        self._unread_bytes = 0  # Of replies, while writing is paused.
        self._answer_waits = False  # Until writing goes on.
        self._reading_paused = False
        self._ended = False  # The peer has ended its side.
        self._finished = False  # The session knows, and answers are still to come.
        self._closing = False
        self._at_rest = False  # The last turn has left nothing to see to, so the next one may be short.
        self._linger: asyncio.TimerHandle | None = None
        self.used_s = 0.0
        self.waiting = False
        self.last_active_s = self._loop.time()
        self.receiving_since_s: float | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open a session, if there is room for one."""
        owner = self._owner
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=owner.write_buffer_bytes)
        self.peer = _peer_name(self._transport)
        admission = owner.enter(self)
        if admission is Admission.ADMITTED:
            self._session = owner.open_session()
        elif admission is Admission.RESERVED and owner.open_reserved_session is not None:
            self._session = owner.open_reserved_session()
        elif admission is Admission.REFUSED:
            self.refuse()
        else:
            self.abort()
        if self._session is not None:
            self._session.on_wake(self._go_on)
            if owner.tls_context is not None:
                self._tls = TlsChannel(owner.tls_context)
                self.receiving_since_s = self.last_active_s

    def refuse(self) -> None:
        """Refuse for lack of room and close; over TLS, where an answer takes a handshake, close silently."""
        if self._closing:
            return
        if self._owner.tls_context is not None:
            self.abort()
        else:
            self._transport.write(self._owner.refusal)
            self._close()

    def data_received(self, data: bytes) -> None:
        """Run a turn, or keep the bytes for the next one."""
        if self._closing or self._session is None:
            return
        if self._at_rest and self._turns.free and self._tls is None:
            self._take_short_turn(self._session, data)
            return
        self._inbox.append(data)
        self._inbox_bytes += len(data)
        self._turns.ready(self, len(data))
        if self._inbox_bytes > _MAX_INBOX_BYTES:
            self._regulate_reading(self._session)

    def _take_short_turn(self, session: Session, data: bytes) -> None:
        """Run a turn at once. For small messages, checks for rare states would cost measurably."""
        started_s = monotonic()
        try:
            replies, state = session.take_turn(data)
            if state:
                replies = session.attend(replies, state)
        except Exception as error:  # whatever it was, it stays in this connection
            self._fail(error)
            return
        if replies:
            self._transport.write(replies)
        if state == 0:
            self.last_active_s = self._loop.time()
        elif self._settle(session, replied=bool(replies)):
            self._turns.enqueue(self)
        # Nobody waited meanwhile, so it is not held against this connection.
        self._turns.spend(monotonic() - started_s + len(data) * RECEIVING_S_PER_BYTE)

    def _go_on(self) -> None:
        """Take what was answered elsewhere, unless the peer leaves the replies before it unread."""
        if self._write_paused:
            self._answer_waits = True
        else:
            self._wake()

    def _wake(self) -> None:
        if not self._closing and self._session is not None:
            self.last_active_s = self._loop.time()
            self._turns.ready(self)

    def take_turn(self) -> bool:
        """Run the session for about a millisecond; return whether it has more to do."""
        session = self._session
        if self._closing or session is None:
            return False
        inbox = self._inbox
        data = inbox.pop() if len(inbox) == 1 else b"".join(inbox)
        inbox.clear()
        self._inbox_bytes = 0
        if self._tls is not None and data:
            opened = self._open_sealed(self._tls, data)
            if opened is None:
                return False
            data = opened
        try:
            replies = session.feed(data)
        except Exception as error:  # whatever it was, it stays in this connection
            self._fail(error)
            return False
        if replies:
            self._write(replies)
        return self._settle(session, replied=bool(replies))

    def _settle(self, session: Session, *, replied: bool) -> bool:
        """Handle what a turn has left; return whether there is more to do."""
        self._at_rest = session.state == 0 and not (self._reading_paused or self._ended)
        if self._at_rest:
            self.last_active_s = self._loop.time()
            self.receiving_since_s = None
            return False
        if session.progressed:
            self.last_active_s = self._loop.time()
        self._regulate_reading(session)
        if session.unfinished:
            self.receiving_since_s = None  # The time that it takes from now on is ours.
            return not self._write_paused
        if session.closed or (self._finished and session.drained):
            self._close()
        elif self._ended and not (self._finished or session.blocked):
            self._finish(session)
        elif not session.mid_message or session.deferring:
            self.receiving_since_s = None
        elif replied or self.receiving_since_s is None:
            self.receiving_since_s = self.last_active_s
        return False

    def _open_sealed(self, tls: TlsChannel, data: bytes) -> bytes | None:
        """Decrypt received bytes; return None if there is nothing for the session."""
        shaking_hands = not tls.established
        try:
            plain = tls.receive(data)
        except ssl.SSLError as error:
            self._fail_tls(error)
            return None
        self._write_out(tls)
        if shaking_hands and tls.established:
            self.receiving_since_s = None
        self._ended = self._ended or tls.ended
        return plain if plain or tls.ended else None

    def eof_received(self) -> bool:
        """Handle the end of the peer's side; what it asked for is still answered."""
        # Over TLS the stream ends with TLS's own farewell; without it, somebody may have cut a message short.
        if self._closing or self._session is None or self._tls is not None:
            return False
        self._ended = True
        self._at_rest = False
        self._turns.ready(self)
        return True  # Whichever finishes last closes.

    def _finish(self, session: Session) -> None:
        self._finished = True
        try:
            replies = session.finish()
        except Exception as error:
            self._fail(error)
            return
        if replies:
            self._write(replies)
        if session.unfinished:
            self._turns.ready(self)
        elif session.drained or session.closed:
            self._end()

    def _end(self) -> None:
        """Close after a peer that has ended its side: nothing is unread, so there is no need to linger."""
        if self._tls is not None:
            self._close()
        else:
            self._closing = True
            self._transport.close()

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
        """Read no more from a peer that does not read."""
        self._write_paused = True
        self._hold(self._transport.get_write_buffer_size())
        self._at_rest = False
        self.receiving_since_s = None  # It cannot send the rest as long as we do not read.
        if self._session is not None:
            self._regulate_reading(self._session)

    def resume_writing(self) -> None:
        """Go on: the peer reads again."""
        self._write_paused = False
        self._hold(0)
        self.last_active_s = self._loop.time()
        if self._session is None or self._closing:
            return
        self._regulate_reading(self._session)
        if self._session.unfinished or self._inbox or self._answer_waits:
            self._answer_waits = False
            self._turns.ready(self)

    def _hold(self, unread_bytes: int) -> None:
        memory = self._owner.memory
        if memory is not None:
            memory.hold(unread_bytes)
            memory.release(self._unread_bytes)
            self._unread_bytes = unread_bytes

    def _regulate_reading(self, session: Session) -> None:
        """Read only from who reads our replies, and whose bytes we can use."""
        if self._closing or self._transport.is_closing():
            return
        pause = (
            self._write_paused
            or session.unfinished
            or session.blocked
            or self._inbox_bytes > _MAX_INBOX_BYTES
        )
        if pause == self._reading_paused:
            return
        self._reading_paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Release everything that belongs to the connection: nothing can be sent any more."""
        if self._linger is not None:
            self._linger.cancel()
        self._owner.leave(self)
        self._hold(0)
        if self._session is not None:
            self._session.abandon()
        self._session = None

    def close_when_drained(self) -> None:
        """Close if everything that the peer sent has been answered."""
        session = self._session
        if self._closing or session is None:
            return
        session.drain()
        self._wake()
        if self.waiting or self._inbox or not session.drained or self._closing:
            return
        if _unread_bytes(self._transport) == 0:
            self._close()

    def say_last_words(self) -> None:
        """Send the peer a last message before its connection is cut off."""
        if self._session is not None and not self._closing and (words := self._session.last_words()):
            self._write(words)

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
        _failure_log(transport=self._owner.name, peer=self.peer, exception=error)
        self.abort()

    def _fail_tls(self, error: ssl.SSLError) -> None:
        _tls_log(transport=self._owner.name, peer=self.peer, reason=error.reason or error)
        assert self._tls is not None  # noqa: S101
        self._write_out(self._tls)  # The alert gives the peer the reason.
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
