from __future__ import annotations

import numpy as np
import pytest

from datasentinel.errors import DataError
from datasentinel.training import TrainingSettings, train
from datasentinel.training.recording import is_recording, last_rows, serial_correlation
from datasentinel.training.subspace import Subspace, fit_subspace


def recording(rows, seed=0, drift=0.0):
    """Eight metrics that three slowly moving causes drive, in different units, and a constant one."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(rows, 3))
    causes = np.zeros((rows, 3))
    for i in range(1, rows):
        causes[i] = 0.98 * causes[i - 1] + 0.2 * steps[i]
    causes += drift * np.linspace(0, 1, rows)[:, None]
    mix = np.random.default_rng(1).normal(size=(3, 8))
    values = (causes @ mix + 0.05 * random.normal(size=(rows, 8))) * np.geomspace(1e-3, 1e3, 8) + 5
    return np.column_stack([values, np.full(rows, 7.0)]).astype(np.float32)


def test_a_recording_is_told_from_a_table():
    rows = recording(2000)
    assert serial_correlation(rows) > 0.9
    assert is_recording(rows)
    shuffled = np.random.default_rng(0).permutation(rows)
    assert abs(serial_correlation(shuffled)) < 0.1
    assert not is_recording(shuffled)


def test_a_sorted_column_makes_no_recording():
    rows = np.random.default_rng(0).normal(size=(1000, 5)).astype(np.float32)
    rows[:, 0] = np.sort(rows[:, 0])
    assert not is_recording(rows)


@pytest.mark.parametrize(
    "rows",
    [np.ones((500, 3)), np.arange(99)[:, None], np.ones((1, 2))],
    ids=["constant", "few", "one"],
)
def test_what_has_no_order_is_no_recording(rows):
    assert not is_recording(rows.astype(np.float32))


def test_the_last_rows_are_held_out():
    assert last_rows(10, 0.25).tolist() == [8, 9]
    assert last_rows(100, 0.25).tolist() == list(range(75, 100))
    assert last_rows(5, 0.01).tolist() == [3, 4]


@pytest.fixture(scope="module")
def result():
    return train(recording(4000))


def test_a_recording_gets_a_subspace(result):
    assert isinstance(result.model, Subspace)
    assert result.recording
    assert result.model.latent_dim == 3
    assert (result.rows_trained, result.rows_held_out) == (4000, 1000)
    assert result.model.facts() == {"model": "subspace"}
    assert not train(np.random.default_rng(0).permutation(recording(500))).recording


def test_the_threshold_holds_on_what_comes_next(result):
    scores = result.model.score(recording(20_000, seed=9))
    assert np.mean(scores > result.calibration.threshold) < 0.03


def test_anomalies_are_found(result):
    rows = recording(2000, seed=5)
    broken = rows.copy()
    broken[:, 2] = np.roll(broken[:, 2], 700)
    normal, anomalous = result.model.score(rows), result.model.score(broken)
    assert np.mean(anomalous > np.quantile(normal, 0.99)) > 0.8
    constant = rows.copy()
    constant[:, 8] = 8
    assert (result.model.score(constant) > result.calibration.threshold).all()


def test_float32_scores_are_those_of_float64(result):
    rows = recording(1000, seed=3)
    expected = result.model.score(rows.astype(np.float64))
    error = np.abs(result.model.score(rows) - expected) / result.model.tolerable(expected)
    assert error.max() < 1e-4


def test_scores_are_those_of_the_definition():
    """Against scikit-learn's principal components, where nothing is clipped."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows = recording(3000)[:, :8]
    model = fit_subspace(rows, rows)
    wide = rows.astype(np.float64)
    z = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    assert np.abs(z).max() < 10
    components = decomposition.PCA(0.95).fit(z)
    assert components.n_components_ == model.latent_dim
    residuals = z - components.inverse_transform(components.transform(z))
    spread = np.sqrt(np.square(residuals).mean(axis=0))
    spread += 0.03 * np.sqrt(np.square(spread).mean()) + 1e-3
    beside = (np.square(residuals) / spread).mean(axis=1)
    within = (components.transform(z) ** 2 / components.explained_variance_).mean(axis=1)
    share = np.percentile(beside, 99) / np.percentile(within, 99) / 10
    expected = np.maximum(beside, share * within)
    assert 0 < np.mean(expected > beside) < 0.5
    expected /= np.median(beside)
    np.testing.assert_allclose(model.score(rows), expected, rtol=2e-3, atol=1e-6)


def test_what_is_in_keeping_but_absurdly_far_out_is_noticed(result):
    rows = recording(4000)
    centre = rows.mean(axis=0)
    far = (centre + 12 * (rows[:500] - centre)).astype(np.float32)
    assert np.mean(result.model.score(far) > result.calibration.threshold) > 0.6


def test_one_of_many_unrelated_columns_far_out_of_its_range_is_noticed():
    random = np.random.default_rng(0)
    rows = np.zeros((5000, 40))
    for i, noise in enumerate(random.normal(size=rows.shape)):
        rows[i] = 0.9 * rows[i - 1] + noise
    rows = rows.astype(np.float32)
    result = train(rows[:4000])
    assert isinstance(result.model, Subspace)
    assert np.mean(result.model.score(rows[4000:]) > result.calibration.threshold) < 0.03
    far = rows[4000:4040].copy()
    np.fill_diagonal(far, rows.mean(axis=0) + 20 * rows.std(axis=0))
    assert (result.model.score(far) > result.calibration.threshold).all()
    assert (result.model.contributions(far).argmax(axis=1) == np.arange(40)).mean() > 0.9


def test_an_ensemble_of_a_recording_is_calibrated_on_its_end():
    rows = recording(600, drift=3.0)
    settings = TrainingSettings(model="ensemble", steps=20)
    result = train(rows, settings=settings)
    assert result.recording
    assert result.rows_held_out == 150
    shuffled = train(np.random.default_rng(0).permutation(rows), settings=settings)
    assert not shuffled.recording
    following = recording(900, drift=4.5)[600:]
    false_alarms, careless = (
        np.mean(one.model.score(following) > one.calibration.threshold) for one in (result, shuffled)
    )
    assert false_alarms < careless


def test_labelled_recordings_are_judged_by_their_end():
    rows = recording(1000)
    labels = np.zeros(1000, bool)
    labels[100:110] = True
    rows[100:110, 2] += 1
    result = train(rows, labels=labels)
    assert result.recording
    assert result.test_labels.sum() == 10
    np.testing.assert_array_equal(result.test_scores[:-10], result.model.score(rows[-198:]))


def test_too_little_to_span_a_subspace():
    rows = np.column_stack([np.arange(200.0), np.ones(200)])
    with pytest.raises(DataError, match="fewer than two columns vary"):
        train(rows, settings=TrainingSettings(model="subspace"))
    assert train(rows, settings=TrainingSettings(steps=20)).model.facts()["model"] == "ensemble"
