"""The line protocol over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import numpy as np
import pytest

from tests.integration.server_process import read_all, to_line, to_lines, to_replies

VALID = b"1 2 3 4 5 6 7 8"


def test_pipelined_lines_are_answered_in_order(server, detector, rows):
    replies = server.ask(to_lines(rows)).split(b"\n")
    assert replies.pop() == b""
    assert replies == to_replies(detector.predict(rows))
    assert set(replies) == {b"OK", b"ANOMALY"}


def test_one_line_at_a_time(server, detector, rows):
    expected = to_replies(detector.predict(rows[:50]))
    with server.connect() as sock, sock.makefile("rb") as replies:
        for row, reply in zip(rows[:50], expected, strict=True):
            sock.sendall(to_line(row))
            assert replies.readline() == reply + b"\n"


def test_bytes_may_arrive_one_by_one(server, detector, rows):
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in to_lines(rows[:3]):
            sock.sendall(bytes([byte]))
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).split() == to_replies(detector.predict(rows[:3]))


def test_every_invalid_line_is_answered_in_its_place(server, detector):
    lines = [
        VALID,
        b"1 2 3",
        b"1 2 3 4 5 6 7 8 9",
        b"1 2 3 4 5 6 7 eight",
        b"1 2 3 4 5 6 7 nan",
        b"1 2 3 4 5 6 7 -inf",
        b"1 2 3 4 5 6 7 1e39",
        b"1,2,3,4,5,6,7,",
        b"\x00\xff\xfe\x80 junk \x7f",
        b"GET / HTTP/1.1",
        b"1,2,3,4,5,6,7,8\r",
        b"",
        b" \t ",
        b"1, 2, 3, 4, 5, 6, 7, 8",
    ]
    good = to_replies(detector.predict(np.arange(1, 9, dtype=np.float32)))[0]
    replies = server.ask(b"\n".join(lines)).split(b"\n")
    assert replies == [
        good,
        b"ERROR: expected 8 values, got 3",
        b"ERROR: expected 8 values, got 9",
        b"ERROR: value 8 is not a number: 'eight'",
        b"ERROR: value 8 is not finite: 'nan'",
        b"ERROR: value 8 is not finite: '-inf'",
        b"ERROR: value 8 is outside float32's range: '1e39'",
        b"ERROR: value 8 is empty",
        b"ERROR: value 1 is not a number: '????'",
        b"ERROR: value 1 is not a number: 'GET'",
        good,
        good,
        b"",
    ]


def test_a_last_line_without_a_newline_is_answered(server, detector, rows):
    (expected,) = to_replies(detector.predict(rows[0]))
    assert server.ask(to_line(rows[0]).rstrip(b"\n")) == expected + b"\n"


def test_nothing_sent_is_nothing_answered(server):
    assert server.ask(b"") == b""


def test_a_half_closed_connection_still_gets_every_answer(server, detector, rows):
    many = np.tile(rows, (4, 1))
    with server.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(to_lines(many))
        sock.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        assert read_all(sock).split() == to_replies(detector.predict(many))


@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_an_over_long_line_is_answered_and_ends_the_connection(server, detector, newline):
    (good,) = to_replies(detector.predict(np.arange(1, 9, dtype=np.float32)))
    with server.connect() as sock:
        # More follows, so that closing with unread bytes would reset the connection.
        sock.sendall(VALID + b"\n" + b"1" * ((1 << 20) + 1) + newline + (VALID + b"\n") * 1000)
        assert read_all(sock) == good + b"\nERROR: line longer than 1048576 bytes\n"


def test_clients_do_not_lose_or_swap_replies(server, detector, rows):
    clients, lines, window = 32, 1000, 16

    async def talk(rows: np.ndarray) -> list[bytes]:
        reader, writer = await asyncio.open_connection(server.host, server.tcp_port)
        replies = []
        for start in range(0, lines, window):
            part = rows[start : start + window]
            writer.write(to_lines(part))
            replies += [(await reader.readline()).rstrip() for _ in part]
        writer.close()
        await writer.wait_closed()
        return replies

    async def talk_all(rows: np.ndarray) -> list[list[bytes]]:
        return await asyncio.gather(*map(talk, rows))

    picked = rows[np.random.default_rng(7).integers(0, len(rows), (clients, lines))]
    for mine, replies in zip(picked, asyncio.run(talk_all(picked)), strict=True):
        assert replies == to_replies(detector.predict(mine))


def test_a_client_that_does_not_read_waits_and_harms_nobody(server, detector, rows):
    line = b"xxxxxxxxxx\n"  # Its reply is longer.
    flood = line * 8192
    before = server.rss_bytes()
    with server.connect() as sock:
        sock.setblocking(False)
        sent = 0
        blocked_since = time.monotonic()
        while time.monotonic() - blocked_since < 0.5 and sent < 64 << 20:
            try:
                sent += sock.send(flood[sent % len(line) :])
                blocked_since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
        assert sent < 64 << 20, "the server never stopped reading"
        assert server.rss_bytes() - before < 48 << 20
        assert server.ask(to_lines(rows[:5])).split() == to_replies(detector.predict(rows[:5]))

        sock.setblocking(True)
        sock.shutdown(socket.SHUT_WR)
        replies = read_all(sock)
    *full, last = replies.splitlines()
    assert len(full) == (sent - 1) // len(line)
    assert set(full) == {b"ERROR: value 1 is not a number: 'xxxxxxxxxx'"}
    assert last.startswith(b"ERROR: value 1 is not a number: 'x")


def test_a_reset_connection_harms_nobody(server, detector, rows):
    for _ in range(20):
        with server.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(to_lines(rows[:100]) + b"1 2 3")
    assert server.ask(to_lines(rows[:5])).split() == to_replies(detector.predict(rows[:5]))


def test_connections_over_the_limit_are_told_so(limited):
    held = [limited.connect() for _ in range(3)]
    try:
        for sock in held:
            sock.sendall(VALID + b"\n")
            assert sock.recv(100).endswith(b"\n")
        with limited.connect() as sock:
            sock.sendall(VALID + b"\n")
            assert read_all(sock) == b"ERROR: too many connections, try again later\n"
        held.pop().close()
        deadline = time.monotonic() + 30
        while limited.ask(VALID + b"\n").startswith(b"ERROR"):
            assert time.monotonic() < deadline, "a closed connection still counts"
            time.sleep(0.01)
    finally:
        for sock in held:
            sock.close()
    limited.wait_for_log("event=connection_refused transport=tcp")


def test_idle_connections_are_closed(limited):
    with limited.connect() as idle, limited.connect("http") as idle_http:
        started = time.monotonic()
        assert idle.recv(1) == b""
        assert 2.4 < time.monotonic() - started < 30
        assert idle_http.recv(1) == b""


def test_the_line_limit_can_be_set(limited):
    assert limited.ask(b" " * 100 + b"\n" + b" " * 101) == b"ERROR: line longer than 100 bytes\n"
