"""How training reports its progress."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One pass over the data, or one tenth of a training that does not go by passes.

    Attributes
    ----------
    number, of : int
        Its number, from 1, and how many there will be at most.
    loss, held_out_loss : float
        Mean squared errors on the rows trained on and on held-out rows.
    """

    number: int
    of: int
    loss: float
    held_out_loss: float
