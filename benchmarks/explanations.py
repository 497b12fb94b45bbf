"""How often a detector blames the right features: `python -m benchmarks.explanations DATA`.

DATA is the folder of recordings whose responsible metrics are known. A detector is trained on the training
part of each recording with default settings, or read from `--models FOLDER`, a folder with one artifact a
recording, named after it. Prints HitRate@100%, HitRate@150% and the recall of the top 5 beside those of
random choice and of z-scores. See docs/explanations.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasentinel import Detector

# Whether the last row that an interpretation file names belongs to the segment.
RECORDINGS = {"smd-machine-1-6": False, "asd-omi-8": True}
MEASURES = ("HitRate@100%", "HitRate@150%", "top-5 recall")


@dataclass(frozen=True)
class Segment:
    """Anomalous rows of the test part, and the columns held responsible for them."""

    rows: slice
    responsible: np.ndarray


def read_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a recording: values [N, D] and labels [N]."""
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1] != 0


def read_segments(path: Path, *, last_included: bool) -> list[Segment]:
    """Read lines of `first-last:dims`; rows count from 0, dims from 1."""
    segments = []
    for line in path.read_text().split():
        span, dims = line.split(":")
        first, last = map(int, span.split("-"))
        responsible = np.array([int(dim) - 1 for dim in dims.split(",")])
        segments.append(Segment(slice(first, last + last_included), responsible))
    return segments


def cuts(k: int) -> tuple[tuple[int, int], ...]:
    """Give for each measure how many features are picked, and what their hits are divided by."""
    return (k, k), (int(1.5 * k), k), (5, min(5, k))


def hit_rates(contributions: np.ndarray, segments: list[Segment]) -> np.ndarray:
    """Average each measure over a segment's rows, then over the segments.

    HitRate@P% as Su et al. define it ("Robust Anomaly Detection for Multivariate Time Series through
    Stochastic Recurrent Neural Network", KDD 2019): of the k responsible features, the share that is found
    among the first P% of k of the ranking.
    """
    rates = []
    for segment in segments:
        order = np.argsort(-contributions[segment.rows], axis=1, kind="stable")
        hits = np.isin(order, segment.responsible)
        rates.append([hits[:, :m].sum(axis=1).mean() / by for m, by in cuts(len(segment.responsible))])
    return np.mean(rates, axis=0)


def random_hit_rates(num_features: int, segments: list[Segment]) -> np.ndarray:
    """Give the expectation of `hit_rates` for a random order."""
    return np.mean(
        [
            [min(m, num_features) * k / num_features / by for m, by in cuts(k)]
            for k in (len(segment.responsible) for segment in segments)
        ],
        axis=0,
    )


def z_scores(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Distance from the training rows' mean in their standard deviations, 1 for a constant feature."""
    spread = train.std(axis=0)
    return np.abs(test - train.mean(axis=0)) / np.where(spread > 0, spread, 1)


def measure(data: Path, recording: str, model: Path) -> dict[str, np.ndarray]:
    """Compare the detector's ranking with the other two."""
    train, _ = read_values(data / f"{recording}-train.csv")
    test, labels = read_values(data / f"{recording}-test.csv")
    segments = read_segments(data / f"{recording}-interpretation.txt", last_included=RECORDINGS[recording])
    if not all(labels[segment.rows].all() for segment in segments):
        raise SystemExit(f"{recording}: a segment holds normal rows; data and interpretation do not match")
    contributions = Detector.load(model).contributions(test)
    return {
        "random choice": random_hit_rates(test.shape[1], segments),
        "z-score": hit_rates(z_scores(train, test), segments),
        "contributions": hit_rates(contributions, segments),
    }


def train_detector(data: Path, recording: str, out: Path, seed: int) -> Path:
    """Run `datasentinel train` with default settings."""
    command = [sys.executable, "-m", "datasentinel", "train", str(data / f"{recording}-train.csv")]
    subprocess.run([*command, "--out", str(out), "--seed", str(seed)], stdout=subprocess.DEVNULL, check=True)
    return out


def main(arguments: list[str] | None = None) -> None:
    """Print one table a recording."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the recordings")
    parser.add_argument("--models", type=Path, help="folder of artifacts, one a recording (default: train)")
    parser.add_argument("--seed", type=int, default=0, help="for training")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        for recording in RECORDINGS:
            model = (
                options.models / recording
                if options.models
                else train_detector(options.data, recording, Path(scratch) / recording, options.seed)
            )
            print(f"| {recording} | {' | '.join(MEASURES)} |")
            print("|---|---|---|---|")
            for name, rates in measure(options.data, recording, model).items():
                print(f"| {name} | {' | '.join(f'{100 * rate:.1f}' for rate in rates)} |")
            print()


if __name__ == "__main__":
    main()
