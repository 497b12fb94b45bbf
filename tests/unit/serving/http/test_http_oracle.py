"""The HTTP session beside h11: what one reads, the other reads, and h11 understands every reply."""

from __future__ import annotations

import re
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datasentinel.backend import HttpService
from datasentinel.serving.data_plane import DataPlane

EVENT, CLOSED, UNFINISHED = 32, 4, 8

names = st.sampled_from(["X-A", "x_b", "Accept", "Content-Type", "!#$%&'*+-.^_`|~0"])
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
targets = st.text(st.sampled_from("abz/?&=%20.-_~:@"), max_size=20).map("/".__add__)
bodies = st.lists(st.binary(min_size=1, max_size=50), max_size=5)


@pytest.fixture(scope="module")
def service() -> HttpService:
    plane = DataPlane()
    counts = plane.request_counts("http", str)
    return HttpService(
        plane.inference.native, counts, max_body_bytes=1000, max_request_rows=10, server="test"
    )


def read_by_session(service: HttpService, data: bytes, cuts: list[int]) -> tuple[list, bytes]:
    """The requests as its owner sees them, each answered by its body, and all that was sent."""
    session = service.open_session()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    seen, out = [], b""
    for begin, end in pairwise(edges):
        sent, state = session.feed(data[begin:end])
        out += sent
        while state & (EVENT | UNFINISHED):
            if state & EVENT:
                _, method, target, fields, body = session.take_event()
                seen.append((method, target, fields, body))
                session.respond(200, "Content-Type: text/plain\r\n", body)
            sent, state = session.feed(b"")
            out += sent
    return seen, out + session.finish()[0]


def read_by_h11(data: bytes) -> list | None:
    """The requests as h11 sees them; None where it refuses one."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    connection.receive_data(b"")
    seen = []
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                fields = {name.decode(): value.decode("latin-1") for name, value in request.headers}
                seen.append((request.method.decode(), request.target.decode(), fields, body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return seen
                connection.start_next_cycle()
            else:
                return seen
    except h11.RemoteProtocolError:
        return None


def replies_read_by_h11(out: bytes, methods: list[str]) -> list[bytes]:
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(out)
    bodies = []
    for method in methods:
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        assert isinstance(connection.next_event(), h11.Response)
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        bodies.append(body)
        if connection.their_state is h11.DONE:
            connection.start_next_cycle()
    return bodies


@st.composite
def requests(draw) -> bytes:
    body = draw(bodies)
    method = draw(st.sampled_from(["GET", "POST", "PUT", "HEAD"]))
    fields = [("Host", "x"), *draw(st.lists(st.tuples(names, values), max_size=4, unique_by=lambda f: f[0]))]
    if draw(st.booleans()):
        fields.append(("Content-Length", str(len(b"".join(body)))))
        content = b"".join(body)
    else:
        fields.append(("Transfer-Encoding", "chunked"))
        content = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body) + b"0\r\n\r\n"
    head = f"{method} {draw(targets)} HTTP/1.1\r\n" + "".join(f"{name}: {text}\r\n" for name, text in fields)
    return head.encode() + b"\r\n" + content


@settings(max_examples=200)
@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 2000), max_size=10))
def test_both_read_the_same(service, stream, cuts):
    data = b"".join(stream)
    seen, out = read_by_session(service, data, cuts)
    assert seen == read_by_h11(data)
    answers = [b"" if method == "HEAD" else body for method, _, _, body in seen]
    assert replies_read_by_h11(out, [method for method, *_ in seen]) == answers


@settings(max_examples=400)
@given(requests(), st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), min_size=1, max_size=3))
@example(b"GET /0 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", [(14, b"\x00")])
@example(b"GET /0 HTTP/1.1\r\nHost: xx\r\nX-A: \r\nX-B: 0\r\n\r\n", [(24, b"\n")])
def test_the_session_accepts_no_head_that_h11_refuses(service, request_bytes, damages):
    data = bytearray(request_bytes.partition(b"\r\n\r\n")[0])
    for position, replacement in damages:
        at = position % len(data)
        data[at : at + 1] = replacement
    # Damage can end the head early; what follows would be a request of its own.
    head = re.split(rb"\n\r?\n", bytes(data).lstrip(b"\r\n"))[0] + b"\r\n\r\n"
    seen, _ = read_by_session(service, head, [])
    if seen:
        assert seen == read_by_h11(head)
