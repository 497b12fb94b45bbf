"""Ending tasks of an event loop for certain."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_S = 1.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and return when all have ended; their errors stay with them.

    A task is cancelled again until it ends: before Python 3.12, `asyncio.wait_for` loses a cancellation that
    comes together with what it waits for (https://github.com/python/cpython/issues/86296), and a loop would
    go on.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # marks errors as seen
