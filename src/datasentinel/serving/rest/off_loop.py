"""Long inference requests, answered on a thread of their own while the event loop serves others."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasentinel.backend import RestInference
    from datasentinel.serving.data_plane import TransportAccount


@dataclass(frozen=True, slots=True)
class Inferred:
    """The answer to one request.

    Attributes
    ----------
    status : int
    body : bytes
    json_bytes : int or None
        How many bytes of the body are JSON where tensors' bytes follow.
    rows, anomalies : int
        What was scored.
    """

    status: int
    body: bytes
    json_bytes: int | None
    rows: int
    anomalies: int


def infer(
    inference: RestInference, name: str, version: str, content: bytes, json_bytes: int | None
) -> Inferred:
    """Answer one request here and now; errors are answers, too."""
    status, body, tensors_after = inference.answer(name, version, content, json_bytes)
    _, rows, anomalies, _ = inference.take_counts()
    return Inferred(status, body, tensors_after, rows, anomalies)


class OffLoop:
    """A thread that answers long requests, one after the other.

    Parameters
    ----------
    inference : RestInference
        For this thread alone.
    account : TransportAccount
        Where the rows that wait are told.
    max_rows : int
        Rows that may wait or run; a single request may have more.
    """

    def __init__(self, inference: RestInference, account: TransportAccount, max_rows: int) -> None:
        self._inference = inference
        self._account = account
        self._max_rows = max_rows
        self._rows = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="datasentinel-http")
        account.queued_rows = 0

    def has_room(self, rows: int) -> bool:
        """Whether a request of so many rows may wait."""
        return self._rows == 0 or self._rows + rows <= self._max_rows

    async def infer(
        self, name: str, version: str, content: bytes, json_bytes: int | None, rows: int
    ) -> Inferred:
        """Answer a request of about `rows` rows when its turn comes."""
        self._count(rows)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, infer, self._inference, name, version, content, json_bytes
            )
        finally:
            self._count(-rows)

    def _count(self, rows: int) -> None:
        self._rows += rows
        self._account.queued_rows = self._rows
