"""What IO binding must not change: every answer, for every batch size around its powers of two."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from datasentinel import Detector
from tests.networks import Network

# Either side of a power of two, the largest batch (8192) twice over, and more than eight of them.
SIZES = (1, 2, 3, 7, 8, 9, 1000, 5000, 16384, 70000)


def rows_of(network: Network, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (count, network.input_dim)).astype(np.float32)


def check_every_answer(detector: Detector, network: Network, rows: np.ndarray, rtol: float) -> None:
    """Scores, reconstructions and contributions are the float64 reference's."""
    scores, reconstructions = network.reference(rows)
    np.testing.assert_allclose(detector.score(rows), scores, rtol=rtol)
    np.testing.assert_allclose(detector.reconstruct(rows), reconstructions, rtol=rtol, atol=rtol)
    contributions = detector.contributions(rows)
    # A term is a square, whose relative error has no bound near zero.
    np.testing.assert_allclose(contributions, network.reference_contributions(rows), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(contributions.sum(axis=1), scores, rtol=rtol)


def check_callers_at_once(detector: Detector, network: Network, rtol: float, callers: int = 8) -> None:
    """Callers with rows and batch sizes of their own get their own scores, again and again."""

    def call(caller: int) -> None:
        for turn in range(20):
            rows = rows_of(network, 1 + (37 * caller + 11 * turn) % 300, seed=1000 * caller + turn)
            np.testing.assert_allclose(detector.score(rows), network.reference(rows)[0], rtol=rtol)

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
