"""Sources of normal rows as people have them, for tests of what must hold on every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.types import Float64Array

    Column = Callable[[np.random.Generator, int], Float64Array]


def _continuous(random, scale):
    return lambda r, n: scale * r.normal(size=n)


def _heavy(random, scale):
    degrees = random.uniform(1.5, 4)
    return lambda r, n: scale * r.standard_t(degrees, size=n)


def _skewed(random, scale):
    sigma = random.uniform(0.5, 2)
    return lambda r, n: scale * r.lognormal(sigma=sigma, size=n)


def _two_modes(random, scale):
    gap = random.uniform(3, 50)
    return lambda r, n: scale * (r.normal(size=n) + gap * (r.random(n) < 0.4))


def _counts(random, scale):
    rate = 10 ** random.uniform(-2, 3)
    return lambda r, n: r.poisson(rate, n)


def _flag(random, scale):
    share = random.choice([0.001, 0.02, 0.2, 0.5, 0.9, 0.998])
    return lambda r, n: r.random(n) < share


def _codes(random, scale):
    codes = random.integers(0, 600, size=random.integers(2, 12))
    shares = random.dirichlet(np.full(len(codes), 0.5))
    return lambda r, n: r.choice(codes, n, p=shares)


def _constant(random, scale):
    value = random.choice([0.0, 1.0, -273.15, 1e6]) * scale
    return lambda r, n: np.full(n, value)


def _rare_spike(random, scale):
    share = 10 ** random.uniform(-3.5, -1.5)
    return lambda r, n: scale * (1 + 5 * (r.random(n) < share))


def _rounded(random, scale):
    step = 10 ** random.uniform(-2, 0.5)
    return lambda r, n: scale * step * np.round(r.normal(size=n) / step)


_KINDS = {
    "continuous": [_continuous],
    "discrete": [_counts, _flag, _codes],
    "flags": [_flag],
    "almost constant": [_rare_spike, _constant, _rare_spike],
    "heavy tails": [_heavy, _skewed],
    "one continuous, many discrete": [_flag, _codes, _counts, _constant],
    "everything": [
        _continuous, _heavy, _skewed, _two_modes, _counts, _flag, _codes, _constant, _rare_spike, _rounded,
    ],
}  # fmt: skip
STRUCTURES = (*_KINDS, "one-hot", "low rank", "repeated rows")


@dataclass(frozen=True)
class Table:
    """A source of exchangeable rows.

    Attributes
    ----------
    structure : str
        One of `STRUCTURES`.
    width : int
        Columns, D.
    unit : tuple of two floats
        Offset and scale of the columns that have units.
    seed : int
    """

    structure: str
    width: int
    unit: tuple[float, float]
    seed: int

    def rows(self, count: int, sample: int) -> Float64Array:
        """Draw rows [count, D]; equal for equal `sample`."""
        random = np.random.default_rng([self.seed, sample])
        return getattr(self, f"_{self.structure.replace(' ', '_').replace('-', '_')}", self._columns)(
            np.random.default_rng(self.seed), random, count
        )

    def _columns(self, design, random, count):
        offset, scale = self.unit
        choices = _KINDS[self.structure]
        makers = [choices[i] for i in design.integers(len(choices), size=self.width)]
        if self.structure.startswith("one continuous"):
            makers[0] = _continuous
        units = design.random(self.width) < 0.5
        columns = []
        for i, make in enumerate(makers):
            with_unit = bool(units[i]) or i == 0
            column = make(design, scale if with_unit else 1.0)(random, count)
            columns.append(column + offset if with_unit and make is not _flag else column)
        return np.column_stack(columns).astype(np.float64)

    def _one_hot(self, design, random, count):
        modes = design.dirichlet(np.ones(self.width))
        return np.eye(self.width)[random.choice(self.width, count, p=modes)]

    def _low_rank(self, design, random, count):
        offset, scale = self.unit
        rank = int(design.integers(1, max(2, self.width // 2)))
        mixing = design.normal(size=(rank, self.width))
        noise = design.choice([0.0, 1e-6, 0.05])
        causes = random.normal(size=(count, rank)) @ mixing + noise * random.normal(size=(count, self.width))
        return scale * causes + offset

    def _repeated_rows(self, design, random, count):
        offset, scale = self.unit
        few = scale * design.normal(size=(int(design.integers(2, 40)), self.width)) + offset
        return few[random.integers(len(few), size=count)]
