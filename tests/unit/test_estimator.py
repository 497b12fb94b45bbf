from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from datasentinel import AutoencoderDetector, Detector
from datasentinel.errors import DataWarning, InvalidInputError, ModelNotFoundError, SettingsError

# Small data cannot promise the default target.
pytestmark = pytest.mark.filterwarnings("ignore:the target is out of reach:datasentinel.errors.DataWarning")

# scikit-learn wants decision_function to be score_samples moved by a constant. Ours has the other sign:
# score_samples is the score that is served, where higher is more anomalous.
_EXPECTED_FAILURES = {
    "check_outliers_fit_predict": "whether one of 300 training rows exceeds a threshold for 1 % is chance",
    "check_outliers_train": "score_samples is higher for anomalies, decision_function for normal rows",
}


# These compare to one part in 1e7, but a float32 score's last digits depend on the row's place in its block.
_BEYOND_FLOAT32 = {"check_methods_sample_order_invariance", "check_methods_subset_invariance"}


@parametrize_with_checks([AutoencoderDetector(steps=10)], expected_failed_checks=lambda _: _EXPECTED_FAILURES)
def test_scikit_learns_own_checks(estimator, check):
    if check.func.__name__ in _BEYOND_FLOAT32:
        pytest.skip("finer than float32; see test_a_rows_place_makes_no_difference")
    check(estimator)


@pytest.mark.parametrize("method", ["score_samples", "decision_function", "predict_proba", "predict"])
def test_a_rows_place_makes_no_difference(fitted, method):
    rows = np.concatenate([normal_rows(40, seed=2), strange_rows(41)])
    apply = getattr(fitted, method)
    whole = apply(rows)
    single = np.concatenate([apply(row[None]) for row in rows])
    turned = apply(rows[::-1])[::-1]
    np.testing.assert_allclose(single, whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(turned, whole, rtol=1e-5, atol=1e-5)


def normal_rows(count, seed=0):
    random = np.random.default_rng(seed)
    causes = random.normal(size=(count, 2))
    return np.column_stack([causes, causes @ [1, 2], causes @ [-1, 1]]) + 0.05 * random.normal(
        size=(count, 4)
    )


def strange_rows(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 4)) * 2


@pytest.fixture(scope="module")
def fitted():
    return AutoencoderDetector().fit(normal_rows(600))


def test_conventions(fitted):
    rows = np.concatenate([normal_rows(300, seed=2), strange_rows(300)])
    labels = np.repeat([0, 1], 300)
    scores = fitted.score_samples(rows)
    assert roc_auc_score(labels, scores) > 0.95
    np.testing.assert_allclose(
        fitted.decision_function(rows), fitted.threshold_ - scores.astype(np.float64), rtol=1e-5
    )
    np.testing.assert_array_equal(fitted.predict(rows), np.where(scores > fitted.threshold_, -1, 1))
    assert fitted.offset_ == -fitted.threshold_
    assert np.mean(fitted.predict(rows[:300]) == -1) < 0.04


def test_a_target_out_of_reach_is_told():
    with pytest.warns(DataWarning, match=r"at most 0\.01639 is promised \(less needs 99 rows or more\)"):
        AutoencoderDetector(steps=10).fit(normal_rows(60))


def test_a_label_that_is_found_is_named():
    pandas = pytest.importorskip("pandas")
    rows = normal_rows(60)
    frame = pandas.DataFrame(rows, columns=[f"m{i}" for i in range(rows.shape[1])])
    frame["fault"] = np.arange(60) % 20 == 0
    with pytest.warns(DataWarning, match="'fault' is taken as the label"):
        fitted = AutoencoderDetector(steps=10).fit(frame)
    assert fitted.artifact_.config.feature_names == tuple(frame.columns[:-1])
    named = AutoencoderDetector(steps=10, features=tuple(frame.columns)).fit(frame)
    assert named.artifact_.config.feature_names == tuple(frame.columns)


def test_pyods_conventions(fitted):
    np.testing.assert_array_equal(fitted.decision_scores_, fitted.score_samples(normal_rows(600)))
    np.testing.assert_array_equal(fitted.labels_, fitted.decision_scores_ > fitted.threshold_)
    proba = fitted.predict_proba(np.concatenate([normal_rows(300, seed=2), strange_rows(300)]))
    assert proba.shape == (600, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert 0.35 < proba[:300, 1].mean() < 0.65
    held_out = fitted.artifact_.config.calibration["rows"]
    assert np.median(proba[300:, 1]) == pytest.approx(1 - 1 / (held_out + 1))


def test_p_values(fitted, tmp_path):
    normal, strange = normal_rows(2000, seed=2), strange_rows(300)
    p_values = fitted.p_values(normal)
    assert p_values.dtype == np.float64
    # Held-out rows are 150, so a share of 0.1 is known to 0.025, and that of the new rows to 0.007.
    assert np.mean(p_values <= 0.1) < 0.1 + 4 * 0.026
    assert np.median(fitted.p_values(strange)) == 1 / (fitted.artifact_.config.calibration["rows"] + 1)
    fitted.save(tmp_path)
    np.testing.assert_array_equal(AutoencoderDetector.load(tmp_path).p_values(normal), p_values)
    np.testing.assert_array_equal(
        Detector.load(tmp_path, backend=fitted._loaded().backend).p_values(normal), p_values
    )


def test_what_is_scored_is_what_is_served(fitted, tmp_path):
    rows = strange_rows(50).astype(np.float32)
    fitted.save(tmp_path)
    served = Detector.load(tmp_path, backend=fitted.artifact_ and "fused")
    np.testing.assert_allclose(served.score(rows), fitted.score_samples(rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(served.predict(rows), fitted.predict(rows) == -1)
    loaded = AutoencoderDetector.load(tmp_path)
    np.testing.assert_array_equal(loaded.score_samples(rows), fitted.score_samples(rows))
    np.testing.assert_array_equal(loaded.predict_proba(rows), fitted.predict_proba(rows))
    assert loaded.get_params() == {**fitted.get_params(), "model": "ensemble", "steps": 600}
    assert loaded.n_features_in_ == 4
    with pytest.raises(ModelNotFoundError):
        AutoencoderDetector.load(tmp_path / "nowhere")


def test_pickles_and_clones(fitted):
    rows = strange_rows(20)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.score_samples(rows), fitted.score_samples(rows))
    fresh = clone(fitted.set_params(target_fpr=0.02))
    fitted.set_params(target_fpr=0.01)
    assert fresh.target_fpr == 0.02
    assert not hasattr(fresh, "artifact_")


def test_a_pipeline_makes_no_difference(fitted):
    rows, queries = normal_rows(600), np.concatenate([normal_rows(200, 3), strange_rows(200)])
    pipeline = make_pipeline(StandardScaler(), AutoencoderDetector()).fit(rows)
    np.testing.assert_allclose(pipeline.score_samples(queries), fitted.score_samples(queries), atol=0.05)


def test_data_frames_name_their_columns(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(normal_rows(60), columns=["a", "b", "c", "d"])
    detector = AutoencoderDetector(steps=50).fit(frame)
    assert list(detector.feature_names_in_) == ["a", "b", "c", "d"]
    assert detector.artifact_.config.feature_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(detector.score_samples(frame), detector.decision_scores_)
    with pytest.raises(ValueError, match="feature names"):
        detector.predict(frame[["b", "a", "c", "d"]])
    detector.save(tmp_path)
    loaded = AutoencoderDetector.load(tmp_path)
    assert list(loaded.feature_names_in_) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(loaded.score_samples(frame), detector.decision_scores_)


@pytest.mark.parametrize(
    ("columns", "other"),
    [
        ([0, 1, 2, 3], {"label": np.arange(60) % 20 == 0}),
        ([1, 2, 3, 4], {"time": pd.date_range("2026", periods=60, freq="s")}),
        ([0.5, 1, "c", None], {}),
        ([0, "b", 2, ("d", 1)], {"host": "web"}),
    ],
)
def test_columns_that_are_numbered_beside_named_ones(columns, other):
    plain = pd.DataFrame(normal_rows(60), columns=columns)
    frame = plain.assign(**other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        detector = AutoencoderDetector(steps=10).fit(frame)
    assert list(detector.feature_names_in_) == list(map(str, columns))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = detector.score_samples(frame)
        np.testing.assert_array_equal(detector.score_samples(plain), scores)
    np.testing.assert_array_equal(detector._loaded().score(frame), scores)
    with pytest.warns(UserWarning, match="feature names"):
        np.testing.assert_array_equal(detector.score_samples(plain.to_numpy()), scores)


def test_a_plan_for_a_frame_is_not_trained_on():
    with pytest.raises(InvalidInputError, match=r"collect\(\) it first"):
        AutoencoderDetector(steps=10).fit(pytest.importorskip("polars").DataFrame(normal_rows(60)).lazy())


def test_polars_frames_name_their_columns():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(normal_rows(60), schema=["a", "b", "c", "d"])
    detector = AutoencoderDetector(steps=50).fit(frame)
    assert list(detector.feature_names_in_) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(detector.score_samples(frame), detector.decision_scores_)


def test_seeds():
    rows = normal_rows(40)
    first, again, other = (
        AutoencoderDetector(random_state=seed).fit(rows).score_samples(strange_rows(5))
        for seed in (1, np.int64(1), np.random.RandomState(1))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_warm_start_trains_on():
    rows = normal_rows(300)
    detector = AutoencoderDetector(warm_start=True).fit(rows)
    cold = detector.decision_scores_
    warm = detector.fit(rows).decision_scores_
    assert (cold != warm).any()
    assert np.corrcoef(cold, warm)[0, 1] > 0.8
    with pytest.raises(InvalidInputError, match="4 features, this one has 3"):
        detector.fit(rows[:, :3])


def test_the_plain_autoencoder():
    detector = AutoencoderDetector(model="autoencoder", threshold_method="mean+3std").fit(normal_rows(200))
    assert detector.artifact_.config.calibration["method"] == "mean+3std"
    assert (detector.score_samples(strange_rows(50)) >= 0).all()


@pytest.mark.parametrize(
    "asked", [{"features": ["a"]}, {"ignore": ("2",)}, {"label": "y"}, {"time": "t"}, {"id": "host"}]
)
def test_columns_by_name_need_names(asked):
    for rows in (normal_rows(50), normal_rows(50).tolist(), pd.DataFrame(normal_rows(50))):
        with pytest.raises(InvalidInputError, match=f"{next(iter(asked))}=.* fit a data frame"):
            AutoencoderDetector(**asked).fit(rows)


@pytest.mark.parametrize("asked", [{"features": "a,b"}, {"ignore": "abc"}])
def test_names_of_columns_are_a_sequence(asked):
    with pytest.raises(SettingsError, match="must be a sequence of names"):
        AutoencoderDetector(**asked).fit(pd.DataFrame(normal_rows(50), columns=list("abcd")))


@pytest.mark.parametrize("asked", [{"features": filter(None, "ab")}, {"ignore": (name for name in "cd")}])
def test_names_of_columns_may_be_generated(asked):
    frame = pd.DataFrame(normal_rows(50), columns=list("abcd"))
    assert AutoencoderDetector(steps=2, **asked).fit(frame).feature_names_in_.tolist() == ["a", "b"]


def test_flags_that_sound_like_labels_are_told():
    frame = pd.DataFrame(normal_rows(60), columns=list("abcd"))
    frame = frame.assign(Fault1=(np.arange(60) % 7 == 0) * 1, Fault2=(np.arange(60) % 11 == 0) * 1)
    with pytest.warns(DataWarning, match="sounds like a label: 'Fault1', 'Fault2'"):
        fitted = AutoencoderDetector(steps=2).fit(frame)
    assert fitted.feature_names_in_.tolist() == list(frame.columns)


@pytest.mark.parametrize("name", ["target_fpr", "steps", "prototypes"])
@pytest.mark.parametrize("value", ["1%", "3", [0.1], {}])
def test_numbers_that_are_none(name, value):
    with pytest.raises(SettingsError, match=f"{name} must be a number, got "):
        AutoencoderDetector(**{name: value}).fit(normal_rows(50))


def test_parameters_that_make_no_sense():
    with pytest.raises(SettingsError, match="model"):
        AutoencoderDetector(model="forest").fit(normal_rows(50))
    with pytest.raises(SettingsError, match="target_fpr"):
        AutoencoderDetector(target_fpr=2).fit(normal_rows(50))
    with pytest.raises(InvalidInputError, match="float32"):
        AutoencoderDetector().fit(normal_rows(50) * 1e300)


def test_importing_datasentinel_imports_no_scikit_learn():
    code = (
        "import sys, datasentinel\n"
        "assert not {'torch', 'sklearn', 'onnx'} & set(sys.modules)\n"
        "datasentinel.AutoencoderDetector\n"
        "assert 'sklearn' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("steps", 1.5, "steps must be a whole number, got 1.5"),
        ("steps", True, "steps must be a whole number, got True"),
        ("prototypes", 2.5, "prototypes must be a whole number, got 2.5"),
        ("target_fpr", None, "target_fpr must be a number, got None"),
        ("features", None, "features must be a sequence of names"),
        ("features", [0, 1], "features must be a sequence of names"),
        ("ignore", None, "ignore must be a sequence of names"),
    ],
)
def test_parameters_that_make_no_sense_are_named(parameter, value, message):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["a", "b"])
    with pytest.raises(SettingsError, match=message):
        AutoencoderDetector(**{parameter: value}).fit(frame)


def test_whole_numbers_of_numpy_are_taken():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    one, other = (AutoencoderDetector(steps=steps).fit(rows) for steps in (np.int64(3), 3))
    assert one.threshold_ == other.threshold_


def test_masked_values_are_refused():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    masked = np.ma.masked_array(rows, mask=rows > rows.max() - 1e-9)
    row, column = np.argwhere(masked.mask)[0]
    estimator = AutoencoderDetector(steps=2)
    with pytest.raises(InvalidInputError, match=f"the value at row {row}, column {column} is masked"):
        estimator.fit(masked)
    estimator.fit(np.ma.masked_array(rows))
    with pytest.raises(InvalidInputError, match="is masked"):
        estimator.predict(masked)


def test_a_frame_s_row_numbers_are_not_learnt_from():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 2)), columns=["a", "b"])
    shuffled = frame.sample(frac=1, random_state=0).reset_index()
    with pytest.warns(DataWarning, match="column 'index' is left out: it numbers the rows"):
        estimator = AutoencoderDetector(steps=2).fit(shuffled)
    assert estimator.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(estimator.predict(shuffled), estimator.predict(shuffled[["a", "b"]]))


@pytest.mark.parametrize("make", [lambda frame: frame, pl.from_pandas], ids=["pandas", "polars"])
def test_durations_are_learnt_from_in_seconds(make):
    random = np.random.default_rng(0)
    rows = random.normal(5, 1, (200, 3)).round(3)
    names = ["a", "took", "c"]
    timed = pd.DataFrame(rows, columns=names)
    timed["took"] = pd.to_timedelta(timed["took"], unit="s")
    estimator = AutoencoderDetector(steps=2).fit(make(timed))
    assert estimator.feature_names_in_.tolist() == names
    plain = AutoencoderDetector(steps=2).fit(make(pd.DataFrame(rows, columns=names)))
    np.testing.assert_allclose(
        estimator.score_samples(make(timed)), plain.score_samples(make(timed)), rtol=1e-5
    )
