"""Threads that do not keep the process alive, because what they do may never return."""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")

_started: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def start(work: Callable[[], object], name: str) -> threading.Thread:
    """Run `work` in a thread that ends with the process."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    _started.add(thread)
    thread.start()
    return thread


async def finish(work: Callable[[], _Result], name: str) -> _Result:
    """Run `work` in a thread that does not keep the process alive, as `asyncio.to_thread`'s would.

    Returns
    -------
    object
        What `work` returns.

    Raises
    ------
    Exception
        What `work` raised.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def settle(result: _Result | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]  # without an error there is a result
        else:
            done.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as caught:  # raised again where the result is awaited
            error = caught
        with suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(settle, result, error)

    start(run, name)
    return await done


def are_left() -> bool:
    """Whether one of them still runs: the interpreter's own end would wait for it, or run into it."""
    return any(thread.is_alive() for thread in _started)
