"""Brokers that run, and consumers of them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.integration.stream.brokers import BROKERS, Broker

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count()


_SLOW = ("amqp",)  # To start.


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in BROKERS],
)
def broker(request, tmp_path_factory) -> Iterator[Broker]:
    """Each kind of broker, running."""
    running = BROKERS[request.param](tmp_path_factory.mktemp(request.param))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def topic() -> str:
    """A name that no other test uses."""
    return f"t{next(_numbers)}"
