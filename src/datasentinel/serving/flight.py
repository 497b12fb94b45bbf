"""Arrow Flight: record batches in, scores out, in bulk.

pyarrow's server has threads of its own, outside the event loop. A handler reads a batch, waits for its turn,
scores it (the engine lets go of the GIL) and writes the result; gRPC's flow control holds a client back that
sends faster than it is served.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from datasentinel.errors import (
    DataSentinelError,
    InvalidInputError,
    MissingDependencyError,
    ResourceExhaustedError,
    ServerError,
)
from datasentinel.record_batches import RecordBatchScorer
from datasentinel.scoring import ScoringRequest, scoring_roles
from datasentinel.serving.connections.addresses import bound_socket, resolve
from datasentinel.serving.control.status import status_of
from datasentinel.serving.logs import RateLimitedLog, log
from datasentinel.serving.waits import Waits, hang_up
from datasentinel.tables.arrow import validate

try:
    import pyarrow as pa
    from pyarrow import flight
except ImportError as error:
    raise MissingDependencyError(
        'flight_port needs pyarrow with Flight: pip install "datasentinel[flight]"'
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from datasentinel.detector import Detector
    from datasentinel.serving.connections.addresses import Address
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.guard import Guard
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)
_slow_log = RateLimitedLog(_logger, logging.INFO, "slow_sender_closed")

# How long a turn may take, about, and the rows of the first one, when it is not known how long they take.
_TURN_S = 0.02
_FIRST_TURN_ROWS, _LEAST_TURN_ROWS = 16_384, 1_024
_FIND_TIMEOUT_S = 10.0
_LISTS = ("features", "ignore", "keep")
_TEXTS = ("model", "version", "time", "id")
_NUMBERS = {"explain": int, "p_values": bool, "alarm_budget": float}


class FlightTransport:
    """The port of Flight, as one of the server's transports.

    Parameters
    ----------
    plane : DataPlane
        Whose models answer.
    settings : Settings
    guard : Guard
        Who may call. Certificates are read once, at the start.
    """

    name = "flight"

    def __init__(self, plane: DataPlane, settings: Settings, guard: Guard) -> None:
        self._plane = plane
        self._settings = settings
        self._guard = guard
        self._server: _Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> Address:
        """Listen, and return where.

        Raises
        ------
        ServerError
            The address cannot be bound.
        """
        settings = self._settings
        address = resolve(settings.host, settings.flight_port, self.name)
        # gRPC shares a port with whoever allows it; only one who does not finds out that somebody listens.
        bound_socket(address, self.name, reuse_port=settings.workers > 1).close()
        scheme = "grpc" if self._guard.tls is None else "grpc+tls"
        loop = asyncio.get_running_loop()
        try:
            self._server = _Server(f"{scheme}://{address}", self._plane, settings, self._guard, loop)
        except (OSError, pa.ArrowException) as error:
            raise ServerError(f"cannot listen for flight on {address}: {error}") from error
        if settings.receive_timeout_s:
            self._sweeping = loop.create_task(self._server.sweep(settings.receive_timeout_s))
        return address._replace(port=self._server.port)

    async def stop(self, timeout_s: float) -> None:
        """Accept no more calls, finish those accepted, and cut off what is unfinished after `timeout_s`."""
        server, self._server = self._server, None
        if server is None:
            return
        # Waits for calls in progress, and must not hold up the end of the process.
        ending = threading.Thread(target=server.shutdown, name="flight-shutdown", daemon=True)
        ending.start()
        until_s = asyncio.get_running_loop().time() + timeout_s
        while ending.is_alive() and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(0.02)
        while ending.is_alive():
            hang_up(server.port)
            await asyncio.sleep(0.05)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None


class _Turns:
    """Lets one exchange at a time score, in the order in which they asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and hand it on at the end."""
        mine = threading.Event()
        with self._lock:
            if self._taken:
                self._waiting.append(mine)
            else:
                self._taken = True
                mine.set()
        mine.wait()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._taken = False


class _Pace:
    """How many rows of an exchange fit into a turn, by how long the last ones took.

    Attributes
    ----------
    rows : int
    """

    def __init__(self) -> None:
        self.rows = _FIRST_TURN_ROWS

    def take(self, rows: int, elapsed_s: float) -> None:
        """Note how long some rows took."""
        self.rows = max(_LEAST_TURN_ROWS, int(rows * _TURN_S / max(elapsed_s, 1e-6)))


class _GoneError(Exception):
    """A client took too long, and its connection was ended."""


class _Client:
    """The other end of an exchange, which is waited for within limits.

    All methods raise an InvalidInputError for what cannot be read.
    """

    def __init__(self, waits: Waits, peer: str, reader: Any, writer: Any) -> None:  # noqa: ANN401
        self._waits = waits
        self._peer = peer
        self._reader = reader
        self._writer = writer

    def schema(self) -> Any:  # noqa: ANN401
        """Return the pyarrow.Schema of the batches, once it is there."""
        with self._waiting(), _reading():
            return self._reader.schema

    def next_batch(self) -> Any:  # noqa: ANN401
        """Return the next pyarrow.RecordBatch, or None at the end."""
        with self._waiting(), _reading():
            chunk = next(self._reader, None)
        return None if chunk is None else chunk.data

    def begin(self, schema: Any) -> None:  # noqa: ANN401
        """Send the schema of the answers."""
        with self._waiting():
            self._writer.begin(schema)

    def write(self, batch: Any) -> None:  # noqa: ANN401
        """Send an answer."""
        with self._waiting():
            self._writer.write_batch(batch)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        with self._waits.wait(self._peer) as wait:
            try:
                yield
            finally:
                # However it ended: to pyarrow, the end of a connection may be that of the batches.
                if wait.is_over:
                    raise _GoneError("the client sent or read nothing for too long (receive_timeout_s)")


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"the record batches cannot be read: {error}") from error


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


class _Server(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
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
        self._turns = _Turns()
        self._waits = Waits()
        self._account = plane.account(FlightTransport.name)
        self._max_batch_bytes = settings.flight_max_batch_bytes
        self._places = threading.BoundedSemaphore(settings.flight_max_exchanges)
        super().__init__(
            location, middleware={"authorization": _Authorization(guard)}, **_tls_options(settings, guard)
        )

    async def sweep(self, timeout_s: float) -> None:
        """Cut off, again and again, who is waited for longer."""
        while True:
            await asyncio.sleep(min(1.0, timeout_s / 4))
            for late in self._waits.end_late(self.port, timeout_s):
                self._account.timed_out_connections += 1
                _slow_log(transport=FlightTransport.name, peer=late.peer)

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:  # noqa: ANN401
        """Score the batches that a client sends, in their order."""
        try:
            self._exchange(_Client(self._waits, context.peer(), reader, writer), descriptor)
        except _GoneError as error:
            raise flight.FlightTimedOutError(str(error)) from error
        except Exception as error:  # whatever it was, it stays in this exchange
            if context.is_cancelled():  # Nobody waits for the answer.
                raise flight.FlightCancelledError("the exchange was cancelled") from error
            self._refuse(_code(error))
            raise _told(error) from error

    def _exchange(self, client: _Client, descriptor: Any) -> None:  # noqa: ANN401
        asked = _asked(descriptor)
        schema = client.schema()
        if not self._places.acquire(blocking=False):
            raise ResourceExhaustedError(
                "too many exchanges at a time (flight_max_exchanges); try again later"
            )
        try:
            detector = self._find(asked.pop("model", ""), asked.pop("version", ""))
            scorer = RecordBatchScorer(detector, schema, _request(asked), with_rows=True)
            client.begin(scorer.schema)
            pace = _Pace()
            while (batch := client.next_batch()) is not None:
                self._answer(scorer, batch, client, pace)
        finally:
            self._places.release()

    def _answer(self, scorer: RecordBatchScorer, batch: Any, client: _Client, pace: _Pace) -> None:  # noqa: ANN401
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


def _asked(descriptor: Any) -> dict[str, Any]:  # noqa: ANN401
    """Read a command: a JSON object, or a path of the model's name and perhaps its version."""
    if descriptor.path:
        names = [name.decode("utf-8", "replace") for name in descriptor.path]
        return dict(zip(("model", "version"), names, strict=False))
    try:
        asked = json.loads(descriptor.command or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the command is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise InvalidInputError("the command is not a JSON object")
    known = {*_LISTS, *_TEXTS, *_NUMBERS}
    for key, value in asked.items():
        if key not in known:
            raise InvalidInputError(
                f"unknown key {key!r} in the command; known are {', '.join(sorted(known))}"
            )
        if key in _LISTS:
            is_right = isinstance(value, list) and all(isinstance(name, str) for name in value)
        elif key in _TEXTS:
            is_right = isinstance(value, str)
        else:
            kind = _NUMBERS[key]
            is_right = isinstance(value, kind if kind is not float else (int, float)) and (
                kind is bool or not isinstance(value, bool)
            )
        if not is_right:
            raise InvalidInputError(f"key {key!r} in the command: {value!r} is of the wrong type")
    return asked


def _request(asked: Mapping[str, Any]) -> ScoringRequest:
    roles = {key: asked[key] for key in (*_LISTS, "time", "id") if key in asked}
    return ScoringRequest(
        scoring_roles(**roles),
        p_values=asked.get("p_values", False),
        num_reasons=asked.get("explain", 0),
        alarm_budget=asked.get("alarm_budget"),
    )


def _code(error: Exception) -> str:
    """Return what an error is counted as."""
    return type(error).__name__.removesuffix("Error") if isinstance(error, DataSentinelError) else "Internal"


def _told(error: Exception) -> Exception:
    """Return what a client gets to know: one of Flight's errors, as only these bring no traceback along."""
    text = str(error)
    if isinstance(error, ResourceExhaustedError):
        kind = flight.FlightUnavailableError
    elif isinstance(error, DataSentinelError) and not status_of(error).is_fault_of_ours:
        kind = flight.FlightServerError
    else:
        kind, text = flight.FlightInternalError, "the server failed to score this batch; its log says why"
        facts = {"reason" if isinstance(error, DataSentinelError) else "exception": error}
        log(_logger, logging.ERROR, "request_failed", transport=FlightTransport.name, **facts)
    told: Exception = kind(text, _code(error).encode())
    return told


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
