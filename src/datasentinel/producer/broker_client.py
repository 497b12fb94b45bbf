"""Connections through a message broker: samples go to one topic, what comes of them is read from others."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from datasentinel import tasks
from datasentinel.distributed.brokers import open_sink, open_source
from datasentinel.distributed.brokers.base import BrokerUrl, Record, close
from datasentinel.errors import BrokerError
from datasentinel.producer.replies import ANOMALY, ERROR, NOT_A_NUMBER_WORD, OK, WARMING, Connection, Reply
from datasentinel.producer.samples import Fault

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from datasentinel.distributed.brokers.base import Message, Sink, Source
    from datasentinel.producer.replies import Connect, Listener
    from datasentinel.producer.samples import Sample

BROKER_FAULTS = (Fault.WRONG_COUNT, Fault.NOT_A_NUMBER, Fault.NAN)
_MOST_AT_ONCE = 1000
# How long an MQTT broker keeps results for a producer that has left, unless its URL says otherwise.
_SESSION_EXPIRY_S = "60"


@dataclass(frozen=True)
class Topics:
    """Where samples go, and where what comes of them is read.

    Attributes
    ----------
    samples, results, dead_letters : BrokerUrl
        The `--from`, `--to` and `--dead-letters` of `datasentinel stream`.
    group : str
        Who reads the results: producers of one group share them, so those that run at once need one each.
    """

    samples: BrokerUrl
    results: BrokerUrl
    dead_letters: BrokerUrl
    group: str = "datasentinel-produce"


@dataclass(frozen=True)
class Payloads:
    """How samples are written.

    Attributes
    ----------
    names : tuple of str
        The features, for JSON objects; without them samples are arrays.
    time : str or None
        The member that says when a sample was sent, for objects.
    """

    names: tuple[str, ...] = ()
    time: str | None = None

    def encode(self, sample: Sample) -> bytes:
        """Write a sample as JSON, each value as the shortest decimal that reads back as the same float32."""
        values: list[float | str] = [float(str(value)) for value in sample.values]
        if sample.fault is Fault.NOT_A_NUMBER:
            values = [NOT_A_NUMBER_WORD if value != value else value for value in values]  # noqa: PLR0124
        if not self.names:
            return json.dumps(values).encode()
        # What an object has too many is passed over, so that one whose count is wrong has too few.
        names = self.names[:-1] if sample.fault is Fault.WRONG_COUNT else self.names
        told: dict[str, float | str] = dict(zip(names, values, strict=False))
        if self.time is not None:
            told = {self.time: datetime.now(UTC).isoformat(), **told}
        return json.dumps(told).encode()


def broker_connector(topics: Topics, payloads: Payloads) -> Connect:
    """Make the function that opens connections through a broker.

    Raises
    ------
    SettingsError
        An option of a URL is wrong.
    MissingDependencyError
        The broker's client is not installed.
    """
    open_sink(topics.samples)  # Finds what is wrong with the settings before anything is sent.
    run = secrets.token_hex(4)

    async def connect(listener: Listener) -> Connection:
        sink = open_sink(topics.samples)
        sources = [
            open_source(_soon_forgotten(url), topics.group) for url in (topics.results, topics.dead_letters)
        ]
        ends: list[Source | Sink] = [*sources, sink]  # Nothing is sent before what comes of it can be read.
        try:
            for end in ends:
                await end.open()
        except BaseException:
            await close(*ends)
            raise
        return BrokerConnection(sink, sources, payloads, run, listener)

    return connect


def _soon_forgotten(url: BrokerUrl) -> BrokerUrl:
    if url.scheme != "mqtt":
        return url
    return replace(url, options={"session_expiry_s": _SESSION_EXPIRY_S, **url.options})


class BrokerConnection(Connection):
    """Publishes samples, and recognises a sample's reply by the id that its result or dead letter has."""

    def __init__(
        self, sink: Sink, sources: Sequence[Source], payloads: Payloads, run: str, listener: Listener
    ) -> None:
        self._ends: list[Source | Sink] = [sink, *sources]
        self._sink = sink
        self._payloads = payloads
        self._run = run
        self._listener: Listener | None = listener
        self._waiting: list[Sample] = []
        self._in_flight: dict[str, Sample] = {}
        self._news = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._guard(work)) for work in (self._publish(), *map(self._read, sources))
        ]

    def send(self, samples: Iterable[Sample]) -> None:
        """Have the samples published together, after those before them."""
        self._waiting.extend(samples)
        self._news.set()

    async def close(self) -> None:
        """Read no more, and disconnect."""
        self._listener = None
        await tasks.end(*self._tasks)
        await close(*self._ends)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except BrokerError as error:
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.on_lost(error)

    async def _publish(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            samples, self._waiting = self._waiting, []
            records = [self._record_of(sample) for sample in samples]
            self._in_flight |= {record.id: sample for record, sample in zip(records, samples, strict=True)}
            await self._sink.publish(records)

    async def _read(self, source: Source) -> None:
        while self._listener is not None:  # redis-py may swallow that it is cancelled.
            if messages := await source.take(_MOST_AT_ONCE):
                for message in messages:
                    self._note(message)
                await source.acknowledge(messages)

    def _record_of(self, sample: Sample) -> Record:
        name = f"{self._run}-{sample.index}"
        return Record(self._payloads.encode(sample), sample.stream, name, {"id": name})

    def _note(self, message: Message) -> None:
        name, reply = _reply_of(message)
        sample = self._in_flight.pop(name, None)
        if sample is not None and self._listener is not None:
            self._listener.on_reply(sample, reply)


def _reply_of(message: Message) -> tuple[str, Reply]:
    """Return what a result or a dead letter says, and of which message."""
    if "reason" in message.headers:
        return message.headers.get("id", ""), Reply(ERROR, message.headers["reason"])
    try:
        told = json.loads(message.payload)
        status = WARMING if told.get("warming") else ANOMALY if told["anomaly"] else OK
        return str(told["id"]), Reply(status, score=float(told["score"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "", Reply(ERROR, "is no result")  # Whosever it is.
