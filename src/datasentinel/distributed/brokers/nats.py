"""NATS with JetStream: streams that keep messages, and consumers that remember what was acknowledged.

Messages come by JetStream's pull requests, of which at most one is under way: the server sends what there is,
and what arrives later, as it arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import deque
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.errors import NotFoundError

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
from datasentinel.errors import BrokerError, RefusedError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

_DEFAULT_PORT = 4222
# How long a pull request stands, and after which silence it was lost.
_PULL_S = 1.0
_PULL_LOST_S = 5.0
_KEY_HEADER = "key"
_ID_HEADER = "Nats-Msg-Id"
# JetStream's codes for a message, or its headers, larger than a stream may keep.
_TOO_LARGE = (10054, 10097)


class NatsSource(Source):
    """A durable pull consumer, shared by all of one group.

    Parameters
    ----------
    url : BrokerUrl
        Its topic is a subject, with wildcards if wanted; its options are `stream`, the name of the JetStream
        stream where it is not to be looked up by the subject, and `ack_wait_s`, after which what was not
        acknowledged is delivered again.
    group : str
        The consumer's durable name.
    """

    def __init__(self, url: BrokerUrl, group: str) -> None:
        url.check_options(("stream", "ack_wait_s"))
        if re.search(r"[\s.*>/\\]", group):
            raise SettingsError(
                f"group '{group}': a consumer of NATS has a name without blanks and any of . * > / \\"
            )
        self._url = url
        self._group = group
        self._ack_wait_s = url.number("ack_wait_s", 30.0, minimum=0.1)
        self._client: Client | None = None
        self._arrived: deque[Msg] = deque()
        self._news = asyncio.Event()  # Something arrived, or no more will until it is asked for.
        self._wanted = 0  # Messages that the server may still send.
        self._pulled = asyncio.Event()  # Set while there are none of them.
        self._pulled.set()
        self._heard_s = 0.0
        self._inbox = ""
        self._pull_subject = ""
        self._stream = ""

    async def open(self) -> None:
        """See `Source.open`."""
        with broker_errors(self._url, NatsError):
            self._client = client = await _connect(self._url, self._begin_anew)
            jetstream = client.jetstream(timeout=REPLY_TIMEOUT_S)
            stream = self._url.options.get("stream") or await _stream_of(jetstream, self._url.topic)
            self._stream = stream
            config = ConsumerConfig(
                durable_name=self._group,
                filter_subject=self._url.topic,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._ack_wait_s,
                max_ack_pending=-1,
            )
            await jetstream.add_consumer(stream, config)
            self._pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{self._group}"
            self._inbox = client.new_inbox()
            await client.subscribe(
                self._inbox, cb=self._receive, pending_msgs_limit=-1, pending_bytes_limit=-1
            )

    async def take(self, most: int) -> list[Message]:
        """See `Source.take`."""
        client, loop = self._connected(), asyncio.get_running_loop()
        with broker_errors(self._url, NatsError):
            if self._wanted and loop.time() - self._heard_s > _PULL_LOST_S:
                self._want(0)
            if len(self._arrived) + self._wanted <= most // 2:
                await self._pull(client, most)
            if not self._arrived:
                self._news.clear()
                try:
                    await asyncio.wait_for(self._news.wait(), TAKE_TIMEOUT_S)
                except TimeoutError:
                    if not client.is_connected:
                        raise BrokerError(f"{self._url}: no connection") from None
        return [_message_of(self._arrived.popleft()) for _ in range(min(most, len(self._arrived)))]

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`."""
        client = self._connected()
        with broker_errors(self._url, NatsError):
            for message in messages:
                await client.publish(message.handle)

    async def lag(self) -> int | None:
        """See `Source.lag`."""
        with broker_errors(self._url, NatsError):
            jetstream = self._connected().jetstream(timeout=REPLY_TIMEOUT_S)
            facts = await jetstream.consumer_info(self._stream, self._group)
        return (facts.num_pending or 0) + (facts.num_ack_pending or 0)

    async def close(self) -> None:
        """See `Source.close`."""
        client = self._client
        if client is not None and client.is_connected:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                # Messages sent to no consumer count as delivered: let it first end what it was asked for.
                await asyncio.wait_for(self._pulled.wait(), 2 * _PULL_S)
                # Others get them at once, and not after the acknowledgement has been waited for in vain.
                for message in self._arrived:
                    await client.publish(message.reply, b"-NAK")
                await client.flush(int(REPLY_TIMEOUT_S))
        await _disconnect(self._client)

    async def _pull(self, client: Client, count: int) -> None:
        request = {"batch": count, "expires": int(_PULL_S * 1e9)}
        await client.publish(self._pull_subject, json.dumps(request).encode(), self._inbox)
        self._want(self._wanted + count)
        self._heard_s = asyncio.get_running_loop().time()

    async def _receive(self, message: Msg) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        if message.reply:
            self._want(self._wanted - 1)
            self._arrived.append(message)
        else:
            # A pull request has ended before all was sent that it asked for.
            left = (message.headers or {}).get("Nats-Pending-Messages", self._wanted)
            self._want(self._wanted - int(left))
        self._news.set()

    def _want(self, count: int) -> None:
        self._wanted = max(0, count)
        (self._pulled.clear if self._wanted else self._pulled.set)()

    async def _begin_anew(self) -> None:
        self._want(0)  # The server has forgotten what a connection had asked for.

    def _connected(self) -> Client:
        if self._client is None:
            raise BrokerError(f"{self._url}: not open")
        return self._client


class NatsSink(Sink):
    """Publishes to a subject that a JetStream stream keeps, which drops repeats by their id.

    Parameters
    ----------
    url : BrokerUrl
        Its topic is a subject; its option is `stream`, as for the source.
    """

    def __init__(self, url: BrokerUrl) -> None:
        url.check_options(("stream", "ack_wait_s"))
        if re.search(r"[\s*>]", url.topic):
            raise SettingsError(f"{url}: messages are published to a subject without blanks and wildcards")
        self._url = url
        self._client: Client | None = None
        self._inbox = ""
        self._round = 0
        self._confirmed: set[int] = set()
        self._refusal: BrokerError | None = None
        self._change = asyncio.Event()

    async def open(self) -> None:
        """See `Sink.open`."""
        with broker_errors(self._url, NatsError):
            self._client = client = await _connect(self._url)
            if "stream" not in self._url.options:
                await _stream_of(client.jetstream(timeout=REPLY_TIMEOUT_S), self._url.topic)
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._receive)

    async def publish(self, records: Sequence[Record]) -> None:
        """See `Sink.publish`."""
        if self._client is None or not self._client.is_connected:
            raise BrokerError(f"{self._url}: no connection")
        told = [
            _clean({_ID_HEADER: record.id, _KEY_HEADER: record.key, **record.headers}) for record in records
        ]
        for record, headers in zip(records, told, strict=True):
            # The server would hang up.
            if (size := len(record.payload) + _size_of(headers)) > self._client.max_payload:
                raise RefusedError(f"{self._url}: {size} bytes; it takes {self._client.max_payload}")
        self._round += 1
        self._confirmed.clear()
        self._refusal = None
        with broker_errors(self._url, NatsError):
            for number, (record, headers) in enumerate(zip(records, told, strict=True)):
                reply = f"{self._inbox}.{self._round}-{number}"
                await self._client.publish(self._url.topic, record.payload, reply, headers)
            while len(self._confirmed) < len(records):
                if self._refusal is not None:
                    raise self._refusal
                self._change.clear()
                await asyncio.wait_for(self._change.wait(), REPLY_TIMEOUT_S)

    async def close(self) -> None:
        """See `Sink.close`."""
        await _disconnect(self._client)

    async def _receive(self, message: Msg) -> None:
        number = message.subject.rpartition(".")[2].split("-")
        if int(number[0]) != self._round:
            return  # Of an attempt that was given up.
        if b'"error"' in message.data or not message.data:
            error = json.loads(message.data).get("error", {}) if message.data else {}
            kind = RefusedError if error.get("err_code") in _TOO_LARGE else BrokerError
            reason = error.get("description", "no JetStream stream keeps the subject")
            self._refusal = kind(f"{self._url}: {reason}")
        else:
            self._confirmed.add(int(number[1]))
        self._change.set()


class _TlsClient(Client):
    """Sends no password to a server that does not begin TLS; nats-py itself would go on in plain text."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and not info.get("tls_required"):
            raise NatsError("the server does not speak TLS")
        await super()._process_info(info, initial_connection)


async def _connect(url: BrokerUrl, on_reconnect: object = None) -> Client:
    """Connect; a connection that is lost later is restored."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    server = f"nats://{host}:{url.port or _DEFAULT_PORT}"
    options: dict[str, Any] = {
        "name": "datasentinel",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.2,
        "ping_interval": 5,
        "reconnected_cb": on_reconnect,
    }
    if url.user and url.password is not None:
        options |= {"user": url.user, "password": url.password}
    elif token := url.user or url.password:
        options["token"] = token
    if url.tls is not None:
        options["tls"] = url.tls.context()
    failure: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def note(error: Exception) -> None:
        """Report the first one; later ones surface at the next call."""
        if not failure.done():
            failure.set_result(error)

    client = Client() if url.tls is None else _TlsClient()
    connecting = asyncio.create_task(client.connect(server, error_cb=note, **options))
    attempts: set[asyncio.Future[Any]] = {connecting, failure}
    try:
        await asyncio.wait(attempts, timeout=REPLY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            reason = failure.result() if failure.done() else f"no answer for {REPLY_TIMEOUT_S:g} s"
            raise BrokerError(f"{url}: no connection: {str(reason) or type(reason).__name__}")
        connecting.result()
    except BaseException:
        try:
            await tasks.end(connecting)
        finally:
            await _disconnect(client)
        raise
    return client


async def _disconnect(client: Client | None) -> None:
    if client is not None:
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            await tasks.within(TAKE_TIMEOUT_S, client.close())


async def _stream_of(jetstream: JetStreamContext, subject: str) -> str:
    """Return the name of the stream that keeps a subject; it is made where there is none."""
    try:
        name: str = await jetstream.find_stream_name_by_subject(subject)
    except NotFoundError:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", subject).strip("_") or "all"
        await jetstream.add_stream(StreamConfig(name=name, subjects=[subject]))
    return name


def _message_of(message: Msg) -> Message:
    # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<...>, or with domain and account before.
    parts = message.reply.split(".")
    stream, deliveries, sequence = (
        (parts[2], parts[4], parts[5]) if len(parts) < 11 else (parts[4], parts[6], parts[7])
    )
    headers = message.headers or {}
    key = headers.get(_KEY_HEADER) or message.subject
    count = int(deliveries)
    return Message(message.data, key, f"{stream}/{sequence}", headers, count > 1, message.reply, count)


def _clean(headers: dict[str, str]) -> dict[str, str]:
    """Return what a line of a header can hold."""
    return {name: " ".join(value.split()) for name, value in headers.items() if value}


def _size_of(headers: dict[str, str]) -> int:
    """Return how many bytes headers have on the wire."""
    lines = sum(len(name.encode()) + len(value.encode()) + len(": \r\n") for name, value in headers.items())
    return len("NATS/1.0\r\n\r\n") + lines
