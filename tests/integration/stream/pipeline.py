"""A stream from end to end: what is published, the consumer under test, and what comes out."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from datasentinel.distributed.brokers import open_sink, open_source
from datasentinel.distributed.brokers.base import BrokerUrl, Record
from datasentinel.distributed.stream.consumer import Consumer, StreamOptions
from datasentinel.errors import BrokerError
from datasentinel.serving.server import Server
from datasentinel.serving.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from datasentinel.distributed.brokers.base import Message
    from tests.integration.stream.brokers import Broker

TIMEOUT_S = 120.0


class Pipeline:
    """The topics of one test: samples in, results and dead letters out; consumers are told apart by number."""

    def __init__(self, broker: Broker, topic: str, *, members: int = 1, **options: object) -> None:
        self.members = [
            broker.url(f"{topic}-in", **options, **broker.member(f"{topic}-{number}"))
            for number in range(members)
        ]
        self.source = self.members[0]
        self.sink = broker.url(f"{topic}-out", **options | broker.alone)
        self.group = f"{topic}-scorers"
        self.dead_letters = broker.url(f"{topic}-out.dead", **broker.alone)

    @property
    def options(self) -> StreamOptions:
        urls = map(BrokerUrl.parse, (self.source, self.sink, self.dead_letters))
        return StreamOptions(*urls, group=self.group)

    def flags(self, member: int = 0) -> list[str]:
        return ["--from", self.members[member], "--to", self.sink, "--group", self.group]

    async def make_topics(self) -> None:
        """Make what the broker keeps messages in: streams, topics, queues, or its readers' sessions."""
        topics = [BrokerUrl.parse(url) for url in (*self.members, self.sink, self.dead_letters)]
        for url in topics:
            if url.scheme == "mqtt":
                end = open_source(url, self.group if str(url) == self.source_name else readers_of(url))
            else:
                end = open_sink(url)
            await end.open()
            await end.close()

    @property
    def source_name(self) -> str:
        return str(BrokerUrl.parse(self.source))

    async def publish(self, payloads: Sequence[bytes], keys: Sequence[str] | None = None) -> None:
        """Publish samples, each confirmed by the broker; it may be away for a while."""
        keys = keys or [""] * len(payloads)
        sink = open_sink(BrokerUrl.parse(self.source))
        await persistently(sink.open)
        for first in range(0, len(payloads), 500):
            records = [
                Record(payloads[number], keys[number], f"sample-{number}", {"id": f"sample-{number}"})
                for number in range(first, min(first + 500, len(payloads)))
            ]
            await persistently(lambda records=records: sink.publish(records))
        await sink.close()

    async def results(self, count: int) -> list[dict[str, Any]]:
        """Read results until there are so many different ones; all of them, repeats too."""
        return await self._results(lambda ids: len(ids) >= count)

    async def results_of(self, wanted: set[str]) -> list[dict[str, Any]]:
        """Read until each of these samples has a result."""
        return await self._results(lambda ids: wanted <= ids)

    async def _results(self, are_enough: Callable[[set[str]], bool]) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        ids: set[str] = set()

        def note(messages: list[Message]) -> bool:
            new = [result_of(message) for message in messages[len(results) :]]
            results.extend(new)
            ids.update(result["id"] for result in new)
            return are_enough(ids)

        await read(self.sink, note)
        return results

    async def letters(self, count: int) -> list[Message]:
        return await read(self.dead_letters, lambda found: len(found) >= count)


def result_of(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(message.payload)
    return result


async def read(url: str, is_enough: Callable[[list[Message]], bool]) -> list[Message]:
    """Take and acknowledge messages until there are enough."""
    source = open_source(BrokerUrl.parse(url), readers_of(BrokerUrl.parse(url)))
    await persistently(source.open)
    found: list[Message] = []
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_enough(found):
        assert time.monotonic() < deadline_s, f"only {len(found)} messages at {url}"
        messages = await persistently(lambda: source.take(1000))
        found += messages
        if messages:
            await source.acknowledge(messages)
    await source.close()
    return found


def readers_of(url: BrokerUrl) -> str:
    """Return the group that reads a topic in tests."""
    return f"{url.topic}-readers".replace(".", "-")


async def eventually(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask until something is so."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not await is_so():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.05)


async def persistently(attempt: Callable[[], Any]) -> Any:
    """Do something as often as it takes the broker to come back."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return await attempt()
        except BrokerError:
            assert time.monotonic() < deadline_s, "the broker did not come back"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def consuming(artifact: Path, options: StreamOptions, **settings: object) -> AsyncIterator[str]:
    """Run a consumer in this process; its metrics are at the address."""
    server = Server(
        Settings(model=str(artifact), tcp=False, grpc=False, http_port=0, **settings),
        make_transport=lambda plane, metrics: Consumer(plane, metrics, options),
    )
    addresses = await server.start()
    try:
        yield f"http://{addresses['http']}/metrics"
    finally:
        await server.stop()
