from __future__ import annotations

import numpy as np
import pytest
import torch  # noqa: TID251

from datasentinel.errors import DataError, InvalidInputError, SettingsError
from datasentinel.training import TrainingSettings, train
from datasentinel.training.network import Autoencoder
from datasentinel.training.principal import components_for, principal_components


def plain(**settings):
    return TrainingSettings(model="autoencoder", **settings)


def telemetry(rows, seed=0):
    """Six columns that two hidden causes move, in different units, and a constant one."""
    random = np.random.default_rng(seed)
    causes = random.normal(size=(rows, 2))
    mix = np.array([[1, 0, 1, 2, -1, 0.5], [0, 1, 1, -1, 0.5, 2]])
    values = (causes @ mix + 0.05 * random.normal(size=(rows, 6))) * [1, 10, 100, 0.1, 1, 1] + [
        0,
        50,
        1e4,
        0,
        -3,
        1,
    ]
    return np.column_stack([values, np.full(rows, 7.0)])


def labelled(rows, seed=0):
    """A tenth of the rows has its first two columns swapped with those of other rows."""
    values = telemetry(rows, seed)
    labels = np.arange(rows) % 10 == 0
    values[labels, :2] = np.roll(values[labels, :2], 1, axis=0)
    return values, labels


@pytest.fixture(scope="module")
def result():
    values, labels = labelled(3000)
    return train(values, labels=labels, settings=plain())


def test_anomalies_are_found(result):
    assert result.quality.auroc > 0.97
    assert result.quality.recall > 0.7
    assert result.quality.false_positive_rate < 0.03
    assert result.model.network.widths == (7, 7, 2, 7, 7)


def test_anomalies_and_test_rows_are_not_trained_on(result):
    assert result.quality.anomalies == 300
    assert result.quality.rows == 300 + 540
    assert result.rows_trained + result.rows_held_out == 2700 - 540


def test_the_threshold_holds_on_new_normal_rows(result):
    scores = result.model.score(telemetry(20_000, seed=9).astype(np.float32))
    assert 0.002 < np.mean(scores > result.calibration.threshold) < 0.03


def test_a_departure_from_a_constant_column_is_noticed(result):
    rows = telemetry(5, seed=3).astype(np.float32)
    before = result.model.score(rows)
    rows[:, 6] = 8
    assert (result.model.score(rows) > result.calibration.threshold).all()
    assert (before < result.calibration.threshold).all()


def test_a_seed_decides_everything():
    values = telemetry(300)
    first, again, other = (
        train(values, settings=plain(seed=seed, epochs=3, activation="tanh")) for seed in (1, 1, 2)
    )
    assert first.history == again.history
    assert first.calibration.facts() == again.calibration.facts()
    for a, b in zip(first.model.network.layers(), again.model.network.layers(), strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)
    assert first.history != other.history


def test_training_leaves_the_callers_random_state_and_threads_alone():
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(telemetry(100), settings=plain(epochs=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_hundred_rows_are_enough():
    values, labels = labelled(100)
    result = train(values, labels=labels, settings=plain())
    assert result.quality.auroc > 0.9
    assert result.calibration.rows == result.rows_held_out == 14


def test_training_stops_early_and_keeps_the_best():
    told = []
    settings = plain(epochs=400, learning_rate=0.05, hidden=(8,), latent=3)
    result = train(telemetry(200), settings=settings, on_epoch=told.append)
    assert told == result.history
    assert len(result.history) < 400
    assert result.history[-1].held_out_loss > min(epoch.held_out_loss for epoch in result.history)


def test_a_given_architecture_is_used():
    settings = plain(hidden=(9, 5), latent=2, activation="tanh", epochs=2, batch_size=50)
    result = train(telemetry(200), settings=settings)
    assert result.model.network.widths == (7, 9, 5, 2, 5, 9, 7)
    assert [layer.activation for layer in result.model.network.layers()] == [
        "tanh", "tanh", "identity", "tanh", "tanh", "identity",
    ]  # fmt: skip
    assert result.model.schedule.batch_size == 50
    assert train(telemetry(200), settings=plain(hidden=(), epochs=1)).model.network.hidden == ()


@pytest.mark.parametrize("hidden", [(), (4,), (9,), (9, 5, 12)])
def test_the_network_starts_as_the_principal_components(hidden):
    z = np.random.default_rng(0).normal(size=(200, 6)) @ np.diag([5, 3, 1, 0.5, 0.2, 0.1])
    z = (z - z.mean(axis=0)).astype(np.float32)
    variances, directions = principal_components(z)
    np.testing.assert_allclose(variances, np.linalg.svd(z, compute_uv=False) ** 2 / len(z), rtol=1e-4)
    assert components_for(variances) == 2
    network = Autoencoder(6, hidden, 2, "relu")
    assert network.can_start_from_components()
    network.start_from_components(directions)
    projected = z @ directions[:2].T @ directions[:2]
    np.testing.assert_allclose(network(torch.from_numpy(z)).detach(), projected, atol=1e-5)


@pytest.mark.parametrize(("hidden", "activation"), [((3,), "relu"), ((9, 3), "relu"), ((9,), "tanh")])
def test_not_every_network_can_hold_the_principal_components(hidden, activation):
    assert not Autoencoder(6, hidden, 2, activation).can_start_from_components()


@pytest.mark.parametrize(
    ("rows", "labels", "error", "match"),
    [
        (np.zeros(5), None, InvalidInputError, "shape"),
        ([[1.0, np.nan]] * 20, None, InvalidInputError, "row 0, column 1"),
        ([[1.0, 1e39]] * 20, None, InvalidInputError, "row 0, column 1"),
        (telemetry(20), np.zeros(19), InvalidInputError, "labels have shape"),
        (telemetry(20), np.full(20, np.nan), InvalidInputError, "not finite"),
        (telemetry(20), np.array(["a"] * 20), InvalidInputError, "0 for normal"),
        (telemetry(20), np.ones(20), DataError, "0 normal rows"),
        (telemetry(9), None, DataError, "9 normal rows"),
        (telemetry(50)[:, [0, 6]], None, DataError, "fewer than two columns vary"),
    ],
)
def test_rows_that_cannot_be_trained_on(rows, labels, error, match):
    with pytest.raises(error, match=match):
        train(rows, labels=labels, settings=plain())


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": (0,)},
        {"latent": 0},
        {"epochs": 0},
        {"steps": 5},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"target_fpr": 1.0},
        {"held_out": 0.0},
        {"seed": -1},
        {"activation": "gelu"},
        {"threshold_method": "median"},
        {"device": "tpu"},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        plain(**settings)


def test_a_latent_wider_than_a_row():
    with pytest.raises(SettingsError, match="latent 8"):
        train(telemetry(50), settings=plain(latent=8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there():
    with pytest.raises(SettingsError, match="no CUDA device"):
        train(telemetry(50), settings=plain(device="cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_training_on_cuda():
    values, labels = labelled(3000)
    result = train(values, labels=labels, settings=plain(device="cuda"))
    assert result.model.device == "cuda"
    assert result.quality.auroc > 0.97
