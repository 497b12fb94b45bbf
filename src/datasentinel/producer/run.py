"""The run loop: pace, pipeline, reconnect, send again."""

from __future__ import annotations

import asyncio
import random
import selectors
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasentinel.errors import InvalidInputError, ServerError
from datasentinel.producer.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datasentinel.producer.replies import Connect, Connection, Reply
    from datasentinel.producer.samples import Sample

_CONNECT_TIMEOUT_S = 5.0
_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 2.0
_STOP_GRACE_S = 1.0


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop whose timers are as fine as the system's.

    epoll, which asyncio prefers, counts in milliseconds and would send every sample up to one millisecond
    after its intended start; select counts in microseconds.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


@dataclass(slots=True)
class _Pending:
    sample: Sample
    start_s: float  # intended with a rate, else the first sending
    sent_s: float  # the last sending


class Producer:
    """Sends samples to one server and sums up the replies.

    Delivery is at least once: a sample whose reply was lost with its connection is sent again on the next
    one, so the server may score it twice. Its first reply is the one counted.

    Parameters
    ----------
    samples : iterator of Sample
        What to send; taken one by one, when it is due.
    connect : callable
        Opens a connection; `clients.connector` makes it.
    rate : float
        Samples per second; 0 sends as fast as the window allows. Sample number i is meant to start i / rate
        seconds after the first connection, and its latency counts from then on, so that the time it waited
        for a slow or absent server is not left out.
    window : int
        Samples in flight at most.
    give_up_s : float
        End the run after so long without a usable server.
    reply_timeout_s : float
        A reply overdue for so long makes the connection count as lost.
    on_reply : callable, optional
        Called with every answered sample and its reply.
    on_note : callable, optional
        Called with one line of text whenever the connection is lost or found again.
    """

    def __init__(
        self,
        samples: Iterator[Sample],
        connect: Connect,
        *,
        rate: float = 0.0,
        window: int = 32,
        give_up_s: float = 30.0,
        reply_timeout_s: float = 10.0,
        on_reply: Callable[[Sample, Reply], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        for name, value, minimum in (("rate", rate, 0), ("window", window, 1), ("give_up_s", give_up_s, 0)):
            if not minimum <= value < float("inf"):
                raise InvalidInputError(f"{name} must be a finite number of at least {minimum}, got {value}")
        if not reply_timeout_s > 0:
            raise InvalidInputError(f"reply_timeout_s must be greater than 0, got {reply_timeout_s}")
        self.summary = Summary()
        self._samples = samples
        self._connect = connect
        self._rate = rate
        self._window = window
        self._give_up_s = give_up_s
        self._reply_timeout_s = reply_timeout_s
        self._report_reply = on_reply
        self._note = on_note or (lambda _: None)

        self._wake = asyncio.Event()
        self._pending: dict[int, _Pending] = {}  # by index, the one sent longest ago first
        self._next: Sample | None = None
        self._started_s: float | None = None
        self._lost: Exception | None = None
        self._away_since_s: float | None = None  # no reply since a connection was lost, or the start
        self._backoff_s = _FIRST_BACKOFF_S
        self._stop_s: float | None = None
        self._connecting: asyncio.Timeout | None = None

    async def run(self) -> Summary:
        """Send until the samples end, `stop` is called or the server stays away.

        Returns
        -------
        Summary
            Its `failure` says why the run ended early; nothing is raised for that.
        """
        self._loop = asyncio.get_running_loop()
        self._away_since_s = self._loop.time()
        self._next = next(self._samples, None)
        try:
            while not self._finished():
                connection = await self._open()
                if connection is None:
                    break
                try:
                    await self._exchange(connection)
                finally:
                    await connection.close()
                if isinstance(self._lost, ServerError):
                    self.summary.failure = str(self._lost)
                    break
        finally:
            self.summary.unanswered = len(self._pending)
            if self._started_s is not None:
                self.summary.elapsed_s = self._loop.time() - self._started_s
        return self.summary

    def stop(self) -> None:
        """End a run in progress: send nothing new, wait a second for replies; called twice, end at once."""
        now = self._loop.time()
        self._stop_s = now + _STOP_GRACE_S if self._stop_s is None else now
        self.summary.interrupted = True
        if self._connecting is not None and not self._connecting.expired():
            self._connecting.reschedule(now)
        self._wake.set()

    def on_reply(self, sample: Sample, reply: Reply) -> None:
        """Count a reply; a connection calls this."""
        pending = self._pending.pop(sample.index, None)
        if pending is None:
            return
        # Only a reply proves that the server is back: one that accepts and hangs up is as good as none.
        self._backoff_s, self._away_since_s = _FIRST_BACKOFF_S, None
        self.summary.add(sample, reply, self._loop.time() - pending.start_s)
        if self._report_reply is not None:
            self._report_reply(sample, reply)
        self._wake.set()

    def on_lost(self, error: Exception) -> None:
        """Note that the connection is unusable; a connection calls this."""
        self._lost = error
        self._wake.set()

    def _finished(self) -> bool:
        if self._stop_s is not None and self._loop.time() >= self._stop_s:
            return True
        return not self._pending and (self._next is None or self._stop_s is not None)

    async def _open(self) -> Connection | None:
        """Connect, trying again until it works, or return None: stopped, or the server stayed away."""
        while self._stop_s is None:
            if self._lost is not None and not await self._back_off(self._lost):
                return None
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S) as self._connecting:
                    connection = await self._connect(self)
            except (OSError, TimeoutError) as error:
                self._lost = error if str(error) else TimeoutError("no answer to the attempt to connect")
                continue
            finally:
                self._connecting = None
            self._connected()
            return connection
        return None

    def _connected(self) -> None:
        if self._started_s is None:
            self._started_s = self._loop.time()
        else:
            self.summary.reconnects += 1
        if self._lost is not None:
            self._note("connected")
        self._lost = None

    async def _back_off(self, error: Exception) -> bool:
        """Wait before the next attempt; False when there is to be none: time to give up, or stopped."""
        if self._away_since_s is None:
            self._away_since_s = self._loop.time()
        away_s = self._loop.time() - self._away_since_s
        if away_s >= self._give_up_s:
            self.summary.failure = f"gave up after {away_s:.1f} s without a server: {error}"
            return False
        # Jitter keeps many producers from all knocking at the same moment.
        delay_s = min(self._backoff_s * random.uniform(0.5, 1.5), self._give_up_s - away_s)  # noqa: S311
        self._backoff_s = min(self._backoff_s * 2, _MAX_BACKOFF_S)
        self._note(f"no connection: {error}; next attempt in {delay_s:.2f} s")
        end_s = self._loop.time() + delay_s
        while self._loop.time() < end_s and self._stop_s is None:
            await self._sleep_until(end_s)
        return self._stop_s is None

    async def _exchange(self, connection: Connection) -> None:
        """Send and receive on one connection until all is done or it is lost."""
        self._send_again(connection)
        while not self._finished():
            if self._lost is not None:
                break
            now = self._loop.time()
            oldest = next(iter(self._pending.values()), None)
            if oldest is not None and now >= oldest.sent_s + self._reply_timeout_s:
                self._lost = TimeoutError(f"no reply for {self._reply_timeout_s:g} s")
                break
            if self._stop_s is None:
                self._send_due(connection, now)
            await self._sleep_until(self._next_event_s())

    def _send_again(self, connection: Connection) -> None:
        if not self._pending:
            return
        now = self._loop.time()
        for pending in self._pending.values():
            pending.sent_s = now
        self.summary.resent += len(self._pending)
        connection.send([pending.sample for pending in self._pending.values()])

    def _send_due(self, connection: Connection, now: float) -> None:
        batch: list[Sample] = []
        while self._next is not None and len(self._pending) + len(batch) < self._window:
            if self._rate and self._intended_s(self._next) > now:
                break
            batch.append(self._next)
            self._next = next(self._samples, None)
        if not batch:
            return
        now = self._loop.time()
        for sample in batch:
            start_s = now
            if self._rate:
                start_s = self._intended_s(sample)
                self.summary.send_delay.add(now - start_s)
            self._pending[sample.index] = _Pending(sample, start_s, now)
        self.summary.sent += len(batch)
        connection.send(batch)

    def _intended_s(self, sample: Sample) -> float:
        assert self._started_s is not None  # noqa: S101
        return self._started_s + sample.index / self._rate

    def _next_event_s(self) -> float:
        """When there is something to do even if nothing arrives."""
        times = []
        if self._pending:
            times.append(next(iter(self._pending.values())).sent_s + self._reply_timeout_s)
        if self._stop_s is not None:
            times.append(self._stop_s)
        elif self._next is not None and self._rate and len(self._pending) < self._window:
            times.append(self._intended_s(self._next))
        return min(times, default=self._loop.time())

    async def _sleep_until(self, when_s: float) -> None:
        """Sleep until then, or until something happens."""
        timer = self._loop.call_at(when_s, self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()
