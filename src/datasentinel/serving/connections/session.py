"""What a connection speaks, without its socket: bytes in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


# Bits of a native session's state after a turn.
ATTENTION = 1  # There is something to log, or to attend to in Python.
MID_MESSAGE = 2
CLOSED = 4
UNFINISHED = 8
WAITING = 16
EVENT = 32  # A request is left to Python.


class Session:
    """One connection's protocol.

    Attributes
    ----------
    state : int
        The bits above after the last turn; 0, as after most small messages, is for a session that is not
        closed, mid-message, unfinished, blocked, or deferring.
    """

    __slots__ = ("state",)

    state: int

    @property
    def closed(self) -> bool:
        """Whether nothing more will be read."""
        return self.state & CLOSED != 0

    @property
    def mid_message(self) -> bool:
        """Whether the start of a message was read, but not its end."""
        return self.state & MID_MESSAGE != 0

    @property
    def unfinished(self) -> bool:
        """Whether the turn ended before what was taken was answered; `feed(b"")` takes another turn."""
        return self.state & UNFINISHED != 0

    @property
    def blocked(self) -> bool:
        """Whether nothing more shall be read, and no turn helps, until `wake` is called."""
        return self.state & WAITING != 0

    @property
    def deferring(self) -> bool:
        """Whether the peer waits for an answer that comes later, with a `wake`."""
        return self.state & WAITING != 0

    @property
    def progressed(self) -> bool:
        """Whether anything that the peer asked for has moved in the last turn."""
        return True

    @property
    def drained(self) -> bool:
        """Whether everything that was asked is answered."""
        return not (self.mid_message or self.unfinished or self.deferring)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, and a turn of about a millisecond; return what is to be sent."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """Take the end of the stream, once no turn is left to take; return what is still to be sent."""
        raise NotImplementedError

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there is an answer that had to wait; `feed(b"")` then gives it."""

    def drain(self) -> None:
        """Have the peer asked, in its protocol, to send no more; called again and again until `drained`."""

    def last_words(self) -> bytes:
        """Return what the peer is told before its connection is cut off."""
        return b""

    def abandon(self) -> None:
        """Take the end of the connection: nothing can be sent any more."""
