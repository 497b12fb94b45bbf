"""From a broker to a broker: take what is there, answer it, publish, and only then acknowledge."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from datasentinel import tasks
from datasentinel.distributed.brokers import open_sink, open_source
from datasentinel.distributed.brokers.base import close
from datasentinel.distributed.stream.answers import Answerer, Answers, bare, dead_letter, identity_of
from datasentinel.distributed.stream.payloads import PayloadOptions
from datasentinel.errors import DataSentinelError, RefusedError
from datasentinel.serving.logs import RateLimitedLog, log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from prometheus_client import Metric

    from datasentinel.distributed.brokers.base import BrokerUrl, Message, Record, Sink
    from datasentinel.serving.control.metrics import Metrics
    from datasentinel.serving.data_plane import DataPlane

_Result = TypeVar("_Result")

_logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_UNREADABLE = "invalid_argument"
_LAG_INTERVAL_S = 5.0
# What has been delivered more often may have killed its consumers.
_CALM_DELIVERIES = 3
# The share of a batch's bytes that a message is taken to have before one was seen.
_FIRST_SHARE = 1 / 64


@dataclass(frozen=True)
class StreamOptions:
    """Where messages come from and go, and how they are read.

    Attributes
    ----------
    source, sink, dead_letters : BrokerUrl
        Where samples come from, results go, and messages go that cannot be scored.
    group : str
        Consumers of one group share the messages.
    max_batch : int
        Most messages that are scored at once.
    num_reasons : int
        How many reasons a result has for each row; 0 for none.
    payload : PayloadOptions
    max_batch_bytes : int
        About so many bytes of payloads are taken at once, by the sizes of those before.
    max_deliveries : int
        A message that was delivered more often becomes a dead letter, where the broker counts; 0 for never.
    """

    source: BrokerUrl
    sink: BrokerUrl
    dead_letters: BrokerUrl
    group: str = "datasentinel"
    max_batch: int = 1024
    num_reasons: int = 0
    payload: PayloadOptions = field(default_factory=PayloadOptions)
    max_batch_bytes: int = 64 << 20
    max_deliveries: int = 10


class Consumer(Collector):
    """Answers the messages of a broker by the model that is served; one of a server's transports.

    A message is acknowledged when its result, or its dead letter, is confirmed by the broker it went to: so
    every message is answered at least once. While one batch is answered the next one comes, and no more: what
    waits, waits at the broker. A broker that is gone is asked again until it is there.

    Parameters
    ----------
    plane : DataPlane
        Whose default model answers.
    metrics : Metrics
        Where the consumer registers its own.
    options : StreamOptions

    Attributes
    ----------
    name : str
        The source's scheme, which labels its metrics.
    """

    def __init__(self, plane: DataPlane, metrics: Metrics, options: StreamOptions) -> None:
        self._plane = plane
        metrics.register(self)
        self._options = options
        self.name = options.source.scheme
        self._account = plane.account(self.name)
        self._answerer = Answerer(options.payload, options.num_reasons)
        self._source = open_source(options.source, options.group)
        self._sink = open_sink(options.sink)
        self._dead_letters = open_sink(options.dead_letters)
        # Nothing is taken before there is a place for what comes of it.
        self._ends = (self._sink, self._dead_letters, self._source)
        self._consuming: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._measuring: asyncio.Task[None] | None = None
        self._repeats = self._retries = 0
        self._lag: int | None = None
        self._message_bytes = options.max_batch_bytes * _FIRST_SHARE
        self._failure_log = RateLimitedLog(_logger, logging.WARNING, "broker_failed")
        self._refusal_log = RateLimitedLog(_logger, logging.ERROR, "dead_letter_refused")
        self._dead_letter_log = RateLimitedLog(_logger, logging.WARNING, "dead_letter")

    async def start(self) -> BrokerUrl:
        """Connect, and consume from now on.

        Returns
        -------
        BrokerUrl
            The source.

        Raises
        ------
        BrokerError
            A broker cannot be reached, or refuses.
        SettingsError, UnsupportedModelError
            The model does not fit the options.
        """
        self._answerer.prepare(self._plane.served.find())
        try:
            for end in self._ends:
                await end.open()
        except BaseException:
            await close(*self._ends)
            raise
        self._consuming = asyncio.create_task(self._consume())
        self._consuming.add_done_callback(_end_after_fault)
        self._measuring = asyncio.create_task(self._measure_lag())
        return self._options.source

    async def stop(self, timeout_s: float) -> None:
        """Take no more, answer what was taken, and disconnect; what is left after `timeout_s` stays."""
        self._stopping.set()
        if self._measuring is not None:
            await tasks.end(self._measuring)
        if self._consuming is not None:
            await asyncio.wait({self._consuming}, timeout=timeout_s)
            await tasks.end(self._consuming)
        await close(*self._ends)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics that only a consumer has."""
        yield CounterMetricFamily(
            "datasentinel_stream_repeats", "Messages that the broker delivered again.", value=self._repeats
        )
        yield CounterMetricFamily(
            "datasentinel_stream_retries",
            "Failures of a broker after which it was asked again.",
            value=self._retries,
        )
        if self._lag is not None:
            yield GaugeMetricFamily(
                "datasentinel_stream_lag",
                "Messages that the broker keeps for the group and that are not acknowledged.",
                value=self._lag,
            )

    async def _consume(self) -> None:
        taking = self._start_taking()
        try:
            while True:
                messages = await taking
                stopping = self._stopping.is_set()
                if not stopping:
                    taking = self._start_taking()
                if messages:
                    await self._answer(messages)
                if stopping:
                    return
        finally:
            await tasks.end(taking)

    def _start_taking(self) -> asyncio.Task[list[Message]]:
        take = self._source.take
        most = max(1, min(self._options.max_batch, int(self._options.max_batch_bytes / self._message_bytes)))
        return asyncio.create_task(self._until_done("take", lambda: take(most), list))

    async def _answer(self, messages: list[Message]) -> None:
        largest = max(len(message.payload) for message in messages)
        self._message_bytes = max(1, largest, self._message_bytes / 2)
        self._repeats += sum(message.is_repeat for message in messages)
        most_calm = min(_CALM_DELIVERIES, self._options.max_deliveries or _CALM_DELIVERIES)
        calm = [message for message in messages if message.deliveries <= most_calm]
        if calm:
            await self._answer_together(calm)
        # One of the others may kill this process: each is answered by itself, so that it takes no other
        # along, and in another order each time, so that those behind it have their turn.
        others = [message for message in messages if message.deliveries > most_calm]
        for message in random.sample(others, len(others)):
            await self._answer_together([message])

    async def _answer_together(self, messages: list[Message]) -> None:
        began_s = perf_counter()
        if self._is_given_up(messages[0]):
            answers = Answers(dead_letters=[dead_letter(messages[0], _given_up_reason(messages[0]))])
        else:
            answers = await self._until_done("score", lambda: self._score(messages))
        if refused := await self._publish(self._sink, answers.results):
            by_id = {identity_of(message): message for message in messages}
            answers.dead_letters += [
                dead_letter(by_id[record.id], f"its result is refused: {reason}")
                for record, reason in refused
            ]
        for letter, reason in await self._publish(self._dead_letters, answers.dead_letters):
            lost = await self._publish(self._dead_letters, [bare(letter)])
            self._refusal_log(
                position=letter.headers["source-position"],
                reason=reason,
                published="nothing" if lost else "without payload and headers",
            )
        try:
            await self._source.acknowledge(messages)
        except Exception as error:  # whatever it was, they come again
            self._note_failure("acknowledge", error)
        self._count(answers, len(messages), perf_counter() - began_s)

    def _is_given_up(self, message: Message) -> bool:
        most = self._options.max_deliveries
        return 0 < most < message.deliveries

    async def _measure_lag(self) -> None:
        """Ask the broker now and then how much waits; while it does not say, nothing is reported."""
        while True:
            try:
                self._lag = await self._source.lag()
            except Exception as error:  # a figure is no reason to stop
                self._lag = None
                log(_logger, logging.DEBUG, "lag_unknown", reason=error)
            await asyncio.sleep(_LAG_INTERVAL_S)

    async def _score(self, messages: Sequence[Message]) -> Answers:
        served = self._plane.served
        model = served.find()
        shadow = served.shadows.get(model.name)
        warming = shadow.new if shadow is not None and shadow.old is model else None
        return await asyncio.to_thread(self._answerer.answer, model, messages, warming)

    async def _publish(self, sink: Sink, records: list[Record]) -> list[tuple[Record, str]]:
        """Publish, and return what the broker will never take, with its reasons."""
        if not records:
            return []
        try:
            await self._until_done("publish", lambda: sink.publish(records))
        except RefusedError as error:
            if len(records) == 1:
                return [(records[0], str(error))]
            middle = len(records) // 2
            first = await self._publish(sink, records[:middle])
            return first + await self._publish(sink, records[middle:])
        return []

    async def _until_done(
        self,
        action: str,
        attempt: Callable[[], Awaitable[_Result]],
        otherwise: Callable[[], _Result] | None = None,
    ) -> _Result:
        """Do something again and again until it succeeds; a consumer that stops settles for `otherwise`.

        Raises
        ------
        RefusedError
            It will never succeed.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await attempt()
            except RefusedError:
                raise
            except Exception as error:  # whatever it was, the messages are still to be answered
                self._note_failure(action, error)
            if self._stopping.is_set() and otherwise is not None:
                return otherwise()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _note_failure(self, action: str, error: Exception) -> None:
        self._retries += 1
        is_ours = not isinstance(error, DataSentinelError)
        self._failure_log(action=action, reason=error, **({"exception": error} if is_ours else {}))

    def _count(self, answers: Answers, messages: int, duration_s: float) -> None:
        for letter in answers.dead_letters:
            self._dead_letter_log(position=letter.headers["source-position"], reason=letter.headers["reason"])
        self._account.add(
            messages,
            answers.rows,
            answers.anomalies,
            duration_s,
            errors=len(answers.dead_letters),
            code=_UNREADABLE,
        )
        log(_logger, logging.DEBUG, "answered", messages=messages, rows=answers.rows, duration_s=duration_s)


def _given_up_reason(message: Message) -> str:
    return f"was delivered {message.deliveries} times and never answered: it may have killed its consumers"


def _end_after_fault(consuming: asyncio.Task[None]) -> None:
    """End a server that would look alive and answer nothing, so that it is restarted."""
    if not consuming.cancelled() and (error := consuming.exception()) is not None:
        log(_logger, logging.CRITICAL, "consumer_failed", exception=error)
        signal.raise_signal(signal.SIGTERM)
