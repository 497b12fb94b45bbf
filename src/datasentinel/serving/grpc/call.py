"""A call that a native gRPC session leaves to Python, served by a method of the table."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, NamedTuple, Protocol

from datasentinel.errors import DataSentinelError, InvalidInputError
from datasentinel.serving.control.methods import Kind
from datasentinel.serving.control.status import Code, status_of
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from datasentinel.serving.control.methods import Method

_logger = logging.getLogger(__name__)


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
    """One call. What its method answers at once is answered in the turn of its connection.

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
        self._message: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    def put(self, message: bytes) -> None:
        """Take a message of the peer; one of an exchange is answered at once."""
        with self._reporting():
            if self._method.kind is Kind.EXCHANGE:
                self._reply(self._method.handler(self._method.decode(message)))
            elif self._message is None:
                self._message = message
            else:  # Refused at once: an endless sender must not fill the memory.
                raise InvalidInputError("this method takes one message, got more")

    def end(self) -> None:
        """Answer: the peer has sent everything."""
        with self._reporting():
            if self._method.kind is Kind.EXCHANGE:
                self._succeed()
                return
            if self._message is None:
                raise InvalidInputError("this method takes one message, got none")
            request = self._method.decode(self._message)
            if self.is_stream or iscoroutinefunction(self._method.handler):
                self._task = asyncio.get_running_loop().create_task(self._answer(request))
            else:
                self._reply(self._method.handler(request))
                self._succeed()

    def cancel(self) -> None:
        """Cancel the handler: its answer is no longer awaited."""
        if self._task is not None:
            self._task.cancel()

    async def _answer(self, request: Message) -> None:
        # The handler is called here, since a task that is cancelled before it begins awaits nothing.
        with self._reporting():
            if self.is_stream:
                async for response in self._method.handler(request):
                    self._reply(response)
            else:
                self._reply(await self._method.handler(request))
            self._succeed()

    def _reply(self, response: Message) -> None:
        self._owner.reply(self._number, response.SerializeToString())

    def _succeed(self) -> None:
        self._owner.end_call(self._number, CallEnd(Code.OK, ""))

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it was, it stays in this call
            self._owner.end_call(self._number, _report(error))


def _report(error: Exception) -> CallEnd:
    """Return what the client gets; log internal errors."""
    status = status_of(error)
    if not isinstance(error, DataSentinelError):
        log(_logger, logging.ERROR, "request_failed", transport="grpc", exception=error)
        return CallEnd(status.grpc, "internal error")
    if status.is_fault_of_ours:
        log(_logger, logging.ERROR, "request_failed", transport="grpc", reason=error)
    return CallEnd(status.grpc, str(error))
