"""RabbitMQ, by AMQP 0.9.1: durable queues, acknowledged by tags of a channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import aio_pika
from aio_pika.exceptions import (
    AMQPError,
    ChannelInvalidStateError,
    ChannelPreconditionFailed,
    DeliveryError,
)

from datasentinel import tasks
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
from datasentinel.errors import BrokerError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEFAULT_PORT, _DEFAULT_TLS_PORT = 5672, 5671
# The broker gives a consumer that hangs up, and its messages to others, after two of them.
_HEARTBEAT_S = 10
_OPTIONS = ("vhost", "prefetch")
# A frame holds 128 KiB, and all headers; the broker would hang up. Ids have a length of one byte.
_MOST_HEADER_BYTES = 125_000
_LONGEST_ID = 255
_ERRORS = (AMQPError, ChannelInvalidStateError, DeliveryError, RuntimeError)


class AmqpSource(Source):
    """A consumer of a queue.

    Parameters
    ----------
    url : BrokerUrl
        Its topic is a queue; its options are `vhost` and `prefetch`, how many messages are sent
        ahead.
    group : str
        Of no effect: all consumers of a queue share it.
    """

    def __init__(self, url: BrokerUrl, group: str) -> None:  # noqa: ARG002 - as every source is made
        url.check_options(_OPTIONS)
        self._url = url
        self._prefetch = url.number("prefetch", 2048, minimum=1)
        self._connection: Any = None
        self._queue: Any = None
        self._channel: Any = None  # That the messages that have arrived came on.
        self._arrived: deque[Any] = deque()
        self._arrival = asyncio.Event()

    async def open(self) -> None:
        """See `Source.open`."""
        with broker_errors(self._url, *_ERRORS):
            self._connection = await _connect(self._url)
            # What a lost connection delivered comes again on the next one.
            self._connection.close_callbacks.add(lambda *_: self._arrived.clear())
            channel = await self._connection.channel()
            await channel.set_qos(prefetch_count=self._prefetch)
            self._queue = await channel.declare_queue(self._url.topic, durable=True)
            await self._queue.consume(self._receive)

    async def take(self, most: int) -> list[Message]:
        """See `Source.take`."""
        if not self._arrived:
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), TAKE_TIMEOUT_S)
            except TimeoutError:
                if not self._connection.connected.is_set():
                    raise BrokerError(f"{self._url}: no connection") from None
        return [_message_of(self._arrived.popleft()) for _ in range(min(most, len(self._arrived)))]

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`; everything before the last one of them has been answered, too."""
        with broker_errors(self._url, *_ERRORS):
            await messages[-1].handle.ack(multiple=True)

    async def lag(self) -> int | None:
        """See `Source.lag`; RabbitMQ reports how many messages it has not sent to a consumer yet."""
        with broker_errors(self._url, *_ERRORS):
            told = await self._queue.declare(timeout=REPLY_TIMEOUT_S)
        return int(told.message_count or 0)

    async def close(self) -> None:
        """See `Source.close`."""
        await _disconnect(self._connection)

    async def _receive(self, message: Any) -> None:  # noqa: ANN401
        try:
            channel = message.channel
        except ChannelInvalidStateError:  # Its connection is lost already.
            return
        if channel is not self._channel:
            # Not when aio-pika tells that a connection is back: it does so after the first messages came,
            # and those that were dropped would be acknowledged with later ones.
            self._arrived.clear()
            self._channel = channel
        self._arrived.append(message)
        self._arrival.set()


class AmqpSink(Sink):
    """Publishes to a queue, with the broker's confirmation of each message.

    Parameters
    ----------
    url : BrokerUrl
        Its topic is a queue; its option is `vhost`.
    """

    def __init__(self, url: BrokerUrl) -> None:
        url.check_options(_OPTIONS)
        self._url = url
        self._connection: Any = None
        self._channel: Any = None

    async def open(self) -> None:
        """See `Sink.open`."""
        with broker_errors(self._url, *_ERRORS):
            self._connection = await _connect(self._url)
            self._channel = await self._connection.channel(publisher_confirms=True)
            await self._channel.declare_queue(self._url.topic, durable=True)

    async def publish(self, records: Sequence[Record]) -> None:
        """See `Sink.publish`."""
        if self._channel is None or not self._connection.connected.is_set():
            raise BrokerError(f"{self._url}: no connection")
        for record in records:
            self._check(record)
        with broker_errors(self._url, *_ERRORS):
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    await asyncio.gather(*map(self._publish, records))
            except ChannelPreconditionFailed as error:
                if "message size" in str(error):
                    raise RefusedError(f"{self._url}: {error}") from error
                raise

    async def close(self) -> None:
        """See `Sink.close`."""
        await _disconnect(self._connection)

    def _check(self, record: Record) -> None:
        headers = {**record.headers, "key": record.key}
        header_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
        if header_bytes > _MOST_HEADER_BYTES:
            raise RefusedError(f"{self._url}: headers of {header_bytes} bytes; a frame holds no more")
        if len(record.id.encode()) > _LONGEST_ID:
            raise RefusedError(f"{self._url}: an id of more than {_LONGEST_ID} bytes")

    async def _publish(self, record: Record) -> None:
        message = aio_pika.Message(
            record.payload,
            headers={**record.headers, "key": record.key},
            message_id=record.id,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._channel.default_exchange.publish(message, self._url.topic)


async def _connect(url: BrokerUrl) -> Any:  # noqa: ANN401
    """Connect; a connection that is lost later is restored."""
    # A lost connection is reported by the call that needs it, and without a traceback.
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    made: list[Any] = []

    def make(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        made.append(aio_pika.RobustConnection(*arguments, **options))
        return made[0]

    try:
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            return await aio_pika.connect_robust(
                host=url.host,
                port=url.port or (_DEFAULT_PORT if url.tls is None else _DEFAULT_TLS_PORT),
                ssl=url.tls is not None,
                ssl_context=None if url.tls is None else url.tls.context(),
                login=url.user or "guest",
                password=url.password or "guest",
                virtualhost=url.options.get("vhost", "/"),
                heartbeat=_HEARTBEAT_S,
                reconnect_interval=0.5,
                fail_fast=True,
                connection_class=make,
            )
    except BaseException:  # One that is given up would go on trying to connect.
        for connection in made:
            await _disconnect(connection)
        raise


async def _disconnect(connection: Any) -> None:  # noqa: ANN401
    if connection is not None:
        with contextlib.suppress(*_ERRORS, OSError):
            await tasks.within(TAKE_TIMEOUT_S, connection.close())


def _message_of(message: Any) -> Message:  # noqa: ANN401
    headers = {name: str(value) for name, value in message.headers.items()}
    key = headers.pop("key", message.routing_key or "")
    if message.message_id:
        headers["id"] = message.message_id
    return Message(message.body, key, "", headers, bool(message.redelivered), message)
