"""The steps of a check and its report."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu import aims, supervise
from benchmarks.gpu.cases import BATCHES, DEFAULT, DEFAULT_COLUMNS, batches_of, key
from benchmarks.gpu.contenders import all_contenders
from benchmarks.gpu.tables import markdown
from benchmarks.gpu.worker import Task
from benchmarks.models import SIZES, write_autoencoder, write_default
from datasentinel.backend import backends, build_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.gpu.budget import Budget
    from benchmarks.gpu.cases import Contender

# Starting up included; each probe gets half of an equal part.
_ROOFS_S = 30.0
_ROOFS_SHARE = 0.1
_SAVE_INTERVAL_S = 1.0
# Of the time that is left after the roofs.
_AIMS_SHARE = 0.75


@dataclass
class Report:
    """What is known so far; written to a file as it grows, so that a run cut short leaves it.

    Parameters
    ----------
    out : Path
        The JSON file.
    table : Path, optional
        The Markdown file.
    content : dict
        What there is to say besides results.
    """

    out: Path
    table: Path | None
    content: dict[str, Any]
    results: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    goals: Sequence[aims.Goal] = ()
    _saved_s: float = 0.0

    def take(self, message: dict[str, Any]) -> None:
        """Take a message of a worker."""
        if "roof" in message:
            self.content.setdefault("roofs", {})[message["roof"]] = message["value"]
        elif "result" in message:
            result = message["result"]
            name = key(result["size"], result["rows"], result["place"], result["label"])
            # What was measured for an aim stays, and a batch that is measured again after a worker's death
            # knows less of the one that is left out.
            known = self.results.get(name)
            if known is None or ("p50_us" in result and "p50_us" not in known):
                self.results[name] = result
        if time.monotonic() - self._saved_s >= _SAVE_INTERVAL_S:
            self.save()

    def save(self) -> None:
        """Write both files, each all at once."""
        roofs = self.content.get("roofs", {})
        results = [result | _shares_of(result, roofs) for result in self.results.values()]
        report = self.content | {"aims": self.verdicts, "results": results}
        _write(self.out, json.dumps(report, indent=1))
        if self.table is not None:
            _write(self.table, markdown(report))
        self._saved_s = time.monotonic()

    @property
    def verdicts(self) -> list[dict[str, str]]:
        """Each aim beside what was measured for it."""
        return aims.judge(self.results.values(), self.content.get("roofs", {}), self.goals)

    @property
    def wrong(self) -> list[str]:
        """Who gave wrong scores, and where."""
        return [
            f"{r['label']}: {r['size']}, {r['place']} memory, {r['rows']} rows: {r['not run']}"
            for r in self.results.values()
            if r.get("wrong")
        ]


def _shares_of(result: dict[str, Any], roofs: dict[str, Any]) -> dict[str, Any]:
    reached = aims.shares(result, roofs)
    return {"shares": reached} if reached else {}


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def measure(
    report: Report,
    budget: Budget,
    *,
    device: str,
    sizes: Sequence[str],
    batches: tuple[int, ...] = BATCHES,
    only: Sequence[str] | None = None,
    between: Callable[[], object] = lambda: None,
) -> None:
    """Measure roofs and models within the budget, and note what there was no time for.

    What the aims are about comes first, each in its own case, and with `only` that is all, for those aims of
    whose name or case one of the words is part; for all of them if there are no words. The rest gets the time
    that is left by that and by what is to be done between.
    """
    report.goals = aims.goals_of(sizes, only or ())
    report.content["build info"] = build_info()
    report.content["backends"] = {
        s.name: {"state": s.availability, "version": s.version, "detail": s.detail} for s in backends()
    }
    report.save()
    roofs_s = min(_ROOFS_S, _ROOFS_SHARE * budget.left_s)
    outcome = supervise.run_worker(Task("roofs", -1, device, roofs_s), report.take)
    if outcome.problem:
        report.content.setdefault("roofs", {}).setdefault("problem", outcome.problem)
    report.save()
    problems = report.content["problems"] = {}
    is_all = only is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _measure_aims(report, budget if is_all else budget.share(1 / _AIMS_SHARE), device, folder, problems)
        if is_all:
            return
        between()
        for index, size in enumerate(sizes):
            wanted = batches_of(size, batches)
            _write_model(folder, size)
            task = Task("model", -1, device, 0.0, size, str(folder / size), wanted)
            part = budget.share(len(sizes) - index)
            problems[size] = problems.get(size, []) + supervise.measure_model(task, part, report.take)
            why = problems[size][-1] if problems[size] else "the time budget is spent"
            add_missing(report, size, wanted, all_contenders(), why)
            report.save()


def _write_model(folder: Path, size: str) -> None:
    if (folder / size).exists():
        return
    if size == DEFAULT:
        write_default(folder / size, DEFAULT_COLUMNS, name=size)
    else:
        write_autoencoder(folder / size, SIZES[size], name=size)


def _measure_aims(
    report: Report, budget: Budget, device: str, folder: Path, problems: dict[str, list[str]]
) -> None:
    """Measure the cases of the aims and nothing else, model by model."""
    cases = aims.cases_of(report.goals)
    left_s = sum(aims.needed_s(size, wanted) for size, wanted in cases.items())
    # Who needs the most time can go beyond its part; nobody is to pay for that.
    for size, wanted in cases.items():
        rows = sorted({case[0] for case in wanted})
        _write_model(folder, size)
        task = Task("model", -1, device, 0.0, size, str(folder / size), rows, cases=wanted)
        needed_s = aims.needed_s(size, wanted)
        part = budget.share(left_s / needed_s)
        left_s -= needed_s
        problems[size] = supervise.measure_model(task, part, report.take)
        report.save()


def add_missing(
    report: Report, size: str, batches: Iterable[int], contenders: Iterable[Contender], reason: str
) -> None:
    """Say of every case that has no result that it was not run, and why."""
    for contender in contenders:
        for rows in batches:
            for place in contender.places_at(rows):
                name = key(size, rows, place, contender.label)
                report.results.setdefault(
                    name,
                    {
                        "size": size,
                        "rows": rows,
                        "place": place,
                        "contender": contender.name,
                        "precision": contender.precision,
                        "label": contender.label,
                        "not run": reason,
                    },
                )
