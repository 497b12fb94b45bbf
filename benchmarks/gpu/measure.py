"""One batch size of one model: prepare every contender, check its scores, then time all in turns."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.cases import (
    PLACES,
    TOLERANCES,
    Call,
    Contender,
    Content,
    NotRun,
    Setting,
    contents,
    error_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.gpu.arrays import Arrays
    from benchmarks.gpu.budget import Budget, Estimates
    from datasentinel.bench.subject import Subject

ROUNDS = 7
MIN_ROUNDS = 3
_MAX_SAMPLES_A_TURN = 5000
_WARM_UP_CALLS = 3
# What preparing an optional contender (compiling it, mostly) may take as long as nobody knows better.
_PREPARATION_GUESS_S = 10.0


class WrongScoresError(Exception):
    """A contender's scores are not those of the reference."""


class SickDeviceError(Exception):
    """The device answers no more in this process."""


@dataclass
class Turns:
    """The times of one contender in microseconds, and the median of each round."""

    samples_us: list[float] = field(default_factory=list)
    rounds_us: list[float] = field(default_factory=list)


def check(call: Call, fillings: Iterable[Content], precision: str) -> float:
    """Score two fillings of the batch; give the largest error of both.

    Raises
    ------
    WrongScoresError
        It is above the precision's tolerance.
    """
    largest = 0.0
    for number, filling in enumerate(fillings):
        call.load(filling.rows)
        call.run()
        error = error_of(call.scores(), filling.expected)
        if not error <= TOLERANCES[precision]:
            again = " after the rows were replaced" if number else ""
            raise WrongScoresError(f"wrong scores{again}: relative error {error:.2g}")
        largest = max(largest, error)
    return largest


def in_turns(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    announce: Callable[[str], object] = str,
) -> tuple[dict[str, Turns], dict[str, Exception]]:
    """Time every call in rounds, every other one backwards, for about `seconds` in all.

    Where calls are long there are fewer rounds, at least three, of one call each. A call that raises is out.

    Returns
    -------
    turns : dict
    failures : dict
        What those raised that failed.
    """
    turns = {name: Turns() for name in calls}
    failures: dict[str, Exception] = {}
    collects = gc.isenabled()
    gc.disable()
    try:
        started = clock()
        for number in range(ROUNDS):
            if number >= MIN_ROUNDS and clock() - started >= seconds:
                break
            turn_s = seconds / ROUNDS / len(calls)
            for name in list(calls) if number % 2 == 0 else reversed(calls):
                if name in failures:
                    continue
                announce(name)
                try:
                    samples = _turn(calls[name], turn_s, clock)
                except Exception as error:
                    failures[name] = error
                    continue
                turns[name].samples_us += samples
                turns[name].rounds_us.append(float(np.median(samples)))
    finally:
        if collects:
            gc.enable()
    return {name: turn for name, turn in turns.items() if name not in failures}, failures


def _turn(call: Callable[[], object], turn_s: float, clock: Callable[[], float]) -> list[float]:
    call()  # Others have run since: caches, clocks.
    samples: list[float] = []
    end = clock() + turn_s
    while True:
        started = clock()
        call()
        finished = clock()
        samples.append(1e6 * (finished - started))
        if finished >= end or len(samples) >= _MAX_SAMPLES_A_TURN:
            return samples


def attempt(label: str, place: str) -> str:
    """What is announced before a contender is tried."""
    return f"{label}, rows in {place} memory"


@dataclass
class Bench:
    """Measures batches of one model.

    Attributes
    ----------
    subject : Subject
    device : str
    arrays : Arrays
    contenders : list of Contender
    emit : callable
        Takes each result, a dict.
    announce : callable
        Told what is about to be tried, so that somebody knows whom to blame when the process dies.
    estimates : Estimates
        Of preparing each contender.
    left_out : dict
        What not to try, as it was announced, with the reason.
    only : set, optional
        The rows, place and contender's label of what to measure; everything if there is none.
    """

    subject: Subject
    device: str
    arrays: Arrays
    contenders: list[Contender]
    emit: Callable[[dict[str, Any]], None]
    announce: Callable[[str], None]
    estimates: Estimates
    left_out: dict[str, str] = field(default_factory=dict)
    only: set[tuple[int, str, str]] | None = None

    def measure(self, rows: int, budget: Budget, total: Budget) -> None:
        """Measure one batch size at every place.

        Parameters
        ----------
        rows : int
        budget : Budget
            Of this batch size.
        total : Budget
            Of everything: what can no longer be prepared within it is not tried.
        """
        fillings = contents(self.subject, rows)
        ready: dict[str, dict[str, tuple[Contender, Call, float]]] = {}
        # Those that may be left out come last, so that they only ever use what the others leave.
        for contender in sorted(self.contenders, key=lambda one: one.optional):
            for place in contender.places_at(rows):
                if self.only is not None and (rows, place, contender.label) not in self.only:
                    continue
                prepared = self._prepare(contender, rows, place, fillings, budget, total)
                if prepared is not None:
                    ready.setdefault(place, {})[contender.label] = (contender, *prepared)
        places = [place for place in PLACES if place in ready]
        for index, place in enumerate(places):
            seconds = budget.share(len(places) - index).left_s
            self._time(rows, place, ready[place], seconds)

    def _prepare(
        self,
        contender: Contender,
        rows: int,
        place: str,
        fillings: tuple[Content, Content],
        budget: Budget,
        total: Budget,
    ) -> tuple[Call, float] | None:
        label = contender.label
        reason = self.left_out.get(attempt(label, place), "")
        expected_s = self.estimates.of(label, _PREPARATION_GUESS_S if contender.optional else 0.0)
        # Half of the time belongs to the measuring.
        if contender.optional and expected_s > budget.left_s / 2:
            reason = reason or "no time left for it in the budget of this batch size"
        if expected_s > total.left_s or total.left_s <= 0:
            reason = reason or "the time budget is spent"
        if reason:
            self._report(contender, rows, place, {"not run": reason})
            return None
        self.announce(attempt(label, place))
        result: list[tuple[Call, float]] = []

        def prepare() -> None:
            setting = Setting(self.subject, rows, place, self.device, self.arrays)
            call = contender.prepare(setting)
            error = check(call, fillings, contender.precision)
            for _ in range(_WARM_UP_CALLS):
                call.run()
            result.append((call, error))

        try:
            self.estimates.timed(label, prepare)
        except Exception as error:
            self._failed(contender, rows, place, error)
            return None
        return result[0]

    def _time(
        self, rows: int, place: str, ready: dict[str, tuple[Contender, Call, float]], seconds: float
    ) -> None:
        turns, failures = in_turns(
            {label: call.run for label, (_, call, _) in ready.items()},
            seconds,
            announce=lambda label: self.announce(attempt(label, place)),
        )
        for label, (contender, _, error) in ready.items():
            if label in failures:
                self._failed(contender, rows, place, failures[label])
                continue
            samples = turns[label].samples_us
            p50, p90, p99 = (float(value) for value in np.percentile(samples, (50, 90, 99)))
            measured = {
                "p50_us": p50,
                "p90_us": p90,
                "p99_us": p99,
                "min_us": min(samples),
                "calls": len(samples),
                "rounds_us": turns[label].rounds_us,
                "relative_error": error,
            }
            self._report(contender, rows, place, measured)

    def _failed(self, contender: Contender, rows: int, place: str, error: Exception) -> None:
        if isinstance(error, WrongScoresError):
            outcome = {"not run": str(error), "wrong": True}
        elif isinstance(error, NotRun):
            outcome = {"not run": str(error)}
        else:
            outcome = {"not run": f"{type(error).__name__}: {str(error).strip()[:1000]}"}
        self._report(contender, rows, place, outcome)
        try:
            self.arrays.check_health()
        except Exception as sickness:
            raise SickDeviceError(f"{contender.label}: {outcome['not run']}") from sickness

    def _report(self, contender: Contender, rows: int, place: str, outcome: dict[str, Any]) -> None:
        self.emit(
            {
                "size": self.subject.name,
                "rows": rows,
                "place": place,
                "contender": contender.name,
                "precision": contender.precision,
                "label": contender.label,
                "columns": self.subject.input_dim,
                # Two for each multiply-add of the dense layers; everything else counts as nothing.
                "flops_per_row": 2 * (self.subject.multiply_adds_per_row or 0),
            }
            | outcome
        )
