"""A small real server of the line protocol: `python -m tests.line_server MODEL PORT` prints `ready PORT`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING

from datasentinel import Detector
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.lines.session import LineStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

MAX_LINE_BYTES = 1 << 16


@contextlib.asynccontextmanager
async def tcp_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], port: int = 0
) -> AsyncIterator[int]:
    """Let `talk` hold each connection to 127.0.0.1; gives the port, and leaves nothing open at the end."""
    talks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError):
                await talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", port) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def talk_lines(
    detector: Detector,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    max_replies: int | None = None,
    delay_s: float = 0.0,
) -> None:
    """Answer lines, each chunk `delay_s` late; hang up without a word after `max_replies`."""
    plane = DataPlane(detector)
    session = LineStream(plane.inference, plane.request_counts("tcp"), max_line_bytes=MAX_LINE_BYTES)
    left = max_replies
    while data := await reader.read(1 << 16):
        await asyncio.sleep(delay_s)
        replies = session.feed(data).splitlines(keepends=True)
        writer.write(b"".join(replies[:left]))
        await writer.drain()
        if left is not None:
            left -= len(replies)
            if left <= 0:
                return


async def _main() -> None:
    async with tcp_server(partial(talk_lines, Detector.load(sys.argv[1])), int(sys.argv[2])) as port:
        print(f"ready {port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
