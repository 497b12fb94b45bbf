"""Decompression in steps: what is given back, what is refused, and how much one step does."""

from __future__ import annotations

import gzip
import zlib

import pytest

from datasentinel.errors import InvalidInputError, ResourceExhaustedError
from datasentinel.serving.connections.inflate import Inflater


def inflated(data: bytes, coding: str = "gzip", max_bytes: int = 1 << 24) -> bytes:
    inflater = Inflater(data, coding, max_bytes)
    content = b""
    while not inflater.done:
        content += inflater.step()
    return content


TEXT = bytes(range(256)) * 4000


@pytest.mark.parametrize(
    ("data", "coding"),
    [
        (gzip.compress(TEXT), "gzip"),
        (gzip.compress(TEXT, 0), " GZIP"),
        (gzip.compress(TEXT), "x-gzip"),
        (gzip.compress(TEXT[:1000]) + gzip.compress(b"") + gzip.compress(TEXT[1000:], 0), "gzip"),
        (zlib.compress(TEXT), "deflate"),
    ],
    ids=["gzip", "stored", "x-gzip", "members", "deflate"],
)
def test_it_gives_back_what_was_compressed(data, coding):
    assert inflated(data, coding) == TEXT


@pytest.mark.parametrize(
    ("data", "coding", "reason"),
    [
        (gzip.compress(TEXT)[:-1], "gzip", "end too early"),
        (gzip.compress(TEXT) + b"junk", "gzip", "not gzip data"),
        (gzip.compress(TEXT) + gzip.compress(TEXT)[:5], "gzip", "end too early"),
        (zlib.compress(TEXT) + b"x", "deflate", "goes on behind"),
        (b"", "gzip", "end too early"),
        (b"plain", "deflate", "not deflate data"),
        (b"", "br", "expected identity, gzip or deflate, got 'br'"),
    ],
)
def test_it_refuses_what_is_broken(data, coding, reason):
    with pytest.raises(InvalidInputError, match=reason):
        inflated(data, coding)


def test_a_bomb_is_refused_in_small_steps():
    inflater = Inflater(gzip.compress(bytes(1 << 26)), "gzip", 1 << 20)
    for _ in range(8):
        assert len(inflater.step()) <= 1 << 17
        assert not inflater.done
    with pytest.raises(ResourceExhaustedError, match="longer than 1048576 bytes"):
        inflated(gzip.compress(bytes(1 << 26)), max_bytes=1 << 20)
