"""The clients of the soak: good ones that check every answer, and bad ones that break every rule."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
import numpy as np

from datasentinel.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.server_process import ServerProcess, to_line

MAX_LINE_BYTES = 4096
REPLY_TIMEOUT_S = 60.0
# A connection may break because of a worker that died up to so long before.
_GRACE_S = 10.0


@dataclass
class Soak:
    """What all clients share: whom to talk to, what is right, and what happened."""

    server: ServerProcess
    rows: np.ndarray
    decisions: list[bytes]
    scores: np.ndarray
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    server_stopping: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    killed_s: float = float("-inf")

    def __post_init__(self) -> None:
        self.lines = [to_line(row) for row in self.rows]

    def excuses(self, since_s: float) -> bool:
        """Whether a connection opened, or a call made, at `since_s` may have broken through no fault."""
        return self.server_stopping or self.killed_s > since_s - _GRACE_S

    def broken(self, what: str, since_s: float, error: object) -> None:
        """Note a connection that ended early; it is a failure unless a worker was killed."""
        assert self.excuses(since_s), f"{what}: {error!r}"
        self.counts[f"{what} interrupted"] += 1

    async def pause(self, generator: random.Random, longest_s: float = 0.05) -> None:
        await asyncio.sleep(generator.random() * longest_s)


Client = Callable[[Soak, random.Random], Coroutine[None, None, None]]


async def repeat(client: Client, soak: Soak, generator: random.Random) -> None:
    """Run a client's part over and over until the soak ends."""
    while not soak.stopping.is_set():
        started_s = time.monotonic()
        try:
            await client(soak, generator)
        except (OSError, asyncio.IncompleteReadError) as error:
            soak.broken(client.__name__, started_s, error)
            await soak.pause(generator, 0.2)


async def _open(soak: Soak, transport: str = "tcp") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(soak.server.host, soak.server.ports[transport])


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):  # The server may have closed it first.
        await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _line(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(REPLY_TIMEOUT_S):
        line = await reader.readline()
    if not line.endswith(b"\n"):
        assert line == b"", f"the stream ended within a reply: {line!r}"
        raise ConnectionError("the server ended the stream")
    return line[:-1]


async def good_lines(soak: Soak, generator: random.Random) -> None:
    """Bursts of rows; every reply is checked."""
    reader, writer = await _open(soak)
    try:
        for _ in range(generator.randint(1, 40)):
            if soak.stopping.is_set():
                return
            start = generator.randrange(len(soak.rows) - 64)
            picked = range(start, start + generator.randint(1, 64))
            writer.write(b"".join(soak.lines[index] for index in picked))
            for index in picked:
                reply = await _line(reader)
                assert reply == soak.decisions[index], f"row {index} was answered by {reply!r}"
                soak.counts["lines answered"] += 1
            await soak.pause(generator)
    finally:
        await _close(writer)


async def half_closed_lines(soak: Soak, generator: random.Random) -> None:
    """Everything is sent, then the stream is half closed, and every answer must still come."""
    reader, writer = await _open(soak)
    try:
        start = generator.randrange(len(soak.rows) - 256)
        picked = range(start, start + generator.randint(1, 256))
        writer.write(b"".join(soak.lines[index] for index in picked).rstrip())
        writer.write_eof()
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            replies = (await reader.read()).split()
        if len(replies) < len(picked):
            raise ConnectionError(f"{len(replies)} replies to {len(picked)} lines")
        assert replies == [soak.decisions[index] for index in picked]
        soak.counts["lines answered"] += len(picked)
        await soak.pause(generator)
    finally:
        await _close(writer)


async def malformed_lines(soak: Soak, generator: random.Random) -> None:
    """Bad lines between good ones: each is answered in its place, by an error."""
    bad = [
        b"1 2 3",
        b"1 2 3 4 5 6 7 x",
        b"nan " * 8,
        b"\x00\xff\xfe",
        b"GET / HTTP/1.1",
        b"9" * 300,
        b",,,,,,,",
    ]
    reader, writer = await _open(soak)
    try:
        for _ in range(generator.randint(1, 20)):
            index = generator.randrange(len(soak.rows))
            writer.write(generator.choice(bad) + b"\n" + soak.lines[index])
            assert (await _line(reader)).startswith(b"ERROR: ")
            assert await _line(reader) == soak.decisions[index]
            soak.counts["lines refused"] += 1
            soak.counts["lines answered"] += 1
            await soak.pause(generator)
    finally:
        await _close(writer)


async def over_long_lines(soak: Soak, generator: random.Random) -> None:
    """A line over the limit is answered and ends the connection."""
    reader, writer = await _open(soak)
    try:
        writer.write(b"1" * (MAX_LINE_BYTES + generator.randint(1, 100_000)))
        assert await _line(reader) == b"ERROR: line longer than %d bytes" % MAX_LINE_BYTES
        soak.counts["lines refused"] += 1
        await soak.pause(generator, 0.2)
    finally:
        await _close(writer)


async def rude_disconnects(soak: Soak, generator: random.Random) -> None:
    """A reset in the middle of anything."""
    transport = generator.choice(["tcp", "grpc", "http"])
    _, writer = await _open(soak, transport)
    writer.write(generator.choice([b"1 2 3", soak.lines[0] * 50, b"GET /met", b"PRI * HTTP/2.0\r\n", b""]))
    await soak.pause(generator)
    _reset(writer)
    soak.counts["connections reset"] += 1
    await soak.pause(generator, 0.2)


async def slow_senders(soak: Soak, generator: random.Random) -> None:
    """A message that never ends is cut off by the server."""
    transport, start = generator.choice([("tcp", b"1 2 3 "), ("http", b"GET /healthz HTTP/1.1\r\nX: ")])
    reader, writer = await _open(soak, transport)
    try:
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            while not reader.at_eof() and not soak.stopping.is_set():
                writer.write(start)
                start = b"1"
                await writer.drain()
                try:
                    async with asyncio.timeout(0.3):
                        await reader.read()
                except TimeoutError:
                    continue
    except OSError:
        pass  # Cut off is what it asked for.
    finally:
        await _close(writer)
    soak.counts["slow senders cut off"] += not soak.stopping.is_set()


async def non_readers(soak: Soak, generator: random.Random) -> None:
    """One who sends and does not read is made to wait, and gets every answer once he does."""
    reader, writer = await _open(soak)
    try:
        count = 2000
        writer.write(b"x\n" * count)
        await soak.pause(generator, 0.5)
        for _ in range(count):
            assert (await _line(reader)).startswith(b"ERROR: ")
        soak.counts["lines refused"] += count
    finally:
        await _close(writer)


async def http_requests(soak: Soak, generator: random.Random) -> None:
    """Health, metrics and nonsense on one connection kept alive."""
    reader, writer = await _open(soak, "http")
    try:
        for _ in range(generator.randint(1, 20)):
            path, status = generator.choice(
                [(b"/healthz", b"200"), (b"/v2/health/live", b"200"), (b"/metrics", b"200"), (b"/no", b"404")]
            )
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                got = head.split(b" ", 2)[1]
                assert got == status or (soak.server_stopping and got == b"503"), head
                (length,) = [
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ]
                await reader.readexactly(length)
            soak.counts["HTTP requests answered"] += 1
            await soak.pause(generator, 0.2)
    finally:
        await _close(writer)


async def http_junk(soak: Soak, generator: random.Random) -> None:
    """What is no HTTP is refused, not served."""
    reader, writer = await _open(soak, "http")
    try:
        writer.write(
            generator.choice([b"\x16\x03\x01\x02", b"1 2 3\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a" * 70_000])
        )
        writer.write_eof()
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            answer = await reader.read()
        assert b" 200 " not in answer[:20]
        soak.counts["HTTP requests refused"] += 1
        await soak.pause(generator, 0.2)
    finally:
        await _close(writer)


async def grpc_calls(soak: Soak, generator: random.Random) -> None:
    """Unary calls, some of them bad, on a channel of one's own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    target = f"{soak.server.host}:{soak.server.grpc_port}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        evaluate = inference_pb2_grpc.InferenceServiceStub(channel).Evaluate
        for _ in range(generator.randint(1, 40)):
            if soak.stopping.is_set():
                return
            index = generator.randrange(len(soak.rows))
            bad = generator.random() < 0.1
            values = soak.rows[index][:3] if bad else soak.rows[index]
            started_s = time.monotonic()
            try:
                reply = await evaluate(inference_pb2.EvaluateRequest(values=values), timeout=REPLY_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
                soak.broken("grpc_calls", started_s, error.details())
                await soak.pause(generator, 0.2)
                return
            if bad:
                assert reply.status == inference_pb2.ERROR
                soak.counts["calls refused"] += 1
            else:
                assert reply.mse == soak.scores[index]
                soak.counts["calls answered"] += 1
            await soak.pause(generator)


async def grpc_junk(soak: Soak, generator: random.Random) -> None:
    """Bytes that are no HTTP/2, and messages over the limit."""
    _, writer = await _open(soak, "grpc")
    writer.write(generator.randbytes(generator.randint(1, 2000)))
    await soak.pause(generator, 0.2)
    await _close(writer)
    soak.counts["connections with junk"] += 1


CLIENTS: tuple[tuple[Client, int], ...] = (
    (good_lines, 80),
    (half_closed_lines, 15),
    (malformed_lines, 15),
    (over_long_lines, 5),
    (rude_disconnects, 15),
    (slow_senders, 5),
    (non_readers, 5),
    (http_requests, 20),
    (http_junk, 5),
    (grpc_calls, 30),
    (grpc_junk, 5),
)
