"""A call that a native gRPC session leaves to Python, served by a method of the table."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from datasentinel.errors import DataSentinelError, InvalidInputError
from datasentinel.serving.control.methods import Kind
from datasentinel.serving.control.status import Code, status_of
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from datasentinel.serving.control.methods import Method

_logger = logging.getLogger(__name__)

# Messages of one call that may wait for its handler.
_MAX_WAITING = 64
_MAX_WAITING_BYTES = 256 << 10


class CallEnd(NamedTuple):
    """How a call ended."""

    code: int
    details: str


class CallOwner(Protocol):
    """Where a call's answers go."""

    def reply(self, call: int, message: bytes) -> None:
        """Send one message on a call."""

    def end_call(self, call: int, end: CallEnd) -> None:
        """End a call with a status."""


class Call:
    """One call.

    Parameters
    ----------
    owner : CallOwner
    number : int
        The owner's name for the call.
    method : Method
    """

    def __init__(self, owner: CallOwner, number: int, method: Method) -> None:
        self.is_stream = method.kind is not Kind.UNARY
        self._owner = owner
        self._number = number
        self._method = method
        self._messages: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._ended = False
        self._arrived = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, message: bytes) -> bool:
        """Queue a message of the peer; return False if too many wait already."""
        if len(self._messages) >= _MAX_WAITING or self._waiting_bytes > _MAX_WAITING_BYTES:
            return False
        self._messages.append(message)
        self._waiting_bytes += len(message)
        self._arrived.set()
        return True

    def end(self) -> None:
        """Mark the end of the peer's messages."""
        self._ended = True
        self._arrived.set()

    def cancel(self) -> None:
        """Cancel the handler: its answer is no longer awaited."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._serve()
        except Exception as error:  # whatever it was, it stays in this call
            self._owner.end_call(self._number, _report(error))
        else:
            self._owner.end_call(self._number, CallEnd(Code.OK, ""))

    async def _serve(self) -> None:
        method = self._method
        if method.kind is Kind.EXCHANGE:
            async for message in self._requests():
                await self._answer(message)
            return
        only = None
        async for message in self._requests():
            if only is not None:  # Refused at once: an endless sender must not fill the memory.
                raise InvalidInputError("this method takes one message, got more")
            only = message
        if only is None:
            raise InvalidInputError("this method takes one message, got none")
        if method.kind is Kind.UNARY:
            await self._answer(only)
            return
        async for response in method.handler(method.decode(only)):
            self._owner.reply(self._number, response.SerializeToString())

    async def _answer(self, message: bytes) -> None:
        response = self._method.handler(self._method.decode(message))
        if inspect.isawaitable(response):
            response = await response
        self._owner.reply(self._number, response.SerializeToString())

    async def _requests(self) -> AsyncIterator[bytes]:
        while True:
            while self._messages:
                message = self._messages.popleft()
                self._waiting_bytes -= len(message)
                yield message
            if self._ended:
                return
            self._arrived.clear()
            await self._arrived.wait()


def _report(error: Exception) -> CallEnd:
    """Return what the client gets; log internal errors."""
    status = status_of(error)
    if not isinstance(error, DataSentinelError):
        log(_logger, logging.ERROR, "request_failed", transport="grpc", exception=error)
        return CallEnd(status.grpc, "internal error")
    if status.is_fault_of_ours:
        log(_logger, logging.ERROR, "request_failed", transport="grpc", reason=error)
    return CallEnd(status.grpc, str(error))
