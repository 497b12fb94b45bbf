"""The notice board on which the workers of one server post their metrics for each other.

Each worker rewrites a file of its own about once a second. The worker that is scraped adds the others' files
to its own numbers, so any worker reports the totals, and no worker ever waits for another.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

POST_INTERVAL_S = 1.0
# A post this old is from a worker that is gone: its counts still count, its state does not.
_GONE_AFTER_S = 5.0

_SUMMED = frozenset({"counter", "histogram"})


class Board:
    """One worker's view of the board.

    A worker that takes the place of a dead one starts from the counts that were posted last, so no sum ever
    goes down.

    Parameters
    ----------
    folder : Path
        Of this server alone.
    worker : int
        The number of this worker.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder = folder
        self._worker = worker
        self._file = folder / f"{worker}.json"
        self._inherited = _summed(_read(self._file))
        self.is_successor = self._file.exists()

    def post(self, metrics: Iterable[Metric]) -> None:
        """Write this worker's metrics for the others."""
        total = add({self._worker: list(metrics)}, self._inherited, labelled=False)
        content = [
            [
                metric.name,
                metric.documentation,
                metric.type,
                [[sample.name, sample.labels, sample.value] for sample in metric.samples],
            ]
            for metric in total
        ]
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(content), encoding="utf-8")
        fresh.replace(self._file)

    def clear(self) -> None:
        """Remove this worker's post, and the board with the last one."""
        self._file.unlink(missing_ok=True)
        with suppress(OSError):
            self._folder.rmdir()

    def combine(self, metrics: Iterable[Metric]) -> list[Metric]:
        """Add everybody's metrics to this worker's."""
        counts = list(self._inherited)
        states = {self._worker: list(metrics)}
        for file in sorted(self._folder.glob("*.json")):
            if file == self._file:
                continue
            others = _read(file)
            if _age_s(file) < _GONE_AFTER_S:
                states[int(file.stem)] = others
            else:
                counts += _summed(others)
        return add(states, counts)


def add(
    by_worker: Mapping[int, list[Metric]], counts: Iterable[Metric] = (), *, labelled: bool = True
) -> list[Metric]:
    """Join metrics: counters and histograms are summed, gauges get a label `worker`, facts appear once.

    Parameters
    ----------
    by_worker : mapping of int to list of Metric
    counts : iterable of Metric
        More counters and histograms, of no worker that lives.
    labelled : bool
        Whether gauges get their label.
    """
    joined: dict[str, Metric] = {}
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
    sources = [(str(worker), metric) for worker, metrics in by_worker.items() for metric in metrics]
    for worker, metric in [*sources, *(("", metric) for metric in counts)]:
        total = joined.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
        for sample in metric.samples:
            labels, value = dict(sample.labels), sample.value
            if metric.type == "gauge" and labelled:
                labels["worker"] = worker
            key = (sample.name, tuple(sorted(labels.items())))
            place = sums.setdefault(key, len(total.samples))
            if place == len(total.samples):
                total.samples.append(Sample(sample.name, labels, value))
            elif metric.type in _SUMMED:
                total.samples[place] = Sample(sample.name, labels, total.samples[place].value + value)
    return list(joined.values())


def _summed(metrics: Iterable[Metric]) -> list[Metric]:
    return [metric for metric in metrics if metric.type in _SUMMED]


def _age_s(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _read(file: Path) -> list[Metric]:
    """Read a post; nothing where there is none yet."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    metrics = []
    for name, documentation, kind, samples in content:
        metric = Metric(name, documentation, kind)
        metric.samples = [Sample(sample_name, labels, value) for sample_name, labels, value in samples]
        metrics.append(metric)
    return metrics
