"""HTTP/2 frames by hand: what a client library would never send."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.integration.server_process import ServerProcess

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 2, 3, 4, 6, 7, 8
UNKNOWN = 0x77  # A type that nobody has defined.
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
ENHANCE_YOUR_CALM = 11

EVALUATE = "/datasentinel.v1.InferenceService/Evaluate"
EVALUATE_STREAM = "/datasentinel.v1.InferenceService/EvaluateStream"
WATCH = "/grpc.health.v1.Health/Watch"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _integer(value: int, bits: int, first: int) -> bytes:
    """HPACK's integers (RFC 7541, 5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out = [first | limit]
    value -= limit
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def field_line(name: str, value: str, *, indexed: bool = False) -> bytes:
    texts = b"".join(_integer(len(text), 7, 0) + text.encode() for text in (name, value))
    return (b"\x40" if indexed else b"\x00") + texts


def request_headers(path: str, **more: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "x",
        "te": "trailers",
        "content-type": "application/grpc",
    } | {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(field_line(name, value) for name, value in fields.items())


def message(body: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + struct.pack(">I", len(body)) + body


@dataclass
class Peer:
    """One connection, which respects the server's flow control where it sends data."""

    sock: socket.socket
    window: int = 65535
    stream_window: int = 65535
    windows: dict[int, int] = field(default_factory=dict)
    frames: list[tuple[int, int, int, bytes]] = field(default_factory=list)  # Kind, flags, stream, payload.
    ended: bool = False
    _rest: bytes = b""

    @classmethod
    def connect(cls, server: ServerProcess) -> Peer:
        sock = server.connect("grpc")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = cls(sock)
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        peer.receive(until=lambda: peer.has(SETTINGS))
        peer.send(frame(SETTINGS, ACK, 0))
        return peer

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError:
            self.ended = True

    def has(self, kind: int, stream: int | None = None) -> bool:
        return any(f[0] == kind and stream in (None, f[2]) for f in self.frames)

    def goaway(self) -> tuple[int, bytes] | None:
        """The error code and reason of the server's goodbye."""
        payloads = [payload for kind, _, _, payload in self.frames if kind == GOAWAY]
        return (int.from_bytes(payloads[-1][4:8], "big"), payloads[-1][8:]) if payloads else None

    def answered(self) -> int:
        """How many streams have got their trailers."""
        return sum(1 for kind, flags, _, _ in self.frames if kind == HEADERS and flags & END_STREAM)

    def receive(self, until=lambda: False, timeout_s: float = 10.0) -> bool:
        """Read until something holds; whether it does."""
        deadline = time.monotonic() + timeout_s
        while not until() and not self.ended and time.monotonic() < deadline:
            self.sock.settimeout(max(0.001, min(0.2, deadline - time.monotonic())))
            try:
                data = self.sock.recv(1 << 18)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            self.ended = not data
            self._take(data)
        return until()

    def _take(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 9:
            size = int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < 9 + size:
                return
            kind, flags = self._rest[3:5]
            stream = int.from_bytes(self._rest[5:9], "big")
            payload = self._rest[9 : 9 + size]
            self._rest = self._rest[9 + size :]
            self.frames.append((kind, flags, stream, payload))
            if kind == WINDOW_UPDATE and stream == 0:
                self.window += int.from_bytes(payload, "big")
            elif kind == WINDOW_UPDATE:
                credit = int.from_bytes(payload, "big")
                self.windows[stream] = self.windows.get(stream, self.stream_window) + credit
            elif kind == SETTINGS and not flags & ACK:
                for at in range(0, size, 6):
                    key, value = struct.unpack(">HI", payload[at : at + 6])
                    if key == 4:
                        self.stream_window = value

    def open(self, stream: int, path: str, *, end: bool = False, **more: str) -> None:
        self.send(
            frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, request_headers(path, **more))
        )

    def data(self, stream: int, data: bytes, *, end: bool = False, timeout_s: float = 5.0) -> int:
        """Send as much as the windows allow; how much that is."""
        sent = 0
        deadline = time.monotonic() + timeout_s
        while sent < len(data) and not self.ended:
            window = min(self.window, self.windows.setdefault(stream, self.stream_window))
            size = min(16384, len(data) - sent, window)
            if size <= 0:
                if time.monotonic() > deadline:
                    break
                before = (self.window, self.windows[stream])
                self.receive(
                    until=lambda before=before: (self.window, self.windows[stream]) != before, timeout_s=0.2
                )
                continue
            last = end and sent + size == len(data)
            self.send(frame(DATA, END_STREAM if last else 0, stream, data[sent : sent + size]))
            sent += size
            self.window -= size
            self.windows[stream] -= size
        return sent
