"""Connections to a server: the line protocol, gRPC, and which of all a name means."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from datasentinel import tasks
from datasentinel.errors import InvalidInputError, MissingDependencyError, ServerError
from datasentinel.producer.credentials import Credentials
from datasentinel.producer.http import http_connector
from datasentinel.producer.replies import ANOMALY, ERROR, NOT_A_NUMBER_WORD, OK, WARMING, Connection, Reply
from datasentinel.producer.samples import Fault

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

    import grpc.aio

    from datasentinel.producer.replies import Connect, Listener
    from datasentinel.producer.samples import Sample

# What an invalid sample can be: a gRPC request carries floats, so a word cannot be sent.
PROTOCOLS: dict[str, tuple[Fault, ...]] = {
    "tcp": (Fault.WRONG_COUNT, Fault.NOT_A_NUMBER, Fault.NAN),
    "grpc": (Fault.WRONG_COUNT, Fault.INFINITE, Fault.NAN),
    "http": (Fault.WRONG_COUNT, Fault.NOT_A_NUMBER, Fault.NAN),
}
_TOO_MANY_CONNECTIONS = "too many connections"


def connector(
    protocol: str, host: str, port: int, credentials: Credentials | None = None, *, model: str = ""
) -> Connect:
    """Make the function that opens connections to a server.

    Parameters
    ----------
    protocol : {"tcp", "grpc", "http"}
        The line protocol, `datasentinel.v1.InferenceService/Evaluate` or the Open Inference Protocol.
    host, port : str, int
        Where the server listens.
    credentials : Credentials, optional
        Needed where the server speaks TLS or asks for a token.
    model : str
        Over HTTP, the model to ask; empty for the only one there is. The others ask the default model.

    Raises
    ------
    InvalidInputError
        An unknown protocol.
    SettingsError
        A file of the credentials cannot be used.
    MissingDependencyError
        grpcio is not installed.
    """
    credentials = credentials or Credentials()
    context = credentials.context()
    if protocol == "http":
        return http_connector(host, port, credentials, model)
    if protocol == "tcp":
        return partial(_connect_tcp, host, port, context)
    if protocol == "grpc":
        if find_spec("grpc") is None:
            raise MissingDependencyError("gRPC clients need grpcio: pip install 'datasentinel[grpc]'")
        return partial(_connect_grpc, host, port, credentials)
    raise InvalidInputError(f"unknown protocol '{protocol}'; known: {', '.join(PROTOCOLS)}")


def encode_line(sample: Sample) -> bytes:
    """Write a sample as a line, each value as the shortest decimal that reads back as the same float32."""
    # str of a NumPy float32, unlike that of a Python float, is the shortest for 32 bits.
    line = " ".join(map(str, sample.values))
    if sample.fault is Fault.NOT_A_NUMBER:
        line = line.replace("nan", NOT_A_NUMBER_WORD)
    name = f"@{sample.stream} " if sample.stream else ""
    time = f"t={sample.time_s!r} " if sample.time_s is not None else ""
    return (name + time + line).encode() + b"\n"


def parse_reply(line: bytes) -> Reply:
    """Read a line of the server.

    Raises
    ------
    ServerError
        The line is none that the protocol knows.
    """
    if line in (b"OK", b"ANOMALY", b"WARMING"):
        return Reply(line.decode())
    if line.startswith(b"ERROR: "):
        return Reply(ERROR, line[7:].decode("utf-8", "replace"))
    raise ServerError(f"the server does not speak the line protocol: it answered {line[:80]!r}")


class TcpConnection(asyncio.Protocol, Connection):
    """The line protocol: replies come in the order of the samples."""

    def __init__(self, listener: Listener) -> None:
        self._listener: Listener | None = listener
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Sample] = deque()
        self._partial = b""
        self._lines = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport

    def send(self, samples: Iterable[Sample]) -> None:
        """Send the samples with one write."""
        assert self._transport is not None  # noqa: S101
        batch = list(samples)
        self._waiting.extend(batch)
        self._transport.write(b"".join(map(encode_line, batch)))

    def data_received(self, data: bytes) -> None:
        """Match each complete line with the oldest sample not answered."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if self._listener is None:
                return
            try:
                self._take(parse_reply(line.removesuffix(b"\r")))
            except ServerError as error:
                self._lose(error)

    def _take(self, reply: Reply) -> None:
        self._lines += 1
        if self._lines == 1 and reply.message.startswith(_TOO_MANY_CONNECTIONS):
            # This line stands for the whole connection, not for a sample.
            self._lose(ConnectionError(f"the server refused: {reply.message}"))
        elif not self._waiting:
            raise ServerError("the server sent more replies than it was sent samples")
        elif self._listener is not None:
            self._listener.on_reply(self._waiting.popleft(), reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the listener, unless it closed the connection itself."""
        self._lose(exc or ConnectionError("the server closed the connection"))

    def _lose(self, error: Exception) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_lost(error)

    async def close(self) -> None:
        """Drop the connection."""
        self._listener = None
        if self._transport is not None:
            self._transport.abort()
        # The transport frees its socket in the loop's next turn.
        await asyncio.sleep(0)


async def _connect_tcp(
    host: str, port: int, context: ssl.SSLContext | None, listener: Listener
) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: TcpConnection(listener), host, port, ssl=context)
    return connection


class GrpcConnection(Connection):
    """Unary calls, as many at a time as samples are in flight."""

    def __init__(self, channel: grpc.aio.Channel, token: str, listener: Listener) -> None:
        import grpc

        from datasentinel.v1 import inference_pb2, inference_pb2_grpc

        self._listener: Listener | None = listener
        self._channel = channel
        self._evaluate = inference_pb2_grpc.InferenceServiceStub(channel).Evaluate
        self._request = inference_pb2.EvaluateRequest
        self._status_name = inference_pb2.Status.Name
        self._rpc_error = grpc.aio.AioRpcError
        self._lost_codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        self._hopeless_codes = {
            grpc.StatusCode.UNIMPLEMENTED: "the server does not offer datasentinel.v1.InferenceService",
            grpc.StatusCode.UNAUTHENTICATED: "the server wants another token",
        }
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._calls: set[asyncio.Task[None]] = set()

    def send(self, samples: Iterable[Sample]) -> None:
        """Start one call a sample."""
        for sample in samples:
            call = asyncio.create_task(self._call(sample))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, sample: Sample) -> None:
        try:
            response = await self._evaluate(
                self._request(
                    values=sample.values.tolist(), stream_id=sample.stream, timestamp=sample.time_s
                ),
                metadata=self._metadata,
            )
        except self._rpc_error as error:
            self._failed(sample, error)
            return
        status = self._status_name(response.status)
        if status not in (OK, ANOMALY, WARMING, ERROR):
            self._lose(ServerError(f"the server answered with status {status}"))
        elif self._listener is not None:
            self._listener.on_reply(sample, Reply(status, response.message, response.mse))

    def _failed(self, sample: Sample, error: grpc.aio.AioRpcError) -> None:
        text = f"{error.code().name}: {error.details()}"
        if error.code() in self._lost_codes:
            self._lose(ConnectionError(text))
        elif error.code() in self._hopeless_codes:
            self._lose(ServerError(f"{self._hopeless_codes[error.code()]}: {text}"))
        elif self._listener is not None:
            self._listener.on_reply(sample, Reply(ERROR, text))

    def _lose(self, error: Exception) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_lost(error)

    async def close(self) -> None:
        """Cancel the calls in flight and close the channel."""
        self._listener = None
        await tasks.end(*self._calls)
        await self._channel.close(None)


async def _connect_grpc(host: str, port: int, credentials: Credentials, listener: Listener) -> Connection:
    import grpc

    options: Sequence[tuple[str, Any]] = [
        # Reconnecting and sending again is the run loop's work, and it counts them.
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        # Each connection has its own socket, so that a dead one is not handed out again.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if credentials.ca is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        channel_credentials = grpc.ssl_channel_credentials(*credentials.pem())
        channel = grpc.aio.secure_channel(target, channel_credentials, options=options)
    try:
        state = channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise ConnectionError(f"cannot reach {target} over gRPC")
    except BaseException:
        await channel.close(None)
        raise
    return GrpcConnection(channel, credentials.token, listener)
