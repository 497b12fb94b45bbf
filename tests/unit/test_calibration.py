from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datasentinel.artifact import Config
from datasentinel.backend import PValueTable
from datasentinel.calibration import THRESHOLD_METHODS, ScoreTable, calibrate, feature_histograms
from datasentinel.errors import ArtifactError, DataError, InvalidInputError


def conformal(scores, target_fpr):
    return calibrate(np.array(scores, np.float32), method="conformal", target_fpr=target_fpr)


def p_values(calibration_scores, scores):
    """What the core answers."""
    table = ScoreTable.of(np.asarray(calibration_scores, np.float32))
    native = PValueTable(scores=table.scores.tolist(), greater=table.greater.tolist(), rows=table.rows)
    return native.p_values(np.asarray(scores, np.float32))


def reference(calibration_scores, scores):
    """The definition, in float64 and without a table."""
    ordered = np.sort(np.asarray(calibration_scores, np.float32).astype(np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores, np.float32), side="left")
    return (1 + at_least) / (1 + len(ordered))


def config_with(calibration, columns=1):
    """A configuration that went through JSON, as in a file."""
    facts = json.loads(json.dumps(calibration.facts()))
    return Config(input_dim=columns, output_dim=columns, latent_dim=1, threshold=0.0, calibration=facts)


def test_the_threshold_lies_between_the_conformal_quantile_and_the_next_score():
    # k = ceil(100 * 0.99) = 99: the greatest of 99 scores; k = ceil(100 * 0.95) = 95.
    scores = np.random.default_rng(0).permutation(np.arange(1, 100))
    assert conformal(scores, 0.05).threshold == 95.5
    assert conformal(scores, 0.01).threshold == pytest.approx(99, rel=1e-4)
    assert conformal(scores, 0.01).threshold > 99


@pytest.mark.parametrize("sign", [1, -1])
def test_too_few_rows_take_the_greatest_score_and_say_what_holds(sign):
    calibration = conformal([sign * 1.0, sign * 2.0, sign * 3.0], 0.001)
    greatest = max(sign * 1.0, sign * 3.0)
    assert greatest < calibration.threshold < greatest + 0.001
    assert calibration.fpr_bound == 0.25


def test_ties_are_all_normal():
    # Just above them: half way to the next score, normal rows would be as far as strange ones.
    assert 1 < conformal([1.0] * 98 + [5.0, 6.0], 0.05).threshold < 1.001


@pytest.mark.parametrize("target_fpr", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("rows", [50, 199, 1000])
def test_the_false_positive_rate_keeps_its_bound_on_new_rows(rows, target_fpr):
    """Over many draws of calibration rows, the mean rate of new rows above is at most the bound."""
    random = np.random.default_rng(rows)
    rates = []
    for _ in range(200):
        calibration = conformal(random.lognormal(size=rows), target_fpr)
        rates.append(np.mean(random.lognormal(size=500) > calibration.threshold))
    sampling_error = np.std(rates) / np.sqrt(len(rates))
    assert calibration.fpr_bound <= max(target_fpr, 1 / (rows + 1))
    assert np.mean(rates) <= calibration.fpr_bound + 3 * sampling_error
    # Not by being timid either: the bound is nearly reached.
    assert np.mean(rates) >= calibration.fpr_bound - 1 / (rows + 1) - 3 * sampling_error


def test_rounding_costs_no_rank():
    # 150 * (1 - 0.18) is a little more than 123 in float64.
    assert conformal(np.arange(149), 0.18).fpr_bound == pytest.approx(0.18)


def test_no_threshold_is_lower_than_the_least():
    scores = np.arange(1, 200, dtype=np.float32)
    threshold = calibrate(scores, method="conformal", target_fpr=0.1).threshold
    for least, expected in ((threshold - 50, threshold), (threshold + 50, threshold + 50)):
        assert calibrate(scores, method="conformal", target_fpr=0.1, least=least).threshold == expected


def test_a_score_that_overflowed_gives_no_threshold():
    with pytest.raises(DataError, match="1 of 3 normal rows have no finite score"):
        conformal([1, 2, np.finfo(np.float32).max], 0.1)


def test_mean_and_three_deviations():
    scores = np.random.default_rng(0).gamma(2, size=500).astype(np.float32)
    calibration = calibrate(scores, method="mean+3std", target_fpr=0.01)
    wide = scores.astype(np.float64)
    assert calibration.threshold == pytest.approx(wide.mean() + 3 * wide.std(), rel=1e-12)
    assert calibration.target_fpr is None
    assert calibration.fpr_bound is None


def test_the_plain_quantile():
    scores = np.random.default_rng(0).gamma(2, size=500).astype(np.float32)
    calibration = calibrate(scores, method="quantile", target_fpr=0.03)
    assert calibration.threshold == np.quantile(scores.astype(np.float64), 0.97)
    assert calibration.fpr_bound is None


@pytest.mark.parametrize("method", THRESHOLD_METHODS)
@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf]])
def test_scores_must_be_finite(scores, method):
    with pytest.raises(DataError):
        calibrate(np.array(scores, np.float32), method=method, target_fpr=0.01)


SCORES = arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.one_of(
        st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), st.integers(-3, 3).map(float)
    ),
)


@settings(max_examples=30)
@given(SCORES, SCORES)
def test_p_values_are_the_definition_s_or_a_little_greater(calibration_scores, scores):
    both = np.concatenate([calibration_scores, scores])
    expected = reference(calibration_scores, both)
    actual = p_values(calibration_scores, both)
    exact = expected <= 256 / (1 + len(calibration_scores))
    np.testing.assert_array_equal(actual[exact], expected[exact])
    assert (actual >= expected).all()
    assert (actual <= 1.02 * expected).all()


@pytest.mark.parametrize("size", [10, 256, 257, 5000, 200_000])
def test_p_values_are_conservative_by_two_percent_at_most_and_exact_in_the_tail(size):
    random = np.random.default_rng(size)
    calibration_scores = random.gamma(1, size=size).astype(np.float32)
    scores = np.concatenate([calibration_scores[:5000], random.gamma(1, size=5000), [0, 1e30]])
    expected, actual = reference(calibration_scores, scores), p_values(calibration_scores, scores)
    assert (actual >= expected).all()
    assert (actual <= np.minimum(1, 1.02 * expected)).all()
    tail = expected <= 256 / (1 + size)
    np.testing.assert_array_equal(actual[tail], expected[tail])
    assert tail.sum() > 0
    assert (
        len(ScoreTable.of(calibration_scores).scores) <= 256 + np.log(max(size, 256) / 256) / np.log(1.02) + 1
    )


@settings(max_examples=30)
@given(SCORES, SCORES)
def test_p_values_never_rise_with_the_score(calibration_scores, scores):
    assert (np.diff(p_values(calibration_scores, np.sort(scores))) <= 0).all()


@pytest.mark.parametrize("size", [30, 500, 20_000])
@pytest.mark.parametrize("draw", ["continuous", "tied"])
def test_p_values_are_valid(size, draw):
    """P(p <= a) <= a for new normal rows, up to sampling error, over many draws of calibration rows."""
    random = np.random.default_rng(size)

    def normal_scores(count):
        scores = random.gamma(2, size=count)
        return np.round(scores) if draw == "tied" else scores

    draws = 200 if size < 10_000 else 20
    levels = np.array([0.005, 0.01, 0.05, 0.1, 0.5, 0.9])
    shares = np.array(
        [
            (p_values(normal_scores(size), normal_scores(1000))[:, np.newaxis] <= levels).mean(axis=0)
            for _ in range(draws)
        ]
    )
    assert (shares.mean(axis=0) <= levels + 3 * shares.std(axis=0) / np.sqrt(draws) + 1e-12).all()


def test_the_table_survives_the_file():
    scores = np.random.default_rng(3).normal(size=3000).astype(np.float32) * np.float32(1e-7)
    calibration = conformal(scores, 0.01)
    read = ScoreTable.of_config(config_with(calibration))
    np.testing.assert_array_equal(read.scores, calibration.table.scores)
    np.testing.assert_array_equal(read.greater, calibration.table.greater)
    assert read.rows == 3000


def test_the_score_histogram_counts_the_calibration_scores():
    scores = np.random.default_rng(4).gamma(2, size=10_000).astype(np.float32)
    histogram = ScoreTable.of(scores).histogram()
    expected = [np.count_nonzero(scores <= edge) for edge in histogram.edges]
    np.testing.assert_array_equal(np.cumsum(histogram.counts)[:-1], expected)
    assert histogram.rows == 10_000
    np.testing.assert_allclose(histogram.counts / 10_000, 0.1, atol=0.02)


def test_equal_scores_make_one_edge():
    histogram = ScoreTable.of(np.full(50, 2.0, np.float32)).histogram()
    assert histogram.edges.tolist() == [2.0]
    assert histogram.counts.tolist() == [50, 0]


def test_the_columns_survive_the_file():
    rows = np.random.default_rng(5).normal(size=(500, 3)).astype(np.float32)
    rows[:, 1] = 7
    rows[:, 2] = np.arange(500) % 2
    calibration = calibrate(rows[:, 0], method="conformal", target_fpr=0.01, rows=rows)
    read = feature_histograms(config_with(calibration, columns=3))
    for kept, column in zip(read, calibration.features, strict=True):
        np.testing.assert_array_equal(kept.edges, column.edges)
        np.testing.assert_array_equal(kept.counts, column.counts)
        assert kept.rows == 500
    assert read[1].counts.tolist() == [0, 500, 0]
    assert read[2].counts.tolist() == [0, 250, 250, 0]
    np.testing.assert_allclose(read[0].counts[1:11], 50, atol=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_table": 3}, "calibration.score_table': expected an object"),
        ({"score_table": {"scores": [1, "a"], "greater": [1, 0]}}, "'scores': expected a list of numbers"),
        ({"score_table": {"scores": [1, 1e39], "greater": [1, 0]}}, "'scores': not finite"),
        ({"score_table": {"scores": [1, 2], "greater": [1, 0.5]}}, "'greater': expected whole numbers"),
        ({"score_table": {"scores": [2, 1], "greater": [1, 0]}}, "must ascend"),
        ({"score_table": {"scores": [1, 2], "greater": [100, 0]}}, "must ascend"),
        ({"score_table": {"scores": [], "greater": []}}, "must ascend"),
        ({"rows": None}, "calibration.rows'"),
    ],
)
def test_a_broken_table_is_named(change, message):
    config = config_with(conformal(np.arange(100), 0.05))
    config = dataclasses.replace(config, calibration={**config.calibration, **change})
    with pytest.raises(ArtifactError, match=message):
        ScoreTable.of_config(config)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "expected an object"),
        ({"edges": [[1]], "counts": [[1, 1], [2, 2]]}, "expected 1 lists"),
        ({"edges": [[1, 2]], "counts": [[1, 1]]}, "column 0"),
        ({"edges": [[2, 1]], "counts": [[1, 1, 1]]}, "column 0"),
    ],
)
def test_broken_columns_are_named(features, message):
    config = config_with(conformal(np.arange(100), 0.05))
    config = dataclasses.replace(config, calibration={**config.calibration, "features": features})
    with pytest.raises(ArtifactError, match=message):
        feature_histograms(config)


@pytest.mark.parametrize(
    ("scores", "greater", "rows"),
    [
        ([], [], 3),
        ([1, 2], [1], 3),
        ([2, 1], [1, 0], 3),
        ([1, 2], [0, 1], 3),
        ([1], [3], 3),
        ([np.nan], [0], 3),
    ],
)
def test_the_core_refuses_a_broken_table(scores, greater, rows):
    with pytest.raises(InvalidInputError, match="table of p-values"):
        PValueTable(scores=scores, greater=greater, rows=rows)
