"""The line protocol's session as a property: any bytes, in any pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasentinel import Detector
from datasentinel.serving.accounts import TransportAccount
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.lines.session import LineStream
from datasentinel.serving.settings import Settings
from tests.networks import Network, write_artifact

D = 3
MAX_LINE_BYTES = 48


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> DataPlane:
    network = Network.random([D, 2, D])
    folder = tmp_path_factory.mktemp("models")
    detector = Detector.load(write_artifact(folder, network.to_onnx(), input_dim=D, threshold=1.0))
    # What is fed is scored on return, also on a machine that is slow at times.
    return DataPlane(detector, settings=Settings(max_inline_us=60e6))


def line_stream(plane: DataPlane, max_line_bytes: int) -> LineStream:
    return LineStream(plane.inference, plane.request_counts("tcp"), max_line_bytes=max_line_bytes)


tokens = st.one_of(
    st.floats(width=32).map(repr),
    st.sampled_from(
        ["1", "-2.5e3", "+.5", "nan", "inf", "1e99", "1e-99", "0x1p3", "--1", "1_0", "", "e", "٣"]
    ),
)
lines = st.one_of(
    st.lists(st.floats(-1e6, 1e6, width=32).map(repr), min_size=D, max_size=D).map(" ".join).map(str.encode),
    st.lists(tokens, max_size=D + 2).map(", ".join).map(str.encode),
    st.text(" \t\r,", max_size=5).map(str.encode),
    st.binary(max_size=60),
)
streams = st.one_of(
    st.binary(max_size=300),
    st.lists(lines, max_size=12).flatmap(
        lambda parts: st.sampled_from([b"\n", b"\r\n", b"\n\n"]).map(lambda newline: newline.join(parts))
    ),
)


def replies_in_pieces(plane: DataPlane, stream: bytes, cuts: list[int]) -> bytes:
    session = line_stream(plane, MAX_LINE_BYTES)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    replies = b"".join(session.feed(stream[a:b]) for a, b in pairwise(edges))
    return replies + session.finish()


def expected_kinds(stream: bytes) -> list[str]:
    """Read the protocol's description: which lines are answered, and which end the stream."""
    kinds = []
    for line in stream.split(b"\n"):
        if len(line) > MAX_LINE_BYTES:
            return [*kinds, "over-long"]
        if line.removesuffix(b"\r").strip(b" \t"):
            kinds.append("line")
    return kinds


@settings(max_examples=250)
@given(stream=streams, cuts=st.lists(st.integers(0, 400), max_size=20))
def test_one_reply_a_line_whatever_the_bytes_and_the_pieces(plane, stream, cuts):
    replies = replies_in_pieces(plane, stream, cuts)
    assert replies == replies_in_pieces(plane, stream, [])
    assert replies == b"" or replies.endswith(b"\n")
    answers = replies.decode("ascii").splitlines()
    kinds = expected_kinds(stream)
    assert len(answers) == len(kinds)
    for answer, kind in zip(answers, kinds, strict=True):
        if kind == "over-long":
            assert answer == f"ERROR: line longer than {MAX_LINE_BYTES} bytes"
        else:
            assert answer in ("OK", "ANOMALY") or (answer.startswith("ERROR: ") and answer.isprintable())


@settings(max_examples=200)
@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=D, max_size=D), max_size=8),
    separator=st.sampled_from([" ", ",", ", ", "\t", " , "]),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_good_rows_get_the_detector_s_decisions(plane, rows, separator, newline):
    counts = plane.request_counts("tcp")
    session = LineStream(plane.inference, counts, max_line_bytes=1000)
    text = "".join(separator.join(map(repr, row)) + newline for row in rows)
    decisions = plane.detector.predict(np.array(rows, dtype=np.float32).reshape(-1, D))
    expected = b"".join(b"ANOMALY\n" if decision else b"OK\n" for decision in decisions)
    assert session.feed(text.encode()) == expected
    account = TransportAccount()
    account.take(counts, str)
    assert (account.requests, account.rows, account.errors) == (len(rows), len(rows), 0)


def test_nothing_is_read_after_an_over_long_line(plane):
    session = line_stream(plane, MAX_LINE_BYTES)
    assert session.feed(b"1" * (MAX_LINE_BYTES + 1)).startswith(b"ERROR: line longer")
    assert session.closed
    assert session.feed(b"\n1 2 3\n") == b""
    assert session.finish() == b""
