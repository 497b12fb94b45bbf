"""The listener, with a small protocol of its own over real sockets: faults stay in their connection."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from datasentinel.errors import ServerError
from datasentinel.serving.accounts import TransportAccount
from datasentinel.serving.connections.listener import Listener
from datasentinel.serving.connections.session import CLOSED, MID_MESSAGE, WAITING, Session


class Echo(Session):
    """Echoes what it gets; breaks when told to."""

    state = 0

    def take_turn(self, data: bytes) -> tuple[bytes, int]:
        if data == b"break":
            raise RuntimeError("broken on request")
        return data, CLOSED if data == b"bye" else 0

    def finish(self) -> bytes:
        if self.closed:
            raise RuntimeError("finished twice")
        return b"end"


@pytest.fixture
def account() -> TransportAccount:
    return TransportAccount()


class Lines(Echo):
    """Echoes whole lines; the start of another one waits for its end."""

    def __init__(self) -> None:
        self._partial = b""

    def take_turn(self, data: bytes) -> tuple[bytes, int]:
        lines, newline, self._partial = (self._partial + data).rpartition(b"\n")
        return lines + newline, MID_MESSAGE if self._partial else 0


class Elsewhere(Session):
    """Has many requests answered elsewhere, one after the other."""

    size_bytes = 1 << 20
    answers = 64
    given = 0
    state = 0

    def take_turn(self, data: bytes) -> tuple[bytes, int]:
        answer = b""
        if not data and self.state & WAITING:
            type(self).given += 1
            answer = b"a" * self.size_bytes
        if self.given == self.answers:
            return answer, 0
        asyncio.get_running_loop().call_soon(self._wake)
        return answer, WAITING

    def finish(self) -> bytes:
        return b""

    def on_wake(self, wake) -> None:
        self._wake = wake


class FastForward(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved on."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


def listener(
    account: TransportAccount, *, port: int = 0, host: str = "127.0.0.1", session=Echo, **limits: float
) -> Listener:
    return Listener(
        "echo",
        host,
        port,
        account=account,
        open_session=session,
        refusal=b"full",
        max_connections=2,
        idle_timeout_s=0.0,
        write_buffer_bytes=1024,
        **limits,
    )


def test_answers_from_elsewhere_wait_for_a_peer_that_reads(account):
    async def scenario() -> tuple[int, int]:
        echo = listener(account, session=Elsewhere)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, await echo.start())
        await loop.sock_sendall(sock, b"go")
        unread = -1
        while unread != Elsewhere.given:  # Until nothing moves any more.
            unread = Elsewhere.given
            await asyncio.sleep(0.2)
        read_bytes = 0
        while read_bytes < Elsewhere.answers * Elsewhere.size_bytes:
            read_bytes += len(await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 60))
        sock.close()
        await echo.stop(0)
        return unread, Elsewhere.given

    unread, given = asyncio.run(scenario())
    assert unread < 32  # Of 1 MiB each; the sockets' own buffers take some.
    assert given == Elsewhere.answers


def test_a_session_that_breaks_takes_only_its_own_connection(account, caplog):
    async def scenario() -> None:
        echo = listener(account)
        address = await echo.start()
        good_reader, good = await asyncio.open_connection(*address)
        bad_reader, bad = await asyncio.open_connection(*address)
        bad.write(b"break")
        assert await bad_reader.read() == b""
        good.write(b"hello")
        assert await good_reader.readexactly(5) == b"hello"
        assert account.open_connections == 1
        good.write_eof()
        assert await good_reader.read() == b"end"
        for writer in (good, bad):
            writer.close()
            await writer.wait_closed()
        await echo.stop(1.0)
        assert account.open_connections == 0

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    (record,) = caplog.records
    assert record.message == "connection_failed"
    assert "broken on request" in str(record.exc_info[1])


def test_connections_far_over_the_limit_are_cut_off(account, monkeypatch):
    monkeypatch.setattr(
        "datasentinel.serving.connections.connection._LINGER_S", 60
    )  # Nobody leaves meanwhile.

    async def scenario() -> list[bytes]:
        echo = listener(account)
        address = await echo.start()
        opened = []
        for _ in range(5):
            opened.append(await asyncio.open_connection(*address))
            await asyncio.sleep(0.01)
        answers = [await reader.read() for reader, _ in opened[2:]]
        for reader, writer in opened[:2]:
            writer.write(b"bye")
            answers.append(await reader.read())
        for _, writer in opened:
            writer.close()
        await echo.stop(2.0)
        return answers

    assert asyncio.run(scenario()) == [b"full", b"full", b"", b"bye", b"bye"]
    assert account.open_connections == 0


def test_addresses_that_cannot_be_bound_are_named(account):
    async def scenario() -> None:
        echo = listener(account)
        address = await echo.start()
        with pytest.raises(
            ServerError, match=rf"listen for echo on 127\.0\.0\.1:{address.port}: Address already"
        ):
            await listener(account, port=address.port).start()
        await echo.stop(0.0)

    asyncio.run(scenario())
    with pytest.raises(ServerError, match=r"host 'no-such-host\.invalid' cannot be resolved"):
        asyncio.run(listener(account, host="no-such-host.invalid").start())


def test_stopping_what_never_started_is_nothing(account):
    asyncio.run(listener(account).stop(1.0))


def test_each_message_has_its_own_time_to_arrive(account):
    """A chunk may end in the middle of a message, again and again; only one message that takes long is slow."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FastForward)
        lines = listener(account, session=Lines, receive_timeout_s=1000.0)
        reader, writer = await asyncio.open_connection(*await lines.start())
        writer.write(b"a")
        for _ in range(10):
            await asyncio.sleep(0.05)
            loop.ahead_s += 600.0
            writer.write(b"b\na")
            assert await reader.readexactly(3) == b"ab\n"
        assert account.timed_out_connections == 0
        loop.ahead_s += 1100.0
        assert await reader.read() == b""
        assert account.timed_out_connections == 1
        writer.close()
        await lines.stop(1.0)

    with asyncio.Runner(loop_factory=FastForward) as runner:
        runner.run(scenario())
