"""What connections have in common: samples go in, replies come back by callback."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from datasentinel.producer.samples import Sample

OK, ANOMALY, WARMING, ERROR = "OK", "ANOMALY", "WARMING", "ERROR"
# What an invalid sample has in place of a number.
NOT_A_NUMBER_WORD = "abc"


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer to one sample.

    Attributes
    ----------
    status : str
        `OK`, `ANOMALY`, `WARMING` or `ERROR`.
    message : str
        The reason of an error, or empty.
    score : float or None
        The anomaly score, where the protocol carries it.
    """

    status: str
    message: str = ""
    score: float | None = None


class Listener(Protocol):
    """Who wants to know what a connection receives."""

    def on_reply(self, sample: Sample, reply: Reply) -> None:
        """Record the answer to `sample`."""

    def on_lost(self, error: Exception) -> None:
        """Learn that the connection is unusable. A `ServerError` means that a retry is useless."""


class Connection(ABC):
    """An open connection. After `close`, nothing is reported any more."""

    @abstractmethod
    def send(self, samples: Iterable[Sample]) -> None:
        """Send samples; returns at once."""

    @abstractmethod
    async def close(self) -> None:
        """Close it at once; replies still on their way are dropped."""


Connect: TypeAlias = "Callable[[Listener], Awaitable[Connection]]"
