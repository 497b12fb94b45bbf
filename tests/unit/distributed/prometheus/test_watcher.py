from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from datasentinel.artifact import load_artifact
from datasentinel.detector import Detector
from datasentinel.distributed.prometheus.client import Series, ServerUnreachableError
from datasentinel.distributed.prometheus.config import Model
from datasentinel.distributed.prometheus.exposition import ScoreBoard
from datasentinel.distributed.prometheus.fitting import fit
from datasentinel.distributed.prometheus.watcher import Watcher
from datasentinel.streams import StreamDetector
from tests.recordings import oscillations

STEP_S = 10.0
FIRST = 170_000_000  # The number of a moment in 2023.
RECORDINGS = {f"pump-{i}": oscillations(2000, seed=i) for i in range(2)}
MODEL = Model(
    name="pumps",
    queries={"load": "0", "delay": "1"},
    by=("pump",),
    step=STEP_S,
    offset=5.0,
    fit_window=STEP_S * 600,
    fit_every=STEP_S * 300,
    half_lives=(4.0, 8.0),
)


def at(moment: float) -> float:
    """The clock when a moment is due, and no later one."""
    return (FIRST + moment) * STEP_S + MODEL.offset


@dataclass
class FakeClient:
    """Has two pumps' samples, and perhaps no answer."""

    is_away: bool = False
    asked: list[tuple[int, int]] = field(default_factory=list)

    def query_range(self, query, grid):
        if self.is_away:
            raise ServerUnreachableError("away")
        self.asked.append((grid.first - FIRST, grid.count))
        moments = grid.first - FIRST + np.arange(grid.count)
        return [
            Series({"pump": name}, rows[moments, int(query)].astype(float))
            for name, rows in RECORDINGS.items()
        ]


class Now:
    """A training that is over at once."""

    def __init__(self, *arguments):
        self._arguments = arguments

    def is_over(self):
        return True

    def result(self):
        fit(*self._arguments)


@dataclass
class Published:
    """What was published, moment by moment; perhaps it cannot be."""

    is_away: bool = False
    moments: list = field(default_factory=list)

    def publish(self, source, moments):
        if self.is_away:
            raise ServerUnreachableError("away")
        self.moments += moments

    @property
    def numbers(self) -> list[int]:
        return [round(moment.time_s / STEP_S) - FIRST for moment in self.moments]


@dataclass
class Setup:
    folder: object
    model: Model = MODEL
    client: FakeClient = field(default_factory=FakeClient)
    published: Published = field(default_factory=Published)

    def __post_init__(self):
        self.board = ScoreBoard({self.model.name: 60.0})

    def watcher(self) -> Watcher:
        return Watcher(
            self.model,
            client=self.client,
            publishers=[self.published, self.board],
            account=self.account,
            directory=self.folder,
            start_training=lambda model, last: Now(self.client, model, self.folder, last),
            stop=threading.Event(),
        )

    @property
    def account(self):
        return self.board.accounts[self.model.name]


@pytest.fixture
def setup(tmp_path) -> Setup:
    return Setup(tmp_path)


def test_each_moment_is_scored_once_as_in_one_pass(setup):
    watcher = setup.watcher()
    watcher.look(at(700))
    assert setup.published.moments == []
    for moment in (701, 701.5, 702, 704.9, 710, 750):
        watcher.look(at(moment))
    assert setup.published.numbers == list(range(701, 751))
    detector = Detector(load_artifact(setup.folder / "pumps"))
    first = 700 - detector.artifact.config.warm_up_rows
    for place, (name, rows) in enumerate(RECORDINGS.items()):
        recording = np.ascontiguousarray(rows[first:751, :2])
        expected = detector.severity_of_scores(StreamDetector(detector).scan(recording)[0])[-50:]
        assert all(moment.keys[place] == (name,) for moment in setup.published.moments)
        told = [moment.severity[place] for moment in setup.published.moments]
        np.testing.assert_allclose(told, expected, rtol=1e-3)


def test_it_is_looked_as_often_as_told(tmp_path):
    setup = Setup(tmp_path, replace(MODEL, infer_every=STEP_S * 5))
    watcher = setup.watcher()
    watcher.look(at(700))
    assert watcher.due_s == at(705)
    watcher.look(at(704.9))
    assert setup.published.moments == []
    watcher.look(at(705))
    assert setup.published.numbers == list(range(701, 706))


def test_what_the_source_did_not_tell_is_made_up_for(setup):
    watcher = setup.watcher()
    watcher.look(at(700))
    watcher.look(at(702))
    setup.client.is_away = True
    watcher.look(at(705))
    watcher.look(at(720))
    assert setup.account.failures["read"] == 2
    assert setup.published.numbers == [701, 702]
    setup.client.is_away = False
    watcher.look(at(730))
    assert setup.published.numbers == list(range(701, 731))


def test_what_was_not_published_is_published_later_and_alike(setup, tmp_path_factory):
    undisturbed = Setup(tmp_path_factory.mktemp("other"))
    for some in (setup, undisturbed):
        watcher = some.watcher()
        watcher.look(at(700))
        some.published.is_away = some is setup
        watcher.look(at(710))
        some.published.is_away = False
        watcher.look(at(720))
    assert setup.account.failures["write"] == 1
    assert setup.published.numbers == undisturbed.published.numbers == list(range(701, 721))
    for moment, other in zip(setup.published.moments, undisturbed.published.moments, strict=True):
        np.testing.assert_allclose(moment.severity, other.severity, rtol=1e-5)


def test_another_process_goes_on_where_the_last_one_ended(setup):
    watcher = setup.watcher()
    watcher.look(at(700))
    watcher.look(at(710))
    for moment in (715, 760):
        watcher = setup.watcher()
        watcher.resume(at(moment))
        watcher.look(at(moment))
    assert setup.published.numbers == list(range(701, 761))
    assert setup.account.fits == 1


def test_downtime_is_made_up_for_within_its_bound(tmp_path):
    setup = Setup(tmp_path, replace(MODEL, catch_up=STEP_S * 100, fit_every=0.0))
    watcher = setup.watcher()
    watcher.look(at(700))
    watcher.look(at(701))
    watcher.look(at(1001))
    assert setup.published.numbers == [701, *range(902, 1002)]
    assert setup.account.counts["moments_skipped"] == 200


def test_a_new_model_goes_on_without_a_gap_or_a_warm_up(setup):
    watcher = setup.watcher()
    watcher.look(at(700))
    watcher.look(at(990))
    assert load_artifact(setup.folder / "pumps").config.version == "1"
    watcher.look(at(1000))
    watcher.look(at(1001))
    assert load_artifact(setup.folder / "pumps").config.version == "2"
    assert setup.published.numbers == list(range(701, 1002))
    assert all(len(moment.keys) == 2 for moment in setup.published.moments)
    assert setup.account.fits == 2
    assert setup.account.fitted_to_s == (FIRST + 1000) * STEP_S


def test_a_new_model_that_cannot_be_taken_over_yet_scores_nothing_twice(setup):
    watcher = setup.watcher()
    watcher.look(at(700))
    watcher.look(at(999))
    asked = len(setup.client.asked)
    original = setup.client.query_range

    def away_after_the_training(query, grid):
        # The end of the window, and all of it, of two queries each.
        setup.client.is_away = len(setup.client.asked) >= asked + 4
        return original(query, grid)

    setup.client.query_range = away_after_the_training
    watcher.look(at(1000))
    assert setup.account.failures["fit"] == 1
    setup.client.query_range, setup.client.is_away = original, False
    for moment in (1010, 1020):
        watcher.look(at(moment))
    assert setup.published.numbers == list(range(701, 1021))
    assert setup.account.fits == 2


def test_without_sound_states_nothing_is_scored_again(setup):
    watcher = setup.watcher()
    watcher.look(at(700))
    watcher.look(at(710))
    (setup.folder / "states" / "pumps.npz").write_bytes(b"damaged")
    watcher = setup.watcher()
    watcher.resume(at(730))
    watcher.look(at(730))
    watcher.look(at(740))
    assert setup.published.numbers == [*range(701, 711), *range(731, 741)]
    assert setup.account.fits == 2  # One model, taken over twice.


def test_a_training_that_fails_is_tried_again(setup):
    setup.client.is_away = True
    watcher = setup.watcher()
    watcher.look(at(700))
    assert setup.account.failures["fit"] == 1
    assert watcher.due_s == at(701)
    setup.client.is_away = False
    watcher.look(at(701))
    watcher.look(at(703))
    assert setup.published.numbers == [702, 703]
