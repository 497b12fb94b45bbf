"""Whether thresholds keep their promise: `python -m benchmarks.coverage DATA`.

DATA is a folder of `*.npz` files with rows `X` and labels `y` (0 normal). A detector with default settings is
trained on a random half of each set's normal rows; the other half is fresh. The share of fresh rows with a
p-value of at most the target is what a conformal threshold for that target calls anomalies, wrongly. It is
measured for two calibrations: the one that training made, and a new one on half of the fresh rows, as
`datasentinel recalibrate` makes it, measured on the other half. See docs/quality.md.

For exchangeable rows and scores without ties the number of false positives has a beta-binomial distribution,
which covers the chance in both samples. Of n calibration rows k = floor(target (n + 1)) score no less than
the threshold, so the rate among m fresh rows has the mean q = k / (n + 1), the promise, and the variance
q (1 - q) (n + 1 + m) / (m (n + 2)). Ties only make false positives rarer.
"""

from __future__ import annotations

import argparse
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import betabinom

from datasentinel import AutoencoderDetector
from datasentinel.backend import PValueTable
from datasentinel.calibration import ScoreTable

TARGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
MAX_NORMAL_ROWS = 20_000
# A rate of zero has no place on a logarithmic axis and is drawn here.
LOWEST_RATE_DRAWN = 5e-4
CALIBRATIONS = ("train", "recalibrate")
# Probability of a result outside the interval, half of it on either side.
OUTSIDE = 0.05


@dataclass(frozen=True)
class Coverage:
    """False positives of one detector at one target.

    Attributes
    ----------
    promised, achieved : float
        False-positive rates: expected of exchangeable rows, and measured.
    variance : float
        Of `achieved`, by chance.
    below, above : bool
        Whether `achieved` is outside the interval that holds 95 % of all results.
    """

    promised: float
    achieved: float
    variance: float
    below: bool
    above: bool


def measure(p_values: np.ndarray, calibration_rows: int, target: float) -> Coverage:
    """Compare the p-values [m] of fresh normal rows with what a target promises."""
    n, m = calibration_rows, len(p_values)
    # Without the small addition 0.01 * 100 may be below 1.
    k = int(target * (n + 1) + 1e-9)
    q = k / (n + 1)
    # The p-value of rank k may have been rounded the other way than the target.
    false_positives = int(np.count_nonzero(p_values <= target * (1 + 1e-9)))
    if k == 0:
        return Coverage(0.0, false_positives / m, 0.0, below=False, above=false_positives > 0)
    chance = betabinom(m, k, n + 1 - k)
    return Coverage(
        promised=q,
        achieved=false_positives / m,
        variance=q * (1 - q) * (n + 1 + m) / (m * (n + 2)),
        below=bool(chance.cdf(false_positives) < OUTSIDE / 2),
        above=bool(chance.sf(false_positives - 1) < OUTSIDE / 2),
    )


def measure_set(rows: np.ndarray, name: str, seed: int) -> dict[str, list[Coverage]]:
    """Train on half of a set's normal rows; give the coverage by calibration, for each target."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    rows = random.permutation(rows)[:MAX_NORMAL_ROWS]
    train, fresh = np.array_split(rows, 2)
    detector = AutoencoderDetector(random_state=seed).fit(train)
    own_rows = detector.artifact_.config.calibration["rows"]
    own = detector.p_values(fresh)
    scores = detector.score_samples(fresh)
    recalibrated = ScoreTable.of(scores[::2])
    table = PValueTable(
        scores=recalibrated.scores.tolist(), greater=recalibrated.greater.tolist(), rows=recalibrated.rows
    )
    again = table.p_values(scores[1::2])
    return {
        "train": [measure(own, own_rows, target) for target in TARGETS],
        "recalibrate": [measure(again, recalibrated.rows, target) for target in TARGETS],
    }


def print_table(calibration: str, runs: list[list[Coverage]]) -> None:
    """Print a row a target, over all runs [set and seed][target]."""
    print(f"\n| {calibration}: target | promised | achieved | sampling error | below | within | above |")
    print("|---|---|---|---|---|---|---|")
    for target, results in zip(TARGETS, zip(*runs, strict=True), strict=True):
        promised, achieved = (
            np.mean([getattr(r, name) for r in results]) for name in ("promised", "achieved")
        )
        error = np.sqrt(np.sum([r.variance for r in results])) / len(results)
        below, above = (sum(getattr(r, side) for r in results) for side in ("below", "above"))
        print(
            f"| {target:.1%} | {promised:.2%} | {achieved:.2%} | {error:.2%} "
            f"| {below} | {len(results) - below - above} | {above} |"
        )


def draw(path: Path, runs: dict[str, dict[str, list[list[Coverage]]]]) -> None:
    """Plot achieved against target rates, a line a data set (mean over seeds), to a PNG or SVG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (calibration, sets) in zip(figure.subplots(1, 2, sharey=True), runs.items(), strict=True):
        for seeds in sets.values():
            achieved = np.mean([[r.achieved for r in seed] for seed in seeds], axis=0)
            achieved = np.maximum(achieved, LOWEST_RATE_DRAWN)
            axes.plot(TARGETS, achieved, color="#3b6fb6", alpha=0.35, linewidth=1)
        everything = [seed for seeds in sets.values() for seed in seeds]
        achieved, variance = (
            np.array([[getattr(r, name) for r in run] for run in everything]).mean(axis=0)
            for name in ("achieved", "variance")
        )
        one = 1.96 * np.sqrt(variance)
        axes.fill_between(
            TARGETS,
            np.maximum(np.array(TARGETS) - one, LOWEST_RATE_DRAWN),
            np.array(TARGETS) + one,
            color="grey",
            alpha=0.2,
            label="sampling error of one run (95 %)",
        )
        axes.plot(TARGETS, TARGETS, "k:", label="target")
        axes.plot(TARGETS, achieved, color="#d1495b", linewidth=2, label="mean of all sets")
        axes.set(title=f"calibrated by {calibration}", xscale="log", yscale="log", xlabel="target rate")
        axes.set_ylim(bottom=LOWEST_RATE_DRAWN)
        axes.legend()
    figure.supylabel("achieved false-positive rate")
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> None:
    """Print a table a calibration and, if asked for, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of .npz files")
    parser.add_argument("--seeds", type=int, default=3, help="how many random splits of each set")
    parser.add_argument("--plot", type=Path, help="PNG or SVG file for the coverage plot")
    options = parser.parse_args(arguments)
    files = sorted(options.data.glob("*.npz"))
    if not files:
        parser.error(f"no .npz files in {options.data}")
    runs: dict[str, dict[str, list[list[Coverage]]]] = {name: {} for name in CALIBRATIONS}
    for path in files:
        with np.load(path) as data:
            normal = data["X"][data["y"] == 0].astype(np.float64)
        for seed in range(options.seeds):
            for calibration, results in measure_set(normal, path.stem, seed).items():
                runs[calibration].setdefault(path.stem, []).append(results)
        rates = {
            calibration: " ".join(
                f"{np.mean([seed[i].achieved for seed in sets[path.stem]]):.2%}" for i in range(len(TARGETS))
            )
            for calibration, sets in runs.items()
        }
        print(f"{path.stem:20} " + "  ".join(f"{name} {text}" for name, text in rates.items()), flush=True)
    for calibration, sets in runs.items():
        print_table(calibration, [seed for seeds in sets.values() for seed in seeds])
    if options.plot:
        draw(options.plot, runs)


if __name__ == "__main__":
    main()
