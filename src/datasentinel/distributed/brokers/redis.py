"""Redis streams: entries that a group of consumers shares, each of which remembers what is pending."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

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
from datasentinel.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEFAULT_PORT = 6379
_PAYLOAD = b"payload"
# Of a field, unless `proto-max-bulk-len` says otherwise; the server would hang up.
_LARGEST_FIELD = 512 << 20


class RedisSource(Source):
    """A consumer of a group.

    Parameters
    ----------
    url : BrokerUrl
        Its topic is a stream, whose entries hold the fields `payload` and, perhaps, `key`; its options are
        `db` and `ack_wait_s`, after which what another consumer took and did not acknowledge is taken over.
    group : str
        The consumer group.
    """

    def __init__(self, url: BrokerUrl, group: str) -> None:
        url.check_options(("db", "ack_wait_s", "maxlen"))
        self._url = url
        self._group = group
        self._ack_wait_ms = int(1000 * url.number("ack_wait_s", 30.0, minimum=0.1))
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{id(self):x}"
        self._client = _client(url)
        self._is_open = False
        self._look_again_s = 0.0
        self._abandoned_from = b"0-0"

    async def open(self) -> None:
        """See `Source.open`."""
        with broker_errors(self._url, RedisError):
            await self._make_group()
        self._is_open = True

    async def take(self, most: int) -> list[Message]:
        """See `Source.take`."""
        with broker_errors(self._url, RedisError):
            try:
                if abandoned := await self._take_over(most):
                    counts = await self._deliveries_of(abandoned)
                    return [self._message_of(*entry, counts.get(entry[0], 2)) for entry in abandoned]
                found: Any = await self._client.xreadgroup(
                    self._group, self._consumer, {self._url.topic: ">"}, most, int(1000 * TAKE_TIMEOUT_S)
                )
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self._make_group()  # Somebody has deleted the stream.
                return []
        entries: list[tuple[bytes, dict[bytes, bytes]]] = found[0][1] if found else []
        return [self._message_of(*entry, deliveries=1) for entry in entries]

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`."""
        with broker_errors(self._url, RedisError):
            await self._client.xack(self._url.topic, self._group, *(message.handle for message in messages))

    async def lag(self) -> int | None:
        """See `Source.lag`; Redis reports it from 7.0 on."""
        with broker_errors(self._url, RedisError):
            groups: Any = await self._client.xinfo_groups(self._url.topic)
        (facts,) = (group for group in groups if group["name"] == self._group.encode())
        waiting = facts.get("lag")
        return None if waiting is None else int(waiting) + int(facts["pending"])

    async def close(self) -> None:
        """See `Source.close`."""
        if self._is_open:
            with contextlib.suppress(RedisError, OSError):
                await self._leave_group()
        await _close(self._client)

    async def _leave_group(self) -> None:
        """Be forgotten, unless something is left behind, which others take over."""
        pending = await self._client.xpending_range(
            self._url.topic, self._group, "-", "+", 1, consumername=self._consumer
        )
        if not pending:
            await self._client.xgroup_delconsumer(self._url.topic, self._group, self._consumer)

    async def _make_group(self) -> None:
        try:
            await self._client.xgroup_create(self._url.topic, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _take_over(self, most: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Look now and then for what others took and did not acknowledge in time."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._look_again_s:
            return []
        following, entries, *_ = await self._client.xautoclaim(
            self._url.topic, self._group, self._consumer, self._ack_wait_ms, self._abandoned_from, count=most
        )
        self._abandoned_from = following
        if following == b"0-0":
            self._look_again_s = now_s + self._ack_wait_ms / 2000
        # A deleted entry has no fields.
        return [(number, fields) for number, fields in entries if fields]

    async def _deliveries_of(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> dict[bytes, int]:
        """Return how often entries that were taken over have been delivered, by their numbers."""
        pending: Any = await self._client.xpending_range(
            self._url.topic, self._group, entries[0][0], entries[-1][0], len(entries), self._consumer
        )
        return {one["message_id"]: int(one["times_delivered"]) for one in pending}

    def _message_of(self, number: bytes, fields: dict[bytes, bytes], deliveries: int) -> Message:
        headers = {_text(name): _text(value) for name, value in fields.items() if name != _PAYLOAD}
        return Message(
            fields.get(_PAYLOAD, b""),
            headers.pop("key", ""),
            f"{self._url.topic}/{number.decode()}",
            headers,
            deliveries > 1,
            number,
            deliveries,
        )


class RedisSink(Sink):
    """Appends to a stream.

    Parameters
    ----------
    url : BrokerUrl
        Its topic is a stream; its options are `db` and `maxlen`, about how many entries are kept (all, unless
        told).
    """

    def __init__(self, url: BrokerUrl) -> None:
        url.check_options(("db", "ack_wait_s", "maxlen"))
        self._url = url
        self._maxlen = url.number("maxlen", 0, minimum=1) or None
        self._client = _client(url)

    async def open(self) -> None:
        """See `Sink.open`."""
        with broker_errors(self._url, RedisError):
            await self._client.ping()

    async def publish(self, records: Sequence[Record]) -> None:
        """See `Sink.publish`."""
        for record in records:
            if (size := len(record.payload)) > _LARGEST_FIELD:
                raise RefusedError(f"{self._url}: {size} bytes; it takes {_LARGEST_FIELD}")
        with broker_errors(self._url, RedisError):
            pipeline = self._client.pipeline(transaction=False)
            for record in records:
                fields: dict[Any, Any] = {**record.headers, "id": record.id, "key": record.key}
                fields["payload"] = record.payload
                pipeline.xadd(self._url.topic, fields, maxlen=self._maxlen, approximate=True)
            await pipeline.execute()

    async def close(self) -> None:
        """See `Sink.close`."""
        await _close(self._client)


def _client(url: BrokerUrl) -> Redis:
    tls: dict[str, Any] = {}
    if url.tls is not None:
        files = (url.tls.ca, url.tls.certificate, url.tls.key or url.tls.certificate)
        names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        tls = {"ssl": True} | {name: str(file) for name, file in zip(names, files, strict=True) if file}
    return Redis(
        host=url.host,
        port=url.port or _DEFAULT_PORT,
        username=url.user or None,
        password=url.password,
        protocol=2,  # Of whose replies this module knows the form.
        db=url.number("db", 0, minimum=0),
        socket_timeout=REPLY_TIMEOUT_S,
        socket_connect_timeout=REPLY_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),  # Whoever asked asks again.
        **tls,
    )


async def _close(client: Redis) -> None:
    with contextlib.suppress(RedisError, OSError):
        await client.aclose()


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
