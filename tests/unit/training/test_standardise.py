from __future__ import annotations

import numpy as np

from datasentinel.training.standardise import fit_scaling


def test_columns_get_mean_zero_and_deviation_one():
    rows = np.random.default_rng(0).normal([5, -1e6, 0], [2, 100, 1e-20], (500, 3)).astype(np.float32)
    scaling = fit_scaling(rows)
    z = scaling.apply(rows).astype(np.float64)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-3)
    assert scaling.varying.all()


def test_constant_columns_are_zero_until_they_depart():
    rows = np.zeros((50, 4), np.float32)
    rows[:, 0] = np.linspace(0, 10, 50)
    rows[:, 1] = 200
    rows[:, 2] = 0
    rows[:, 3] = np.float32(1e6) + np.arange(50) % 2 * np.float32(0.0625)  # the last bit of float32
    scaling = fit_scaling(rows)
    assert scaling.varying.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(scaling.apply(rows)[:, 1:3], 0)
    assert np.abs(scaling.apply(rows)[:, 3]).max() < 1e-4
    departed = scaling.apply(np.array([[5, 202, 3, 1.01e6]], np.float32))[0]
    np.testing.assert_allclose(departed[1], 1, rtol=1e-5)  # one percent of 200
    np.testing.assert_allclose(departed[2], 3 / rows[:, 0].std(), rtol=1e-5)
    np.testing.assert_allclose(departed[3], 1, rtol=1e-4)


def test_all_scales_are_finite_and_positive_at_the_ends_of_float32():
    rows = np.array([[1e-44, 3e38, 0, 1e-30], [0, -3e38, 0, 2e-30]], np.float32)
    scaling = fit_scaling(rows)
    for array in (scaling.shift, scaling.scale, scaling.inverse_scale):
        assert np.isfinite(array).all()
    assert (scaling.scale > 0).all()
    assert (scaling.inverse_scale > 0).all()
    assert np.isfinite(scaling.apply(rows)).all()
