"""Recordings whose anomalies show only in their context."""

from __future__ import annotations

import numpy as np


def oscillations(rows, seed=0):
    """Six metrics that follow two oscillations with noise, and one that never moves."""
    random = np.random.default_rng(seed)
    t = np.arange(rows)[:, None]
    waves = np.sin(2 * np.pi * (t / np.array([[50.0, 83.0]]) + random.random(2)))
    mix = np.random.default_rng(1).normal(size=(2, 6))
    values = (waves @ mix + 0.1 * random.normal(size=(rows, 6))) * np.geomspace(0.01, 100, 6) + 20
    return np.column_stack([values, np.full(rows, 3.0)]).astype(np.float32)


def noisy(rows, first, end, seed=0):
    """Make the rows from `first` to `end` shake about where they were: each value by itself is usual."""
    random = np.random.default_rng(seed)
    changed = rows.copy()
    spread = rows.std(axis=0)
    changed[first:end, 0] = rows[first, 0] + random.choice([-0.7, 0.7], end - first) * spread[0]
    return changed
