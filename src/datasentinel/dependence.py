"""What scores that depend on each other say about a threshold: those of rows that follow each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import Float32Array, Float64Array

# As many as give seven degrees of freedom, for which the distribution of t below is written out.
BLOCKS = 8
_LEAST_BLOCK_ROWS = 2
_HALVINGS = 60


def independent_rows(scores: Float32Array, share: float) -> int:
    """Return how many independent scores would determine a high quantile as well; at least 1.

    N / (1 + 2 sum of autocorrelations) of whether a score is above the quantile, or the greatest where none
    is, summed as long as those of two neighbouring lags are positive together (C. Geyer, "Practical Markov
    chain Monte Carlo", 1992): high scores of a recording come in clusters.

    Parameters
    ----------
    scores : float32 array, shape [N]
        Of a recording.
    share : float
        Of the scores above the quantile.
    """
    count = len(scores)
    level = np.quantile(scores, 1 - share)
    above = (scores > level if level < scores.max() else scores == level).astype(np.float64)
    above -= above.mean()
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(above, size)
    covariances = np.fft.irfft(spectrum * np.conj(spectrum), size)[:count]
    if not covariances[0] > 0:
        return 1
    pairs = covariances[: count // 2 * 2].reshape(-1, 2).sum(axis=1) / covariances[0]
    negative = np.flatnonzero(pairs <= 0)
    positive = pairs[: negative[0]] if negative.size else pairs
    return int(np.clip(count / max(2 * float(positive.sum()) - 1, 1.0), 1, count))


class DriftingScores:
    """Scores of a recording as blocks, whose levels differ by chance: what those of the next block will be.

    The logarithm of a score is the level of its block plus a deviation. The levels of eight blocks give
    that of the next one by a t distribution; the deviations of all blocks, as they are, are the other
    part: the prediction of a one-way model of random effects (S. Searle, G. Casella, C. McCulloch, "Variance
    Components", 1992). So a recording that wanders from block to block gets a threshold further out than its
    rows alone would ask for; one that does not gets about their quantile.

    Parameters
    ----------
    scores : float32 array, shape [N], N >= 16
        Positive, in the order of their rows.
    """

    def __init__(self, scores: Float32Array) -> None:
        tiny = float(np.finfo(np.float32).tiny)
        blocks = np.array_split(np.log(np.maximum(scores.astype(np.float64), tiny)), BLOCKS)
        levels = np.array([np.median(block) for block in blocks])
        # Of the next block's level about the mean of these.
        self._deviation = float(levels.std(ddof=1) * np.sqrt(1 + 1 / BLOCKS))
        self._scores = levels.mean() + np.concatenate([b - m for b, m in zip(blocks, levels, strict=True)])

    @staticmethod
    def applies(scores: Float32Array) -> bool:
        """Return whether there are enough scores, none of them negative."""
        return len(scores) >= _LEAST_BLOCK_ROWS * BLOCKS and bool(scores.min() >= 0)

    def share_above(self, threshold: float) -> float:
        """Return the share of the next block's scores to expect above a threshold > 0."""
        beyond = np.log(threshold) - self._scores
        if self._deviation == 0:
            return float((beyond < 0).mean())
        return float(_t_tail(beyond / self._deviation).mean())

    def threshold(self, share: float) -> float:
        """Return the threshold that this share of the next block's scores is expected above."""
        low, high = float(self._scores.min()), float(self._scores.max())
        while self.share_above(float(np.exp(high))) > share:
            high += 1 + self._deviation
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.share_above(float(np.exp(middle))) > share:
                low = middle
            else:
                high = middle
        return float(np.exp(high))


def _t_tail(t: Float64Array) -> Float64Array:
    """P(T > t) of seven degrees of freedom; M. Abramowitz, I. Stegun, 26.7.3."""
    angle = np.arctan(t / np.sqrt(BLOCKS - 1))
    cosine = np.cos(angle)
    within = angle + np.sin(angle) * (cosine + 2 / 3 * cosine**3 + 8 / 15 * cosine**5)
    tail: Float64Array = 0.5 - within / np.pi
    return tail
