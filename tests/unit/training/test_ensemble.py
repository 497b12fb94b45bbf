from __future__ import annotations

import numpy as np
import pytest
import torch  # noqa: TID251

from datasentinel.calibration import calibrate
from datasentinel.errors import DataError, SettingsError
from datasentinel.training import TrainingSettings, train
from datasentinel.training.combine import LEAST_Z, fit_combination, stranger
from datasentinel.training.denoiser import fit_denoisers
from datasentinel.training.ensemble import PARTS, fit_ensemble
from datasentinel.training.mapping import fit_robust_map, fit_soft_clip
from datasentinel.training.prototypes import Prototypes, distinct, fit_prototypes, k_means, prototype_count
from datasentinel.training.resolution import smallest_step
from datasentinel.training.whitening import fit_whitening


def telemetry(rows, seed=0):
    """Six columns that two hidden causes move, in different units, and a constant one."""
    random = np.random.default_rng(seed)
    causes = random.normal(size=(rows, 2))
    mix = np.array([[1, 0, 1, 2, -1, 0.5], [0, 1, 1, -1, 0.5, 2]])
    units, offsets = [1, 10, 100, 0.1, 1, 1], [0, 50, 1e4, 0, -3, 1]
    values = (causes @ mix + 0.05 * random.normal(size=(rows, 6))) * units + offsets
    return np.column_stack([values, np.full(rows, 7.0)]).astype(np.float32)


def labelled(rows, seed=0):
    """A tenth of the rows has its first two columns swapped with those of other rows."""
    values = telemetry(rows, seed)
    labels = np.arange(rows) % 10 == 0
    values[labels, :2] = np.roll(values[labels, :2], 1, axis=0)
    return values, labels


def relative_error(model, rows):
    """Greatest difference of float32 scores to float64 ones, relative to max(1, |score|)."""
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        expected = model.score(rows.astype(np.float64))
    return np.max(np.abs(model.score(rows) - expected) / np.maximum(1, np.abs(expected)))


@pytest.fixture(scope="module")
def result():
    values, labels = labelled(2000)
    return train(values, labels=labels)


def test_anomalies_are_found(result):
    assert result.quality.auroc > 0.97
    assert result.quality.recall > 0.7
    assert result.model.summary().startswith("ensemble of 9 parts")
    assert result.model.facts()["parts"] == list(PARTS)
    assert result.model.facts()["left_out"] == []


def test_all_normal_rows_but_the_control_rows_are_trained_on_in_the_end(result):
    control = 144
    assert result.rows_trained == 1800 - 360 - control
    assert result.rows_held_out == result.rows_trained // 4 + control
    observed = result.calibration.observed
    assert (observed["control rows"].rows, observed["training rows"].rows) == (control, 1800 - 360)
    assert result.quality.rows == 200 + 360


def test_the_threshold_holds_on_new_normal_rows(result):
    scores = result.model.score(telemetry(20_000, seed=9))
    assert 0.001 < np.mean(scores > result.calibration.threshold) < 0.03


def test_prototypes_of_a_sample_tell_anomalies_and_keep_the_promise(monkeypatch):
    monkeypatch.setattr("datasentinel.training.ensemble._MOST_CLUSTERED", 600)
    values, labels = labelled(2000)
    sampled = train(values, labels=labels, settings=TrainingSettings(steps=200))
    assert len(sampled.model.views.prototypes.centres) == 600
    assert sampled.quality.auroc > 0.97
    flagged = sampled.model.score(telemetry(5000, seed=1)) > sampled.calibration.threshold
    assert flagged.mean() < 0.02


def test_typical_rows_score_around_one(result):
    scores = result.model.score(telemetry(5000, seed=9))
    assert 0.5 < np.median(scores) < 1.7
    assert 0.2 < np.std(scores) < 2
    assert scores.min() > 0


def test_a_departure_from_a_constant_column_is_noticed(result):
    rows = telemetry(50, seed=3)
    rows[:, 6] = 8
    assert (result.model.score(rows) > result.calibration.threshold).all()


def test_float32_scores_are_those_of_float64(result):
    assert relative_error(result.model, telemetry(2000, seed=4)) < 1e-5
    assert relative_error(result.model, telemetry(2000, seed=4) * np.float32(1.5)) < 1e-5


def test_the_reconstruction_is_in_raw_units(result):
    rows = telemetry(500, seed=5)
    _, rebuilt = result.model.evaluate(rows)
    error = np.abs(rebuilt - rows)[:, :6].mean(axis=0)
    assert (error < 0.5 * rows[:, :6].std(axis=0)).all()


@pytest.mark.parametrize("value", [1e6, -1e12, 1e30, 3e38, -3e38])
def test_any_finite_row_has_a_finite_score(result, value):
    rows = telemetry(8, seed=6)
    rows[np.arange(7), np.arange(7)] = value
    scores, rebuilt = result.model.evaluate(rows)
    assert np.isfinite(scores).all()
    assert np.isfinite(rebuilt).all()
    assert (scores[:7] > result.calibration.threshold).all()


def test_further_is_stranger(result):
    rows = np.repeat(telemetry(1, seed=6), 30, axis=0)
    rows[:, 1] = 50 + np.geomspace(100, 1e15, 30)
    assert (np.diff(result.model.score(rows)) > 0).all()


def test_a_large_offset_costs_no_precision():
    random = np.random.default_rng(0)
    small = random.normal(size=(600, 3)) @ random.normal(size=(3, 8)) + random.normal(size=(600, 8))
    offset = (1e6 + 16 * small).astype(np.float32)  # representable to a sixteenth
    result = train(offset)
    assert relative_error(result.model, offset) < 1e-5
    strange = offset.copy()
    strange[:, 0] += 150
    assert np.mean(result.model.score(strange) > result.calibration.threshold) > 0.95


def test_a_seed_decides_everything():
    values = telemetry(300)
    first, again, other = (train(values, settings=TrainingSettings(seed=seed)) for seed in (1, 1, 2))
    assert first.history == again.history
    assert first.calibration.facts() == again.calibration.facts()
    np.testing.assert_array_equal(first.model.score(values), again.model.score(values))
    assert first.history != other.history


def test_training_leaves_the_callers_random_state_and_threads_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before, numpy_before, threads = torch.get_rng_state(), np.random.get_state()[1], torch.get_num_threads()  # noqa: NPY002
    train(telemetry(50))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_progress_is_told():
    told = []
    result = train(telemetry(100), on_epoch=told.append)
    assert told == result.history
    assert [(epoch.number, epoch.of) for epoch in told] == [(i, 10) for i in range(1, 11)]
    assert told[-1].loss < told[0].loss
    assert told[-1].held_out_loss < told[0].held_out_loss


@pytest.mark.parametrize("count", [10, 11, 40, 100])
def test_few_rows_are_enough(count):
    result = train(telemetry(count))
    assert result.calibration.rows == result.rows_held_out == count
    assert result.rows_trained == count - (count // 10 if count >= 20 else 0)
    scores = result.model.score(telemetry(1000, seed=8))
    assert np.isfinite(scores).all()
    strange = telemetry(200, seed=9)
    strange[:, :6] += 20 * strange[:, :6].std(axis=0)
    assert (result.model.score(strange) > result.calibration.threshold).all()


@pytest.mark.parametrize(
    "rows",
    [
        np.repeat(np.eye(4), 15, axis=0),
        np.repeat(telemetry(5), 100, axis=0),
        np.arange(60.0)[:, None],
        np.column_stack([np.arange(30) == 7, np.zeros(30), np.full(30, 1e7)]),
        np.random.default_rng(0).normal(size=(20, 90)),
        np.random.default_rng(0).standard_cauchy(size=(200, 3)) * 1e8,
        np.random.default_rng(0).integers(0, 2, size=(500, 12)),
    ],
    ids=["one-hot", "duplicates", "one column", "one row varies", "wide", "heavy tails", "binary"],
)
def test_awkward_rows(rows):
    result = train(rows)
    assert np.isfinite(result.calibration.threshold)
    assert np.isfinite(result.model.score(rows.astype(np.float32))).all()
    strange = rows.astype(np.float32) + 30 * np.float32(np.ptp(rows))
    usual = np.median(result.model.score(rows.astype(np.float32)))
    assert (result.model.score(strange) > usual + 2).all()


def test_rows_that_are_all_the_same():
    with pytest.raises(DataError, match="no column varies"):
        train(np.full((50, 3), 2.5))


@pytest.mark.parametrize(
    "settings", [{"hidden": (8,)}, {"latent": 2}, {"activation": "relu"}, {"epochs": 5}, {"device": "cuda"}]
)
def test_settings_of_the_autoencoder_are_refused(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        TrainingSettings(**settings)


def test_fewer_steps():
    result = train(telemetry(100), settings=TrainingSettings(steps=4))
    assert [(epoch.number, epoch.of) for epoch in result.history] == [(i, 4) for i in range(1, 5)]
    assert result.model.facts()["steps"] == 4


def test_a_given_share_is_held_out():
    result = train(telemetry(100), settings=TrainingSettings(held_out=0.3))
    assert (result.rows_trained, result.rows_held_out) == (90, 27 + 10)


def test_the_soft_clip_and_its_inverse():
    clip = fit_soft_clip(telemetry(1000))
    z = np.array([-300, -3.01, -2, 0, 0.5, 3, 4, 1000], np.float32)
    rows = (z[:, None] * clip.scaling.scale + clip.scaling.shift).astype(np.float64)
    mapped = clip.apply(rows)
    expected = np.where(np.abs(z) <= 3, np.abs(z), 3 + 3 * np.log(np.maximum(np.abs(z), 1e-9) / 3))
    np.testing.assert_allclose(mapped[:, 0], np.sign(z) * expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(clip.invert(mapped), rows, rtol=1e-6)


def test_the_robust_map_standardises():
    rows = np.random.default_rng(0).standard_t(2, size=(2000, 3)).astype(np.float32) * [1, 100, 1e-3]
    rows = rows.astype(np.float32)
    robust = fit_robust_map(rows, fit_soft_clip(rows).scaling)
    mapped = robust.apply(rows.astype(np.float64))
    np.testing.assert_allclose(mapped.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(mapped.std(axis=0), 1, rtol=1e-5)
    linear = np.arcsinh((rows.astype(np.float64) - robust.median) * robust.inverse_iqr)
    np.testing.assert_allclose(mapped, linear * robust.gain + robust.offset, rtol=1e-9, atol=1e-9)


def test_whitened_rows_have_no_covariance():
    random = np.random.default_rng(0)
    rows = (random.normal(size=(2000, 40)) @ random.normal(size=(40, 40))).astype(np.float32)
    whitened = fit_whitening(rows).apply(rows.astype(np.float64))
    covariance = whitened.T @ whitened / len(rows)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-4
    # The shrinkage shows in the directions of least variance only.
    assert np.median(np.diag(covariance)) == pytest.approx(1, abs=0.1)
    assert np.diag(covariance).max() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("count", "width"), [(60, 90), (200, 300)])
def test_whitening_of_few_wide_rows_treats_new_rows_like_old_ones(count, width):
    random = np.random.default_rng(0)
    rows, new = (random.normal(size=(n, width)).astype(np.float32) for n in (count, 500))
    whitening = fit_whitening(rows)
    lengths, new_lengths = (np.linalg.norm(whitening.apply(r), axis=1) for r in (rows, new))
    assert np.median(new_lengths) == pytest.approx(np.median(lengths), rel=0.1)


def test_k_means_finds_separate_clusters():
    random = np.random.default_rng(0)
    means = np.array([[0, 0], [20, 0], [0, 20]])
    rows = (np.repeat(means, 200, axis=0) + random.normal(size=(600, 2))).astype(np.float32)
    centres = k_means(distinct(rows), 60, 8, np.random.default_rng(1))
    assert len(centres) <= 60
    assert (np.linalg.norm(rows[:, None] - centres, axis=2).min(axis=1) < 3).all()
    few = k_means(distinct(rows[:10]), 60, 8, np.random.default_rng(1))
    np.testing.assert_array_equal(few, np.unique(rows[:10], axis=0))


def test_repeated_rows_carry_weight_instead_of_being_centres():
    rows = np.repeat(np.arange(5, dtype=np.float32)[:, None], [500, 1, 1, 1, 1], axis=0)
    np.testing.assert_array_equal(
        k_means(distinct(rows), 60, 4, np.random.default_rng(0)), np.arange(5)[:, None]
    )
    centres = k_means(distinct(rows), 2, 8, np.random.default_rng(0))
    # The heavy row has a centre almost to itself.
    assert np.abs(centres).min() < 0.02


def test_the_distance_is_the_mean_of_the_nearest():
    random = np.random.default_rng(0)
    rows = random.normal(size=(20, 6))
    centres = random.normal(size=(50, 6)).astype(np.float32)
    scales = random.uniform(0.2, 5, size=(2, 50))
    distances = np.linalg.norm(rows[:, None] - centres, axis=2)
    expected = [np.sort(distances * scale, axis=1)[:, :3].mean(axis=1) for scale in scales]
    measured = Prototypes(centres, np.square(scales).astype(np.float32)).distances(rows)
    np.testing.assert_allclose(measured, np.stack(expected, axis=1), rtol=1e-5)


def test_wide_rows_have_their_distances_by_a_matrix_product():
    random = np.random.default_rng(0)
    centres, rows = random.normal(size=(50, 12)).astype(np.float32), random.normal(size=(20, 12))
    gains = random.uniform(0.1, 10, size=(2, 50)).astype(np.float32)
    prototypes = Prototypes(centres, gains)
    assert not prototypes.is_direct
    distances = np.linalg.norm(rows[:, None] - centres, axis=2)
    expected = [np.sort(distances * np.sqrt(gain), axis=1)[:, :3].mean(axis=1) for gain in gains]
    np.testing.assert_allclose(prototypes.distances(rows), np.stack(expected, axis=1), rtol=1e-4)


def test_the_number_of_prototypes_can_be_chosen():
    rows = telemetry(600)
    ensemble = train(rows, settings=TrainingSettings(steps=4, prototypes=50)).model
    assert max(ensemble.facts()["prototypes"]) <= 50
    with pytest.raises(SettingsError, match="prototypes"):
        TrainingSettings(model="subspace", prototypes=50)


def test_wide_rows_get_fewer_prototypes():
    counts = [prototype_count(width) for width in (1, 120, 160, 10_000)]
    assert counts == [1024, 1024, 768, 640]


def test_what_is_near_depends_on_how_dense_the_prototypes_are():
    random = np.random.default_rng(0)
    dense, sparse = random.normal(size=(2000, 2)) * 0.1, random.normal(size=(2000, 2)) * 3 + 50
    points = distinct(np.concatenate([dense, sparse]).astype(np.float32))
    prototypes = fit_prototypes(points, 400, trusted_rows=4000, random=random)
    aside = np.array([[1.0, 0], [51.0, 50]], np.float32)
    half, full = prototypes.distances(aside).T
    assert half[0] > 2 * half[1]
    assert full[0] > 4 * full[1]
    # Of a few rows the local scale is not believed.
    timid = fit_prototypes(points, 400, trusted_rows=1, random=random)
    np.testing.assert_allclose(timid.gains, 1, rtol=0.03)


def test_networks_trained_side_by_side_do_not_see_each_other():
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(200, 3)).astype(np.float32) for _ in range(2))
    third = second + 5
    for other in (second, third):
        (network, _), _ = fit_denoisers([first, other], held_out=first[:5], seed=1)
        rebuilt = network.reconstruct(first)
        if other is second:
            expected = rebuilt
    np.testing.assert_allclose(rebuilt, expected, rtol=1e-4, atol=1e-5)


def test_the_combination_follows_the_strangest_part():
    random = np.random.default_rng(0)
    usual = np.exp(random.normal(size=(5000, 3)) * [0.1, 0.5, 1] + [0, 3, -3]).astype(np.float32)
    combination = fit_combination(usual, np.zeros(3), [50] * 3)
    np.testing.assert_allclose(combination.gain, [10, 2, 1], rtol=0.1)
    typical = np.exp([0, 3, -3])
    np.testing.assert_allclose(combination.part_scores(typical[None]), 0, atol=0.3)
    np.testing.assert_allclose(combination.part_scores(typical[None] * 0), LEAST_Z, rtol=1e-5)
    strange = typical * np.exp(8 / combination.gain)
    for part in range(3):
        row = np.where(np.arange(3) == part, strange, typical * 0)
        # One of three parts in the mean: the soft maximum is below the maximum by log(3) / 2.
        np.testing.assert_allclose(combination.apply(row[None]), 1 + 8 - np.log(3) / 2, rtol=0.05)


def test_scores_are_positive_and_smooth():
    usual = np.exp(np.random.default_rng(0).normal(size=(5000, 1))).astype(np.float32)
    combination = fit_combination(usual, np.zeros(1), [50])
    scores = combination.apply(np.geomspace(1e-38, 1e38, 2001)[:, None])
    assert scores.min() == pytest.approx(np.exp(LEAST_Z), rel=1e-3)
    assert (np.diff(scores) >= 0).all()
    typical = (
        np.exp(-combination.least.astype(np.float64) / combination.gain) / combination.inverse_resolution
    )
    step = 1e-3
    below, at, above = combination.apply(typical * np.exp([[-step], [0], [step]]))
    assert at == pytest.approx(1, abs=1e-5)
    assert above - at == pytest.approx(at - below, rel=2e-3)


def test_distances_below_the_resolution_are_alike():
    usual = np.repeat([[0.0, 1.0]], 100, axis=0).astype(np.float32)
    usual[:5] = 3
    combination = fit_combination(usual, np.array([0.5, 0.5]), [50] * 2)
    z = combination.part_scores(np.array([[0, 0.2], [0.5, 0.5], [1, 1]], np.float32))
    np.testing.assert_allclose(z[0], z[1], atol=1e-5)
    # Half a step, and the step itself twenty times the logarithm of 2 above it.
    np.testing.assert_allclose(z[:, 0], [0, 0, 20 * np.log(2)], atol=1e-4)


def test_a_part_may_count_from_its_highest_values_only():
    usual = np.exp(np.random.default_rng(0).normal(size=(5000, 2))).astype(np.float32)
    combination = fit_combination(usual, np.zeros(2), [50, 99])
    above = np.mean(combination.part_scores(usual) > 0, axis=0)
    np.testing.assert_allclose(above, [0.5, 0.01], atol=1e-3)


def test_parts_that_find_rows_stranger_are_told_from_others():
    random = np.random.default_rng(0)
    first = random.normal(size=(1000, 4))
    second = random.normal(size=(1500, 4)) * [1, 1, 1, 3] + [-1, 0.2, 1, 0]
    np.testing.assert_array_equal(stranger(first, second), [False, False, True, True])
    assert not stranger(first, first).any()


def test_the_smallest_step_of_switches_and_measurements():
    random = np.random.default_rng(0)
    values = np.column_stack(
        [random.integers(0, 2, 500) * 3, random.poisson(2, 500), random.normal(size=500), np.zeros(500)]
    )
    steps = smallest_step(values.astype(np.float32))
    np.testing.assert_allclose(steps[[0, 1, 3]], [3, 1, np.inf])
    assert steps[2] < 0.01


def switches(random, rows):
    return (random.random((rows, 5)) < [0.5, 0.2, 0.05, 0.9, 0.5]) * 1.0


def rare_counters(random, rows):
    return random.poisson(0.1, (rows, 4)) * 1.0


def rare_spike(random, rows):
    return np.column_stack([np.where(random.random(rows) < 0.002, 5.0, 0.0), np.ones(rows)])


def noise(random, rows):
    return random.normal(size=(rows, 110))


@pytest.mark.parametrize(
    ("source", "rows"), [(switches, 1000), (rare_counters, 1000), (rare_spike, 3000), (noise, 100)]
)
def test_new_rows_of_an_awkward_source_are_normal(source, rows):
    """One in a hundred is the target; a threshold from 250 or 100 held-out rows may be off by some more."""
    random = np.random.default_rng(1)
    values = source(random, rows)
    fitted = fit_ensemble(values.astype(np.float32), seed=0, steps=50)
    threshold = calibrate(fitted.held_out_scores, method="conformal", target_fpr=0.01).threshold
    new = source(random, 4000).astype(np.float32)
    assert np.mean(fitted.model.score(new) > threshold) < (0.1 if rows < 400 else 0.04)
    strange = new[:100].copy()
    strange[:, 0] += 20 * (values.std(axis=0).max() + 1)
    assert (fitted.model.score(strange) > threshold).all()


def rare_flags(random, count):
    return (random.random((count, 12)) < 0.01) * 1.0


def rare_categories(random, count):
    return np.eye(119)[random.integers(0, 119, count)]


@pytest.mark.parametrize(("source", "rows"), [(rare_flags, 60), (rare_categories, 17)])
def test_events_never_seen_are_as_strange_in_the_folds_as_in_the_model_served(source, rows):
    """The promise is of the mean over training sets: most of these rows hold something that few others do."""
    rates, bounds = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        result = train(source(random, rows), settings=TrainingSettings(steps=10))
        fresh = result.model.score(source(random, 1000).astype(np.float32))
        rates.append(np.mean(fresh > result.calibration.threshold))
        bounds.append(result.calibration.fpr_bound)
    # Of one training set the rate is about exponentially distributed: its deviation is its mean.
    assert np.mean(rates) < np.mean(bounds) * (1 + 3 / np.sqrt(12))
