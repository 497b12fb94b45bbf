"""What a core can do at most: what measured times are compared with."""

from __future__ import annotations

from datasentinel.extension import native as _native

Roof = _native.Roof


def measure_roof(seconds: float = 0.15) -> list[Roof]:
    """Measure what one core can do at most, with every instruction set that runs here.

    Parameters
    ----------
    seconds : float
        About how long to measure in all. Touching the memory that is read (twice the last-level cache,
        64 to 256 MiB) comes on top.

    Returns
    -------
    list of Roof
        The most capable instruction set first; each has `isa` ("avx512", "avx2", "neon" or "portable"),
        `gflops` (float32 multiply-adds on registers, two operations each, in 1e9 operations/s) and the read
        bandwidths `l1_gb_s`, `l2_gb_s` and `memory_gb_s` in 1e9 bytes/s.

    Raises
    ------
    InvalidInputError
        `seconds` is not finite and greater than 0.
    """
    return _native.measure_roof(seconds)


def measure_gflops(isa: str, seconds: float) -> float:
    """Measure the multiply-add peak of one core, in 1e9 operations/s, for about `seconds`.

    Raises
    ------
    InvalidInputError
        `isa` cannot run here, or `seconds` is not finite and greater than 0.
    """
    return _native.measure_gflops(isa, seconds)
