"""`DoExchange`: batches to scores, in threads of gRPC's."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pyarrow import flight

from datasentinel.errors import InvalidInputError, ResourceExhaustedError
from datasentinel.record_batches import RecordBatchScorer
from datasentinel.scoring import scoring_request
from datasentinel.serving.flight import NAME
from datasentinel.serving.flight.client import Client, TooSlowError
from datasentinel.serving.flight.commands import read_command
from datasentinel.serving.flight.errors import code_of, flight_error
from datasentinel.serving.flight.turns import Pace, Turns
from datasentinel.serving.flight.waits import Waits
from datasentinel.serving.logs import RateLimitedLog, log
from datasentinel.tables.arrow import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasentinel.detector import Detector
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)
_slow_log = RateLimitedLog(_logger, logging.INFO, "slow_sender_closed")

_FIND_TIMEOUT_S = 10.0


class _Authorization(flight.ServerMiddlewareFactory):  # type: ignore[misc]  # pyarrow has no types
    """Turns calls without a valid token away."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def start_call(self, info: Any, headers: Mapping[str, list[str]]) -> None:  # noqa: ANN401, ARG002
        """Look at the `authorization` header of a call."""
        shown = next(iter(headers.get("authorization", [])), None)
        if not self._guard.admits(shown):
            raise flight.FlightUnauthenticatedError(
                "a valid bearer token is needed: authorization: Bearer <token>"
            )


class Service(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """Answers `DoExchange`, in threads of gRPC's."""

    def __init__(
        self,
        location: str,
        plane: DataPlane,
        settings: Settings,
        guard: Guard,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._plane = plane
        self._loop = loop
        self._turns = Turns()
        self._waits = Waits()
        self._account = plane.account(NAME)
        self._max_batch_bytes = settings.flight_max_batch_bytes
        self._places = threading.BoundedSemaphore(settings.flight_max_exchanges)
        super().__init__(
            location, middleware={"authorization": _Authorization(guard)}, **_tls_options(settings, guard)
        )

    async def sweep(self, timeout_s: float) -> None:
        """Periodically close exchanges that are waited for longer."""
        while True:
            await asyncio.sleep(min(1.0, timeout_s / 4))
            for late in self._waits.end_late(self.port, timeout_s):
                self._account.timed_out_connections += 1
                _slow_log(transport=NAME, peer=late.peer)

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:  # noqa: ANN401
        """Score the batches that a client sends, in their order."""
        try:
            self._exchange(Client(self._waits, context, reader, writer), descriptor)
        except TooSlowError as error:
            raise flight.FlightTimedOutError(str(error)) from error
        except Exception as error:  # whatever it was, it stays in this exchange
            if context.is_cancelled():  # Nobody waits for the answer.
                raise flight.FlightCancelledError("the exchange was cancelled") from error
            self._refuse(code_of(error))
            raise flight_error(error) from error

    def _exchange(self, client: Client, descriptor: Any) -> None:  # noqa: ANN401
        asked = read_command(descriptor)
        schema = client.schema()
        if not self._places.acquire(blocking=False):
            raise ResourceExhaustedError(
                "too many exchanges at a time (flight_max_exchanges); try again later"
            )
        try:
            detector = self._find(asked.pop("model", ""), asked.pop("version", ""))
            scorer = RecordBatchScorer(detector, schema, scoring_request(**asked), with_rows=True)
            client.begin(scorer.schema)
            pace = Pace()
            while (batch := client.next_batch()) is not None:
                self._answer(scorer, batch, client, pace)
        finally:
            self._places.release()

    def _answer(self, scorer: RecordBatchScorer, batch: Any, client: Client, pace: Pace) -> None:  # noqa: ANN401
        validate(batch)
        if batch.nbytes > self._max_batch_bytes:
            raise InvalidInputError(
                f"a batch of {batch.nbytes} bytes is larger than the {self._max_batch_bytes} that are "
                "accepted (flight_max_batch_bytes): send smaller ones"
            )
        begun_s = perf_counter()
        parts = []
        first = 0
        while first < batch.num_rows:
            part = batch.slice(first, pace.rows)
            with self._turns.turn():
                client.check()
                turn_begun_s = perf_counter()
                parts.append(scorer.score(part))
                pace.take(part.num_rows, perf_counter() - turn_begun_s)
            first += part.num_rows
        for part in parts:
            client.write(part)
        anomalies = sum(part.column("anomaly").true_count for part in parts)
        elapsed_s = perf_counter() - begun_s
        self._loop.call_soon_threadsafe(self._account.add, 1, batch.num_rows, anomalies, elapsed_s)

    def _find(self, name: str, version: str) -> Detector:
        """Return a model; which ones are served changes on the event loop only."""

        async def find() -> Detector:
            return self._plane.served.find(name, version).detector

        return asyncio.run_coroutine_threadsafe(find(), self._loop).result(_FIND_TIMEOUT_S)

    def _refuse(self, code: str) -> None:
        def count() -> None:
            self._account.add(1, 0, 0, 0.0, errors=1, code=code)

        self._loop.call_soon_threadsafe(count)


def _tls_options(settings: Settings, guard: Guard) -> dict[str, Any]:
    if guard.tls is None:
        return {}
    certificate = Path(settings.tls_certificate).read_bytes()
    key = Path(settings.tls_key).read_bytes() if settings.tls_key else certificate
    options: dict[str, Any] = {"tls_certificates": [(certificate, key)]}
    if settings.tls_client_ca:
        options |= {"verify_client": True, "root_certificates": Path(settings.tls_client_ca).read_bytes()}
    log(_logger, logging.INFO, "flight_certificate", advice="a renewed one needs a restart on this port")
    return options
