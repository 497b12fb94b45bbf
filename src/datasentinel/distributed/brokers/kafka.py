"""Kafka, through librdkafka: partitions, and the offsets up to which a group has answered.

The client's calls block, and run in threads.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from datasentinel.distributed.brokers.base import (
    REPLY_TIMEOUT_S,
    TAKE_TIMEOUT_S,
    BrokerUrl,
    Message,
    Record,
    Sink,
    Source,
    broker_errors,
)
from datasentinel.errors import BrokerError, RefusedError, SettingsError
from datasentinel.serving import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Result = TypeVar("_Result")

_logger = logging.getLogger(__name__)

_DEFAULT_PORT = 9092
_LOOK_AGAIN_S = 0.2
# What no broker takes however often it is sent.
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)


class KafkaSource(Source):
    """A member of a consumer group.

    Parameters
    ----------
    url : BrokerUrl
        Its options are librdkafka's own, such as `session.timeout.ms` or `security.protocol`.
    group : str
        `group.id`.
    """

    def __init__(self, url: BrokerUrl, group: str) -> None:
        self._url = url
        self._config = _config(url) | {
            "group.id": group,
            "enable.auto.commit": False,
            "allow.auto.create.topics": True,
            "auto.offset.reset": url.options.get("auto.offset.reset", "earliest"),
        }
        self._consumer: Any = None
        self._calls: set[asyncio.Task[Any]] = set()  # Of the client, in threads.

    async def open(self) -> None:
        """See `Source.open`."""
        with broker_errors(self._url, KafkaException):
            self._consumer = Consumer(self._config, logger=_logger)
            await self._call(lambda: _check_topic(self._consumer, self._url))
            self._consumer.subscribe([self._url.topic])

    async def take(self, most: int) -> list[Message]:
        """See `Source.take`."""
        with broker_errors(self._url, KafkaException):
            return await self._call(lambda: self._take(most))

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`; an offset stands for all messages before it."""
        ends: dict[tuple[str, int], int] = {}
        for message in messages:
            topic, partition, offset = message.handle
            ends[topic, partition] = offset + 1
        offsets = [TopicPartition(*place, end) for place, end in ends.items()]
        with broker_errors(self._url, KafkaException):
            await self._call(lambda: self._consumer.commit(offsets=offsets, asynchronous=False))

    async def lag(self) -> int | None:
        """See `Source.lag`; of the partitions that this consumer has."""
        with broker_errors(self._url, KafkaException):
            return await self._call(self._lag)

    async def close(self) -> None:
        """See `Source.close`."""
        if self._calls:  # The client frees what they work on.
            await asyncio.wait(self._calls)
        if self._consumer is not None:
            try:
                await threads.finish(self._consumer.close, "kafka-close")
            except (KafkaException, RuntimeError):
                _logger.debug("the consumer was closed before")

    async def _call(self, call: Callable[[], _Result]) -> _Result:
        """Call the client in a thread; there a call goes on that is cancelled here."""
        calling = asyncio.create_task(threads.finish(call, "kafka"))
        self._calls.add(calling)
        calling.add_done_callback(self._calls.discard)
        return await asyncio.shield(calling)

    def _lag(self) -> int:
        lag = 0
        for place in self._consumer.committed(self._consumer.assignment(), timeout=REPLY_TIMEOUT_S):
            first, end = self._consumer.get_watermark_offsets(place, timeout=REPLY_TIMEOUT_S)
            lag += end - (place.offset if place.offset >= 0 else first)
        return lag

    def _take(self, most: int) -> list[Message]:
        first = self._consumer.poll(TAKE_TIMEOUT_S)
        if first is None:
            return []
        # What the client has fetched already; it does not wait for more.
        delivered = [first, *(self._consumer.consume(most - 1, 0) if most > 1 else [])]
        messages = [_message_of(message) for message in delivered if message.error() is None]
        if not messages:
            raise BrokerError(f"{self._url}: {first.error()}")
        return messages


class KafkaSink(Sink):
    """An idempotent producer: what it sends again, the broker keeps once.

    Parameters
    ----------
    url : BrokerUrl
        Its options are librdkafka's own.
    """

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url
        self._config = _config(url) | {
            "enable.idempotence": True,
            "message.timeout.ms": int(1000 * REPLY_TIMEOUT_S),
        }
        self._producer: Any = None

    async def open(self) -> None:
        """See `Sink.open`."""
        with broker_errors(self._url, KafkaException):
            self._producer = Producer(self._config, logger=_logger)
            await threads.finish(lambda: _check_topic(self._producer, self._url), "kafka")

    async def publish(self, records: Sequence[Record]) -> None:
        """See `Sink.publish`."""
        with broker_errors(self._url, KafkaException):
            await threads.finish(lambda: self._publish(records), "kafka")

    async def close(self) -> None:
        """See `Sink.close`; everything was flushed by `publish`."""
        self._producer = None

    def _publish(self, records: Sequence[Record]) -> None:
        failures: list[Any] = []

        def note(error: Any, _message: object) -> None:  # noqa: ANN401
            if error is not None:
                failures.append(error)

        for record in records:
            headers = [(name, value.encode()) for name, value in {**record.headers, "id": record.id}.items()]
            try:
                self._produce(record, headers, note)
            except KafkaException as error:
                failures.append(error.args[0])
                break
        if self._producer.flush(2 * REPLY_TIMEOUT_S):
            self._producer.purge()
            raise BrokerError(f"{self._url}: not confirmed after {2 * REPLY_TIMEOUT_S:g} s")
        if failures:
            kind = RefusedError if any(failure.code() in _TOO_LARGE for failure in failures) else BrokerError
            raise kind(f"{self._url}: {failures[0]}")

    def _produce(self, record: Record, headers: list[tuple[str, bytes]], note: Any) -> None:  # noqa: ANN401
        while True:
            try:
                self._producer.produce(
                    self._url.topic, record.payload, record.key or None, headers=headers, on_delivery=note
                )
            except BufferError:  # As much is under way as the client holds.
                self._producer.poll(0.1)
            else:
                return


def _config(url: BrokerUrl) -> dict[str, Any]:
    """Return what consumers and producers have in common."""
    for name in url.options:
        if "." not in name:
            raise SettingsError(f"{url}: option '{name}' is none of librdkafka's, all of which have a dot")
    host = f"[{url.host}]" if ":" in url.host else url.host
    config: dict[str, Any] = {"bootstrap.servers": f"{host}:{url.port or _DEFAULT_PORT}"}
    if url.user is not None:
        config |= {"sasl.mechanism": "PLAIN", "sasl.username": url.user, "sasl.password": url.password or ""}
        config["security.protocol"] = "SASL_SSL"
    if url.tls is not None:
        config.setdefault("security.protocol", "SSL")
        files = (url.tls.ca, url.tls.certificate, url.tls.key or url.tls.certificate)
        names = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
        config |= {name: str(file) for name, file in zip(names, files, strict=True) if file}
    return config | dict(url.options)


def _check_topic(client: Any, url: BrokerUrl) -> None:  # noqa: ANN401
    """Wait for the topic; to ask for it makes it where brokers do so by themselves."""
    deadline_s = monotonic() + REPLY_TIMEOUT_S
    while (
        error := client.list_topics(url.topic, timeout=REPLY_TIMEOUT_S).topics[url.topic].error
    ) is not None:
        if monotonic() > deadline_s:
            raise BrokerError(f"{url}: {error}")
        sleep(_LOOK_AGAIN_S)


def _message_of(message: Any) -> Message:  # noqa: ANN401
    place = message.topic(), message.partition(), message.offset()
    headers = {name: (value or b"").decode(errors="replace") for name, value in message.headers() or ()}
    key = (message.key() or b"").decode(errors="replace")
    return Message(message.value() or b"", key, "/".join(map(str, place)), headers, False, place)
