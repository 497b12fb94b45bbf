"""What a connection speaks, without its socket: bytes in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


# Bits of a native session's state after a turn (`WireSession` in C++).
ATTENTION = 1  # There is something to log, or to attend to in Python.
MID_MESSAGE = 2
CLOSED = 4
UNFINISHED = 8
WAITING = 16
EVENT = 32  # A request is left to Python.
IDLE = 64  # Nothing that the peer asked for has moved.


class Session:
    """One connection's protocol.

    Attributes
    ----------
    take_turn : Callable
        Takes the next bytes, and a turn of about a millisecond; returns what is to be sent, and the bits
        above. Where these, or those of the turn before, are not 0, `attend` is to be called then.
    state : int
        The bits after the last turn; 0, as after most small messages, is for a session that is not closed,
        mid-message, unfinished, blocked, or deferring.
    """

    __slots__ = ("state", "take_turn")

    take_turn: Callable[[bytes], tuple[bytes, int]]
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
        return self.state & IDLE == 0

    @property
    def drained(self) -> bool:
        """Whether everything that was asked is answered."""
        return not (self.mid_message or self.unfinished or self.deferring)

    def feed(self, data: bytes) -> bytes:
        """Feed the next bytes and run a turn; return what is to be sent."""
        out, state = self.take_turn(data)
        return self.attend(out, state) if state or self.state else out

    def attend(self, out: bytes, state: int) -> bytes:
        """Do what a turn has left to Python; return what is to be sent then."""
        self.state = state
        return out

    def finish(self) -> bytes:
        """Handle the end of the stream, once no turn is left to run; return what is still to be sent."""
        raise NotImplementedError

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there is an answer that had to wait; `feed(b"")` then returns it."""

    def drain(self) -> None:
        """Ask the peer, in its protocol, to send no more; called repeatedly until `drained`."""

    def last_words(self) -> bytes:
        """Return the last message to the peer before its connection is cut off."""
        return b""

    def abandon(self) -> None:
        """Release everything: the connection is gone, and nothing can be sent."""
