"""Which columns are features: what is told, and what is found out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from datasentinel.errors import DataError
from datasentinel.tables import Roles, open_table

ROWS = 60


@pytest.fixture
def frame():
    random = np.random.default_rng(0)
    return pd.DataFrame(random.normal(size=(ROWS, 3)), columns=list("abc"))


@pytest.fixture
def write(tmp_path):
    """Write a frame as CSV, or as Parquet, and open it."""

    def write(frame, suffix=".csv", roles=None, has_header=None, **options):
        path = tmp_path / f"data{suffix}"
        if suffix == ".csv":
            frame.to_csv(path, **{"index": False, **options})
        else:
            frame.to_parquet(path, **options)
        return open_table(path, roles=roles, header=has_header)

    return write


def left_out(table):
    return {column.name: column.reason for column in table.columns.left_out}


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_index_of_a_csv_file_is_left_out(frame, write, shuffled):
    table = write(frame.sample(frac=1, random_state=0) if shuffled else frame, index=True)
    assert table.feature_names == ("a", "b", "c")
    assert left_out(table) == {"column 1": "it is the index of a data frame"}


def test_an_index_read_and_written_again_is_left_out(frame, write):
    table = write(frame.reset_index().rename(columns={"index": "Unnamed: 0"}))
    assert list(left_out(table)) == ["Unnamed: 0"]
    np.testing.assert_allclose(table.read().values, frame.to_numpy())


def test_the_index_of_a_parquet_file_is_left_out(frame, write):
    table = write(frame.sample(frac=1, random_state=0), ".parquet")
    assert table.feature_names == ("a", "b", "c")
    assert list(left_out(table)) == ["__index_level_0__"]


def test_a_first_column_that_counts_rows_without_names_is_left_out(frame, write):
    table = write(frame, index=True, header=False)
    assert left_out(table) == {"column 1": "it counts the rows"}
    assert table.feature_names == ("column 2", "column 3", "column 4")


@pytest.mark.parametrize("start", [0, 1])
def test_a_header_of_numbers(frame, write, start):
    frame.columns = range(start, start + 3)
    table = write(frame)
    assert table.feature_names == tuple(map(str, frame.columns))
    assert len(table.read().values) == ROWS


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_header_of_numbers_and_a_label_anywhere(frame, write, at):
    frame.columns = range(3)
    frame.insert(at, "label", np.arange(ROWS) % 2)
    table = write(frame)
    assert table.feature_names == ("0", "1", "2")
    assert table.read().labels.tolist() == [False, True] * (ROWS // 2)


def test_whole_numbers_that_count_up_are_data_unless_told(write):
    frame = pd.DataFrame(np.arange(18).reshape(6, 3))
    assert len(write(frame, header=False).read().values) == 6
    table = write(frame, roles=Roles(features=("1", "2", "3")))
    assert len(table.read().values) == 7
    assert len(write(frame, roles=Roles(features=("0", "1", "2")), has_header=True).read().values) == 6


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pd.date_range("2026-01-01", periods=ROWS, freq="min"), "timestamps"),
        (pd.date_range("2026-01-01", periods=ROWS, freq="min", tz="UTC"), "timestamps"),
        (1_767_225_600 + 60 * np.arange(ROWS), "timestamps (seconds since 1970)"),
        (1_767_225_600_000 + 60_000 * np.arange(ROWS), "timestamps (ms since 1970)"),
        (1_767_225_600.5 + 60 * np.arange(ROWS), "timestamps (seconds since 1970)"),
        ((1_767_225_600 + 60 * np.arange(ROWS)) * 10**9, "timestamps (ns since 1970)"),
        ([f"web-{i % 3}" for i in range(ROWS)], "it holds text"),
        ([None] * ROWS, "it is empty"),
    ],
)
def test_columns_that_are_no_features(frame, write, suffix, values, reason):
    frame.insert(1, "what", values)
    table = write(frame, suffix)
    assert table.feature_names == ("a", "b", "c")
    assert left_out(table) == {"what": reason}
    assert table.columns.facts()["ignored" if not reason.startswith("timestamps") else "time"]


@pytest.mark.parametrize("name", ["id", "host_id", "sensorId", "UUID"])
def test_identifiers_are_left_out(frame, write, name):
    frame[name] = np.random.default_rng(1).integers(0, 9, ROWS)
    assert left_out(write(frame)) == {name: "an identifier, by its name"}


EPOCHS = 1_767_225_600 + 60 * np.arange(ROWS)


@pytest.mark.parametrize("odd", ["ERROR", "[s]", "guest", "1_000", "inf"])
@pytest.mark.parametrize("at", [0, 7, ROWS - 1])
@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("zeit", EPOCHS, "timestamps (seconds since 1970)"),
        ("timestamp", EPOCHS[::-1] * 1000, "timestamps (ms since 1970)"),
        ("time", 0.5 * np.arange(ROWS), "timestamps, by its name and order"),
        ("user_id", np.random.default_rng(1).integers(0, 9999, ROWS), "an identifier, by its name"),
        ("when", pd.date_range("2026-01-01", periods=ROWS, freq="min"), "timestamps"),
    ],
)
def test_one_odd_cell_makes_no_feature(frame, write, name, values, reason, at, odd):
    frame.insert(1, name, pd.Series(values).astype(str))
    frame.loc[at, name] = odd
    assert left_out(write(frame)) == {name: reason}


@pytest.mark.parametrize("odd", [0, -1, 65535, 4e18])
@pytest.mark.parametrize("at", [0, 7, ROWS - 1])
@pytest.mark.parametrize("name", ["timestamp", "zeit"])
def test_an_epoch_out_of_range_makes_no_feature(frame, write, name, at, odd):
    frame.insert(1, name, EPOCHS.astype(float))
    frame.loc[at, name] = odd
    for suffix in (".csv", ".parquet"):
        assert left_out(write(frame, suffix)) == {name: "timestamps (seconds since 1970)"}


def test_times_that_start_over_are_no_features(frame, write):
    frame.insert(1, "time", np.arange(ROWS) % (ROWS - 10))
    assert left_out(write(frame)) == {"time": "timestamps, by its name and order"}


@pytest.mark.parametrize("odd", ["ERROR", ""])
def test_a_count_of_rows_without_names_may_have_an_odd_cell(frame, write, odd):
    frame.insert(0, "n", pd.Series(range(ROWS)).astype(str))
    frame.loc[7, "n"] = odd
    assert left_out(write(frame, header=False)) == {"column 1": "it counts the rows"}


def test_columns_that_only_look_odd_stay(frame, write):
    frame["response time"] = np.where(np.arange(ROWS) == 30, 6.0, 5.0)
    frame["valid"] = frame["a"] * 2
    frame["bytes"] = np.random.default_rng(1).integers(10**9, 2 * 10**9, ROWS)
    frame["flag"] = frame["a"] > 0
    table = write(frame)
    assert table.feature_names == ("a", "b", "c", "response time", "valid", "bytes", "flag")
    np.testing.assert_array_equal(table.read().values[:, 6], frame["flag"])


def test_constants_are_left_out_and_counters_warned_of(frame, write):
    frame["fixed"] = 7.0
    frame["uptime"] = np.cumsum(np.random.default_rng(1).random(ROWS)) + 1
    data = write(frame).read(judge_columns=True)
    assert data.feature_names == ("a", "b", "c", "uptime")
    assert [str(column) for column in data.columns.left_out] == [
        "column 'fixed' is left out: it is 7 in every row"
    ]
    assert [warning.split(",")[0] for warning in data.warnings] == ["column 'uptime' only rises"]
    assert data.values.shape == (ROWS, 4)
    named = write(frame, roles=Roles(features=("a", "fixed"))).read(judge_columns=True)
    assert named.feature_names == ("a", "fixed")


@pytest.mark.parametrize(
    ("begin", "among"), [(0, 300), (1, 300), (870_000, 300), (1000, 2000)], ids=["0", "1", "far", "a part"]
)
def test_whole_numbers_that_number_the_rows_are_left_out(write, begin, among):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(300, 2)), columns=["a", "b"])
    frame["c1"] = begin + random.permutation(among)[:300]
    data = write(frame).read(judge_columns=True)
    assert data.feature_names == ("a", "b")
    assert [str(column) for column in data.columns.left_out] == [
        "column 'c1' is left out: it numbers the rows: whole numbers, each there once, in no order"
    ]
    assert write(frame, roles=Roles(features=("a", "c1"))).read(judge_columns=True).feature_names == (
        "a",
        "c1",
    )


def test_numbers_of_rows_in_two_runs_are_warned_of(write):
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=300)})
    frame["c1"] = [*range(1, 300, 2), *range(0, 300, 2)]
    data = write(frame).read(judge_columns=True)
    assert data.feature_names == ("a", "c1")
    assert [warning.split(",")[0] for warning in data.warnings] == [
        "column 'c1' has a whole number of its own for every row"
    ]


def test_measurements_that_are_all_different_stay(write):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "volts": random.permutation(300) / 8 + 0.01,
            "cents": random.choice(10**6, 300, replace=False),
            "count": random.poisson(900, 300),
            "bytes": random.integers(0, 2**40, 300),
            "flag": random.integers(0, 2, 300),
        }
    )
    data = write(frame).read(judge_columns=True)
    assert data.feature_names == tuple(frame.columns)
    assert not data.warnings


def test_roles_by_option(frame, write):
    frame["ts"], frame["host"], frame["x_id"] = range(ROWS), "web", 3
    table = write(frame, roles=Roles(ignore=("*_id",), time="ts", id="host"))
    assert table.feature_names == ("a", "b", "c")
    assert table.columns.facts() == {"time": "ts", "id": "host", "ignored": ["x_id"]}
    assert not table.columns.left_out
    assert write(frame, roles=Roles(features=("b", "[ac]"))).feature_names == ("b", "a", "c")
    with pytest.raises(DataError, match="--ignore: no column 'nothing'; the columns are a, b, c"):
        write(frame, roles=Roles(ignore=("nothing",)))
    with pytest.raises(DataError, match="column 'ts' cannot be a feature and have another role"):
        write(frame, roles=Roles(features=("a", "ts"), time="ts"))


@pytest.mark.parametrize(
    "name", ["label", "isFraud", "Anomaly", "class", "y", "Normal/Attack", "Machine failure"]
)
@pytest.mark.parametrize(
    ("normal", "anomaly"),
    [
        (0, 1),
        (0.0, 1.0),
        (1, -1),
        (False, True),
        ("no", "yes"),
        ("normal", "anomaly"),
        ("Normal", "attack"),
        ("benign", "abnormal"),
        ("inlier", "outlier"),
        ("normal.", "neptune."),
    ],
)
def test_labels_by_name_and_value(frame, write, name, normal, anomaly):
    frame.insert(0, name, [anomaly if i % 5 == 4 else normal for i in range(ROWS)])
    table = write(frame)
    assert table.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(table.read().labels, np.arange(ROWS) % 5 == 4)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_label_may_be_the_series_too(frame, write, suffix):
    frame["host"] = ["web", "db"] * (ROWS // 2)
    roles = Roles(id="host", label="host", normal=("web",))
    table = write(frame, suffix, roles)
    assert table.feature_names == ("a", "b", "c")
    data = table.read(with_series=True)
    assert data.labels.tolist() == [False, True] * (ROWS // 2)
    assert data.series == frame["host"].tolist()


def test_an_anomaly_far_down_decides_what_one_means(frame, write):
    frame = pd.concat([frame] * 40, ignore_index=True)
    frame["label"] = 1
    frame.loc[len(frame) - 1, "label"] = -1
    labels = write(frame).read().labels
    assert labels.sum() == 1
    assert labels[-1]


@pytest.mark.parametrize(
    ("name", "anomaly"),
    [
        *[(name, 1) for name in ("anomaly_flag", "y_true", "trueLabel", "Is Laundering", "FraudFound_P")],
        *[
            (name, 1)
            for name in ("class_label", "gt_label", "Label (0/1)", "outliers", "Outcome", "changepoint")
        ],
        ("Attack LABLE (1:No Attack, -1:Attack)", -1),
    ],
)
def test_rare_flags_that_sound_like_labels(frame, write, name, anomaly):
    frame[name] = np.where(np.arange(ROWS) % 5 == 4, anomaly, 1 if anomaly < 0 else 0)
    np.testing.assert_array_equal(write(frame).read().labels, np.arange(ROWS) % 5 == 4)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("defects", np.arange(ROWS) % 7),
        ("outliers", np.arange(ROWS) / 7),
        ("fail", np.arange(ROWS) % 5 != 4),
        ("fault_current", np.arange(ROWS) % 5 == 4),
        ("class_a_load", np.arange(ROWS) % 5 == 4),
        ("y1", np.arange(ROWS) % 5 == 4),
    ],
)
def test_what_merely_sounds_like_a_label_is_a_feature(frame, write, name, values):
    table = write(frame.assign(**{name: np.asarray(values) * 1}))
    assert not table.has_labels
    assert table.feature_names[-1] == name


def test_a_second_label_is_left_out_and_may_be_kept(frame, write):
    flags = (np.arange(ROWS) % 5 == 4) * 1
    labelled = frame.assign(anomaly=flags, changepoint=np.roll(flags, 1), label_count=np.arange(ROWS) % 7)
    table = write(labelled)
    assert table.columns.name_of(table.columns.label) == "anomaly"
    assert table.feature_names == (*frame.columns, "label_count")
    assert [str(column) for column in table.columns.left_out] == [
        "column 'changepoint' is left out: it marks rows as 'anomaly' does; list the features to keep it"
    ]
    kept = write(labelled, roles=Roles(features=(*frame.columns, "changepoint")))
    assert kept.feature_names == (*frame.columns, "changepoint")


def test_several_flags_that_sound_like_labels_are_features(frame, write):
    bits = {f"Fault{bit}": (np.arange(ROWS) % (6 + bit) == 5) * 1 for bit in range(3)}
    table = write(frame.assign(**bits))
    assert not table.has_labels
    assert not table.columns.left_out
    data = table.read(judge_columns=True)
    assert data.feature_names == (*frame.columns, *bits)
    assert data.warnings == [
        "learnt from though it sounds like a label: 'Fault0', 'Fault1', 'Fault2'; say which column is the label, "
        "or ignore what is no feature"
    ]
    often = write(frame.assign(fault_1=bits["Fault0"], fault_2=1 - bits["Fault1"]))
    assert not often.has_labels
    assert often.feature_names[-2:] == ("fault_1", "fault_2")
    # A model of other columns is judged by none of them either.
    assert not write(frame.assign(**bits), roles=Roles(model_features=("a", "b"))).has_labels


def test_a_label_whose_anomalies_come_late_is_named(frame, write):
    name = "Attack LABLE (1:No Attack, -1:Attack)"
    long = pd.concat([frame] * 20, ignore_index=True)
    data = write(long.assign(**{name: np.where(np.arange(len(long)) < 1100, 1, -1)})).read(judge_columns=True)
    assert data.feature_names == (*frame.columns, name)
    assert [name in warning for warning in data.warnings] == [True]
    assert not write(long.assign(**{name: 1})).read(judge_columns=True).warnings


def test_a_flag_beside_the_label_is_a_second_one_if_it_marks_the_same_rows(frame, write):
    machine = (np.arange(ROWS) % 3 == 0) * 1
    flag = (np.arange(ROWS) % 10 == 3) * 1
    data = write(frame.assign(target=machine, fault_flag=flag)).read(judge_columns=True)
    assert data.labels.tolist() == machine.astype(bool).tolist()
    assert data.feature_names == (*frame.columns, "fault_flag")
    assert len(data.warnings) == 1
    words = np.where(flag == 1, "attack", "normal")
    almost = np.where(np.arange(ROWS) == 3, 0, flag)
    for told, second in ((words, flag), (flag, almost), (almost, flag)):
        table = write(frame.assign(target=told, fault_flag=second))
        assert list(left_out(table)) == ["fault_flag"]


def test_what_sounds_like_a_label_is_a_column_to_score(frame, write):
    frame["fault_flag"] = (np.arange(ROWS) % 10 == 3) * 1
    for asked in (Roles(needs_label=False), Roles(num_features=4), Roles(num_features=4, needs_label=False)):
        assert write(frame, roles=asked).feature_names == tuple(frame.columns)
    assert write(frame, roles=Roles(num_features=3)).has_labels
    # It is none of the columns of a model of other names.
    named = write(frame, roles=Roles(model_features=("a", "b", "c")))
    assert named.has_labels
    assert named.feature_names == ("a", "b", "c")


def test_a_feature_may_have_a_label_s_name(frame, write):
    frame = frame.rename(columns={"a": "x", "b": "y"})
    assert write(frame).feature_names == ("x", "y", "c")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"class": [1, 2, 3] * (ROWS // 3)}, "is column 'class' the label"),
        ({"class": [0, 1] * (ROWS // 2), "target": [0, 1] * (ROWS // 2)}, "is column 'class' and 'target'"),
        ({"label": ["red", "blue"] * (ROWS // 2)}, "holds 'blue', 'red', which does not say which rows"),
        ({"label": [1] * ROWS}, "holds 1, which does not say which rows are normal"),
        ({"label": [1, 2] * (ROWS // 2)}, "holds 1, 2, which does not say which rows are normal"),
    ],
)
def test_unclear_labels_are_asked_about(frame, write, columns, message):
    with pytest.raises(DataError, match=message):
        write(frame.assign(**columns)).read()


def test_what_is_normal_can_be_told(frame, write):
    table = write(frame.assign(label=["red", "blue"] * (ROWS // 2)), roles=Roles(normal=("Blue",)))
    assert table.read().labels.tolist() == [True, False] * (ROWS // 2)


@pytest.mark.parametrize("words", [("Pass", "Fail"), ("passed", "FAILED")])
def test_what_passed_is_normal(frame, write, words):
    frame["Pass/Fail"] = [words[i % 10 == 3] for i in range(ROWS)]
    data = write(frame).read()
    assert data.columns.name_of(data.columns.label) == "Pass/Fail"
    assert np.flatnonzero(data.labels).tolist() == list(range(3, ROWS, 10))
    frame["Pass/Fail"] = [words[i % 10 != 3] for i in range(ROWS)]
    assert not write(frame).has_labels  # As are most rows, it tells of something else.


def test_normal_values_of_no_label_are_refused(frame, write):
    table = write(frame, roles=Roles(normal=("ok",)))
    with pytest.raises(DataError, match="--normal says which labels mean normal, but no column is the label"):
        table.read()


def test_rows_without_a_label_are_told(frame, write):
    frame["label"] = ["normal", "anomaly", ""] * (ROWS // 3)
    data = write(frame).read()
    assert str(data.bad[0]) == "line 4: column 'label': is empty"
    assert len(data.values) == len(data.labels) == 40


def test_nested_columns_are_named(frame, write):
    frame["pair"] = [[1.0, 2.0]] * ROWS
    with pytest.raises(
        DataError, match=r"column 'pair' holds list<.*>, not numbers; leave it out with --ign"
    ):
        write(frame, ".parquet")
    assert write(frame, ".parquet", roles=Roles(ignore=("pair",))).feature_names == ("a", "b", "c")
