"""Closed-loop load over the line protocol, in a process of its own: `bench_tcp` starts it.

Reads one JSON object from stdin: `port`, `clients`, `depth`, `warm_up_s`, `seconds`, `max_requests`,
`server_pid`, `lines` and `replies` (what to send, over and over, and what must come back). Prints one JSON
object. Standard library only, blocking on nothing but select.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from array import array
from collections import deque

from benchmarks.served import cpu_s

_MAX_BURST_BYTES = 32 << 10  # fits every socket buffer, so that one send takes all of it


class Client:
    """One connection with `depth` lines in flight: each reply is followed by the next line."""

    def __init__(self, port: int, lines: list[bytes], replies: list[bytes], first: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._lines, self._replies = lines, replies
        self._to_send = self._to_receive = first
        self._bursts: deque[tuple[float, int]] = deque()  # when sent, lines of it without a reply
        self._partial = b""

    def send(self, count: int) -> None:
        size = len(self._lines)
        burst = b"".join(self._lines[(self._to_send + offset) % size] for offset in range(count))
        self._bursts.append((time.perf_counter(), count))
        if self.socket.send(burst) != len(burst):
            raise RuntimeError("the socket took a part of a burst only")
        self._to_send += count

    def receive(self, latencies: array[float]) -> int:
        """Check the replies that are here, append their latencies and return their number."""
        data = self.socket.recv(1 << 16)
        now = time.perf_counter()
        if not data:
            raise RuntimeError("the server closed a connection")
        *got, self._partial = (self._partial + data).split(b"\n")
        size = len(self._replies)
        for reply in got:
            if reply != self._replies[self._to_receive % size]:
                raise RuntimeError(f"wrong reply to line {self._to_receive % size}: {reply!r}")
            self._to_receive += 1
        left = len(got)
        while left:
            sent_s, waiting = self._bursts.popleft()
            answered = min(waiting, left)
            latencies.extend([now - sent_s] * answered)
            left -= answered
            if answered < waiting:
                self._bursts.appendleft((sent_s, waiting - answered))
        return len(got)


def drive(selector: selectors.BaseSelector, seconds: float, max_requests: int) -> tuple[array[float], float]:
    """Keep the clients going; give the latencies and the time it took."""
    latencies: array[float] = array("d")
    start = time.perf_counter()
    end = start + seconds
    while (now := time.perf_counter()) < end and len(latencies) < max_requests:
        ready = selector.select(5)
        if not ready:
            raise RuntimeError("no reply for 5 s")
        for key, _ in ready:
            count = key.data.receive(latencies)
            if count:
                key.data.send(count)
    return latencies, now - start


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest value that `percent` of all values do not exceed."""
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def main() -> None:
    """Measure one setting."""
    spec = json.load(sys.stdin)
    lines = [line.encode() for line in spec["lines"]]
    replies = [reply.encode() for reply in spec["replies"]]
    if max(map(len, lines)) * spec["depth"] > _MAX_BURST_BYTES:
        raise SystemExit(f"depth {spec['depth']} with lines this long exceeds {_MAX_BURST_BYTES} bytes")
    clients = [Client(spec["port"], lines, replies, first=index * 31) for index in range(spec["clients"])]
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.send(spec["depth"])
        drive(selector, spec["warm_up_s"], spec["max_requests"])
        server_cpu_s, own_cpu_s = cpu_s(spec["server_pid"]), time.process_time()
        latencies, elapsed_s = drive(selector, spec["seconds"], spec["max_requests"])
        server_cpu_s, own_cpu_s = cpu_s(spec["server_pid"]) - server_cpu_s, time.process_time() - own_cpu_s
    for client in clients:
        client.socket.close()
    ordered = sorted(latencies)
    result = {
        "clients": spec["clients"],
        "depth": spec["depth"],
        "requests": len(ordered),
        "elapsed_s": elapsed_s,
        "requests_per_s": len(ordered) / elapsed_s,
        **{f"p{percent}_us": percentile(ordered, percent) * 1e6 for percent in (50, 90, 99)},
        "server_cpu_us_per_request": server_cpu_s / len(ordered) * 1e6,
        "server_cpu_share": server_cpu_s / elapsed_s,
        "load_cpu_share": own_cpu_s / elapsed_s,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
