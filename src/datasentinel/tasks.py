"""Ending tasks of an event loop for certain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

_AGAIN_S = 1.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and return when all have ended; their errors stay with them.

    A task is cancelled again until it ends: before Python 3.12, `asyncio.wait_for` loses a cancellation that
    comes together with what it waits for (https://github.com/python/cpython/issues/86296), and a loop would
    go on. Whoever is cancelled while it waits here passes that on to the tasks and waits all the same: it may
    well be one that others end, and nobody else knows of its tasks.
    """
    left = set(tasks)
    is_cancelled = False
    while left:
        for task in left:
            task.cancel()
        try:
            _, left = await asyncio.wait(left, timeout=_AGAIN_S)
        except asyncio.CancelledError:
            is_cancelled = True
    await asyncio.gather(*tasks, return_exceptions=True)  # marks errors as seen
    if is_cancelled:
        raise asyncio.CancelledError


async def within(timeout_s: float, *work: Coroutine[Any, Any, object]) -> bool:
    """Do some work at the same time, for so long at most.

    What has not ended then is cancelled and left behind: `asyncio.timeout` and `asyncio.wait_for` would go on
    waiting for what does not mind that it is cancelled.

    Returns
    -------
    bool
        Whether all of it has ended.

    Raises
    ------
    Exception
        The first error of what has ended.
    """
    started = [asyncio.create_task(one) for one in work]
    try:
        done, left = await asyncio.wait(started, timeout=timeout_s)
    finally:
        for task in started:
            task.cancel()
    errors = [error for task in done if not task.cancelled() and (error := task.exception()) is not None]
    if errors:
        raise errors[0]
    return not left
