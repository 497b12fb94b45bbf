"""How often detectors with memory raise false alarms: the tables of docs/streams.md.

`python -m benchmarks.false_alarms recordings FOLDER` trains on the beginning of each series, without labels,
and counts what of the rest is above the threshold, with and without an alarm budget. FOLDER holds NumPy
archives with rows `X` [N, D], labels `y` [N] and `train_end`, the number of rows to train on.

`python -m benchmarks.false_alarms seasons` trains on four weeks of generated telemetry, and counts false
positives on other weeks and planted events that are found, with and without a season.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.artifact import load_artifact, save_artifact
from datasentinel.detector import Detector
from datasentinel.events import AlarmBudget, find_events, judge_events
from datasentinel.export import build_artifact
from datasentinel.training import TrainingSettings, train
from tests.seasons import A_DAY, STEP_S, telemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.training.season import SeasonKind
    from datasentinel.types import BoolArray, Float32Array, Float64Array

TARGET = 0.01
TRAINING_DAYS = 28
WEEKS = 10
EVENTS_A_WEEK = 6
EVENT_ROWS = 6  # Half an hour.


def detector_of(rows: Float32Array, model: str, season: SeasonKind | None = None) -> Detector:
    """Train as `datasentinel train` does with these settings."""
    settings = TrainingSettings(model=model, season=season)
    built = build_artifact(train(rows, settings=settings), rows=rows)
    with tempfile.TemporaryDirectory() as folder:
        return Detector(load_artifact(save_artifact(Path(folder) / "models", built.onnx, built.config)))


@dataclass
class Counts:
    """What of one recording was called an anomaly."""

    above: float
    found: float
    precision: float
    false_events_in_1000: float


def count(scores: Float32Array, anomalies: BoolArray, labels: BoolArray) -> Counts:
    """Judge anomalies, and the events that they are, by labels."""
    quality = judge_events(find_events(scores, anomalies), labels)
    normal = ~labels
    return Counts(
        float(anomalies[normal].mean()),
        quality.recall,
        quality.precision,
        1000 * (quality.events - quality.true_events) / int(normal.sum()),
    )


def measure_recordings(folder: Path) -> dict[str, list[Counts]]:
    """Count for each series what its own threshold calls anomalies."""
    counts: dict[str, list[Counts]] = {"`train`": [], f"with `--alarm-budget {TARGET}`": []}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as archive:
            rows = archive["X"].astype(np.float32)
            labels, end = archive["y"] != 0, int(archive["train_end"])
        detector = detector_of(rows[:end], "context")
        scores = detector.score(rows)[end:]
        plain = detector.predict(rows)[end:]
        adaptive = AlarmBudget(detector.threshold, TARGET).decide(scores)
        for name, anomalies in zip(counts, (plain, adaptive), strict=True):
            counts[name].append(count(scores, anomalies, labels[end:]))
        print(path.stem, *(f"{of_series[-1].above:.2%}" for of_series in counts.values()), flush=True)
    return counts


def print_recordings(counts: dict[str, list[Counts]]) -> None:
    """Print the table of the recordings."""
    print(
        f"| threshold | rows above it: median, mean | series within {TARGET:.0%} | labelled segments found "
        "| events that are true | false events in 1,000 rows, median |\n|---|---|---|---|---|---|"
    )
    for name, series in counts.items():
        above = [one.above for one in series]
        print(
            f"| {name} | {np.median(above):.1%}, {np.mean(above):.1%} | {sum(a <= TARGET for a in above)} of "
            f"{len(above)} | {np.nanmean([one.found for one in series]):.2f} | "
            f"{np.nanmean([one.precision for one in series]):.2f} | "
            f"{np.median([one.false_events_in_1000 for one in series]):.1f} |"
        )


def no_backup(rows: Float32Array, day: int) -> slice:
    """Leave the night's backup out."""
    where = slice(day * A_DAY + 2 * 3600 // STEP_S, day * A_DAY + 2 * 3600 // STEP_S + EVENT_ROWS)
    rows[where, 2] = rows[where.start - EVENT_ROWS : where.start, 2]
    return where


def backup_at_noon(rows: Float32Array, day: int) -> slice:
    """Run a backup at noon."""
    where = slice(day * A_DAY + A_DAY // 2, day * A_DAY + A_DAY // 2 + EVENT_ROWS)
    night = day * A_DAY + 2 * 3600 // STEP_S
    rows[where, 2] = rows[night : night + EVENT_ROWS, 2]
    return where


def load_of_the_day(rows: Float32Array, day: int) -> slice:
    """Have the load of the afternoon at 04:00."""
    night, afternoon = (day * A_DAY + hour * 3600 // STEP_S for hour in (4, 14))
    rows[night : night + EVENT_ROWS, :2] = rows[afternoon : afternoon + EVENT_ROWS, :2]
    return slice(night, night + EVENT_ROWS)


EVENTS: dict[str, Callable[[Float32Array, int], slice]] = {
    "backup missing": no_backup,
    "backup at noon": backup_at_noon,
    "load of the day at 04:00": load_of_the_day,
}


def with_season(rows: Float32Array, seconds: Float64Array) -> Float32Array:
    """Add the last column of a model with a season."""
    return np.column_stack([rows, seconds]).astype(np.float32)


def measure_seasons() -> None:
    """Print the table of the seasons."""
    rows, seconds = telemetry(TRAINING_DAYS)
    weeks = [telemetry(7, seed=100 + week) for week in range(WEEKS)]
    print(f"| model | season | false positives, worst week | {' | '.join(EVENTS)} |")
    print("|---|---|---|---|---|---|")
    for model in ("context", "subspace"):
        for season in (None, "week"):
            asked = with_season(rows, seconds) if season else rows
            detector = detector_of(asked, model, season)
            rates = [anomalies_in(detector, *week).mean() for week in weeks]
            found = [count_found(detector, plant, weeks) for plant in EVENTS.values()]
            print(
                f"| `{model}` | {season or 'none'} | {np.mean(rates):.2%}, {max(rates):.2%} | "
                f"{' | '.join(map(str, found))} |",
                flush=True,
            )


def anomalies_in(detector: Detector, week: Float32Array, seconds: Float64Array) -> BoolArray:
    """Decide for each row of a week, by itself or at its time of the week."""
    return detector.predict(with_season(week, seconds) if detector.artifact.config.calendar else week)


def count_found(
    detector: Detector,
    plant: Callable[[Float32Array, int], slice],
    weeks: list[tuple[Float32Array, Float64Array]],
) -> int:
    """Return how many planted events have a row that is an anomaly, one event a copy of a week."""
    found = 0
    for week, seconds in weeks:
        for day in range(1, 1 + EVENTS_A_WEEK):
            changed = week.copy()
            where = plant(changed, day)
            found += bool(anomalies_in(detector, changed, seconds)[where].any())
    return found


def main() -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("recordings").add_argument("folder", type=Path)
    what.add_parser("seasons")
    asked = parser.parse_args()
    if asked.what == "recordings":
        print_recordings(measure_recordings(asked.folder))
    else:
        measure_seasons()


if __name__ == "__main__":
    main()
