"""How many threads torch works with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch  # noqa: TID251

if TYPE_CHECKING:
    from collections.abc import Iterator

# Below this many multiplications a step, handing work to other threads costs more than they save.
_MULTIPLICATIONS_WORTH_THREADS = 1 << 24


@contextlib.contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """Use one thread for steps of few multiplications, and put torch's own number back."""
    before = torch.get_num_threads()
    if multiplications < _MULTIPLICATIONS_WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
