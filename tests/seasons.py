"""Metrics of a machine whose days and weeks resemble each other, with a backup every night."""

from __future__ import annotations

import numpy as np

STEP_S = 300
A_DAY = 86_400 // STEP_S


def telemetry(days, seed=0, *, weekend=0.5, start_day=0):
    """Return rows [N, 5] every five minutes, and their seconds of the week.

    Load by the hour and by the day of the week, latency that follows it, disk traffic with a backup from
    02:00 to 02:30, memory, and a temperature that has no season.
    """
    random = np.random.default_rng(seed)
    t = np.arange(days * A_DAY) * STEP_S + start_day * 86_400.0
    hour = t / 3600 % 24
    at_weekend = (t // 86_400 % 7) >= 5
    load = (1 + np.cos(2 * np.pi * (hour - 14) / 24)) * np.where(at_weekend, weekend, 1.0)
    backup = (hour >= 2) & (hour < 2.5)
    noise = random.normal(size=(len(t), 5))
    rows = np.column_stack(
        [
            50 + 20 * load + 2 * noise[:, 0],
            5 + load + 0.2 * noise[:, 1],
            100 + 400 * backup + 10 * noise[:, 2],
            2e6 + 1e4 * load + 500 * noise[:, 3],
            21 + 0.3 * noise[:, 4],
        ]
    )
    return rows.astype(np.float32), t % (7 * 86_400)
