"""What a threshold promises of a recording, and what it keeps: the figures of docs/quality.md, Recordings.

`python -m benchmarks.promises` generates recordings of a few kinds, trains a subspace on the beginning of
each, and prints the share of the rows after it above the threshold beside the share that was promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.training import TrainingSettings, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.types import Float64Array

RECORDINGS = 200
TRAINING_ROWS, LATER_ROWS = 3000, 6000
CORRELATION = 0.97  # Of neighbouring rows.


def sensors(random: np.random.Generator, count: int, columns: int = 8) -> Float64Array:
    """Unrelated autoregressive columns of variance 1."""
    rows = random.normal(size=(count, columns))
    rows[1:] *= np.sqrt(1 - CORRELATION**2)
    for i in range(1, count):
        rows[i] += CORRELATION * rows[i - 1]
    return rows


def on_and_off(random: np.random.Generator, count: int) -> Float64Array:
    """Generate a machine that stays on or off for a hundred rows."""
    on = np.cumsum(random.random(count) < 0.01) % 2
    noise = random.normal(size=(2, count))
    slow = sensors(random, count, 1)[:, 0]
    return np.column_stack([50 * on + noise[0], 10 * on + 0.2 * noise[1], 20 + 5 * on + slow])


def sawteeth(random: np.random.Generator, count: int) -> Float64Array:
    """Two ramps of different lengths, and two slow sensors."""
    time = np.arange(count)
    ramps = [time % 100 + 0.1 * random.normal(size=count), (time + 30.0) % 250]
    return np.column_stack([*ramps, sensors(random, count, 2)])


def sines(random: np.random.Generator, count: int) -> Float64Array:
    """Four waves of different lengths with noise."""
    time = np.arange(count) + random.integers(0, 1000)
    return np.column_stack(
        [np.sin(time / length) + 0.1 * random.normal(size=count) for length in (5, 20, 50, 90)]
    )


KINDS: tuple[Callable[[np.random.Generator, int], Float64Array], ...] = (sensors, on_and_off, sawteeth, sines)


def main() -> None:
    """Print for each kind what was above the threshold, with its standard error, and what was promised."""
    print("| recordings | above the threshold | promised | promised of independent rows |\n|---|---|---|---|")
    for generate in KINDS:
        above, promised = [], []
        for seed in range(RECORDINGS):
            rows = generate(np.random.default_rng(seed), TRAINING_ROWS + LATER_ROWS).astype(np.float32)
            result = train(rows[:TRAINING_ROWS], settings=TrainingSettings(model="subspace"))
            calibration = result.calibration
            above.append(np.mean(result.model.score(rows[TRAINING_ROWS:]) > calibration.threshold))
            promised.append(calibration.fpr_bound)
        plain = 1 - np.ceil((calibration.rows + 1) * 0.99) / (calibration.rows + 1)
        error = np.std(above) / np.sqrt(RECORDINGS)
        print(
            f"| {generate.__name__} | {np.mean(above):.2%} +- {error:.2%} | {np.mean(promised):.2%} "
            f"| {plain:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
