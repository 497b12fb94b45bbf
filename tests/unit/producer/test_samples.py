import itertools
import math

import numpy as np
import pytest

from datasentinel.errors import DataError, InvalidInputError
from datasentinel.producer import PROTOCOLS, FileRows, Fleet, Telemetry, stream
from datasentinel.producer.clients import encode_line
from datasentinel.producer.samples import Fault, Row
from datasentinel.tables import Roles, open_table


def take(telemetry: Telemetry, count: int) -> tuple[np.ndarray, np.ndarray]:
    rows, labels, *_ = zip(*itertools.islice(telemetry, count), strict=True)
    return np.array(rows), np.array(labels)


def test_telemetry_is_the_same_for_the_same_seed_only():
    first, again, other = (take(Telemetry(5, seed=seed), 600)[0] for seed in (1, 1, 2))
    assert first.dtype == np.float32
    assert first.shape == (600, 5)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_normal_telemetry_moves_slowly_and_together():
    rows, labels = take(Telemetry(8, anomaly_share=0, seed=3), 5000)
    assert not labels.any()
    standard = (rows - rows.mean(0)) / rows.std(0)
    assert np.abs(np.diff(standard, axis=0)).mean() < 0.3  # two neighbours of white noise differ by 1.13
    correlation = np.abs(np.corrcoef(standard.T))[np.triu_indices(8, 1)]
    assert correlation.max() > 0.5
    # Eight signals, but not eight dimensions: this is what a model can learn.
    explained = np.linalg.svd(standard, compute_uv=False) ** 2
    assert explained[:4].sum() / explained.sum() > 0.9


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_anomalies_have_the_share_asked_for_and_stand_out(share):
    rows, labels = take(Telemetry(8, anomaly_share=share, seed=4), 40_000)
    assert labels.mean() == pytest.approx(share, rel=0.15)
    normal = rows[~labels]
    distance = np.abs((rows - normal.mean(0)) / normal.std(0)).max(axis=1)
    assert np.median(distance[labels]) > 2 * np.quantile(distance[~labels], 0.99)


def test_anomalies_are_spikes_and_level_shifts():
    _, labels = take(Telemetry(4, anomaly_share=0.05, seed=5), 20_000)
    lengths = [len(list(run)) for abnormal, run in itertools.groupby(labels) if abnormal]
    assert lengths.count(1) > len(lengths) / 2
    assert max(lengths) >= 8


def test_every_row_abnormal_is_possible():
    assert take(Telemetry(1, anomaly_share=1.0), 300)[1].all()


@pytest.mark.parametrize(("dim", "share"), [(0, 0.1), (3, -0.1), (3, 1.1), (3, math.nan)])
def test_telemetry_refuses_nonsense(dim, share):
    with pytest.raises(InvalidInputError):
        Telemetry(dim, anomaly_share=share)


def test_every_tenth_sample_is_invalid_and_no_row_is_lost():
    rows = [Row(np.full(3, index, np.float32), index % 2 == 0) for index in range(27)]
    samples = list(stream(rows, invalid_every=10, faults=PROTOCOLS["tcp"]))
    assert [sample.index for sample in samples] == list(range(30))
    invalid = [sample for sample in samples if sample.fault]
    assert [sample.index for sample in invalid] == [9, 19, 29]
    assert [sample.fault for sample in invalid] == [Fault.WRONG_COUNT, Fault.NOT_A_NUMBER, Fault.NAN]
    assert [sample.values.size for sample in invalid] == [4, 3, 3]
    assert [int(np.isnan(sample.values).sum()) for sample in invalid] == [0, 1, 1]
    assert all(sample.label is None for sample in invalid)
    valid = [(sample.values[0], sample.label) for sample in samples if not sample.fault]
    assert valid == [(float(index), index % 2 == 0) for index in range(27)]


def test_what_is_spoilt_is_not_what_a_server_fills_in_from_the_time():
    rows = [Row(np.zeros(2, np.float32), time_s=float(second)) for second in range(100)]
    spoilt = [
        np.flatnonzero(~np.isfinite(sample.values)).tolist()
        for sample in stream(rows, invalid_every=2, faults=[Fault.NAN, Fault.INFINITE])
        if sample.fault
    ]
    assert spoilt == [[0]] * 100
    untimed = stream(
        [row._replace(time_s=None) for row in rows], invalid_every=2, faults=[Fault.NAN]
    )  # fmt: skip
    assert {int(np.flatnonzero(np.isnan(sample.values))[0]) for sample in untimed if sample.fault} == {0, 1}


def test_no_invalid_samples_when_not_asked_for():
    rows = [Row(np.zeros(2, np.float32))] * 25
    assert not any(sample.fault for sample in stream(rows, invalid_every=0, faults=PROTOCOLS["grpc"]))


@pytest.mark.parametrize("every", [-1, 1])
def test_a_stream_needs_a_valid_sample_now_and_then(every):
    with pytest.raises(InvalidInputError, match="invalid_every"):
        stream([], invalid_every=every, faults=PROTOCOLS["tcp"])


def test_file_rows_skip_and_report_bad_rows(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b,label\n1,2,0\n3,x,0\n0.1,5,1\n")
    rows = FileRows(open_table(path))
    values, labels, *_ = zip(*rows, strict=True)
    assert rows.dim == 2
    np.testing.assert_array_equal(values, np.array([[1, 2], [0.1, 5]], np.float32))
    assert labels == (False, True)
    assert rows.skipped == 1
    assert "line 3" in rows.first_problem


def test_file_rows_repeat_and_count_bad_rows_once(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("1,2\n3,x\n4,5\n")
    rows = FileRows(open_table(path, header=False), repeat=True)
    assert [int(row.values[0]) for row in itertools.islice(rows, 7)] == [1, 4, 1, 4, 1, 4, 1]
    assert rows.skipped == 1


def test_each_row_of_a_file_names_its_stream(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("host,a,b\nweb-1,1,2\nweb-2,x,4\nweb-2,5,6\nweb-1,7,8\n")
    rows = FileRows(open_table(path, roles=Roles(id="host")), repeat=True)
    assert [row.stream for row in itertools.islice(rows, 6)] == ["web-1", "web-2", "web-1"] * 2
    samples = list(itertools.islice(stream(rows, invalid_every=3, faults=PROTOCOLS["tcp"]), 3))
    lines = [b"@web-1 1.0 2.0\n", b"@web-2 5.0 6.0\n", b"@web-2 5.0 6.0 6.0\n"]
    assert [encode_line(sample) for sample in samples] == lines


def test_the_machines_of_a_fleet_take_turns():
    rows = list(itertools.islice(Fleet(3, 4, seed=5), 30))
    assert [row.stream for row in rows[:4]] == ["machine-0", "machine-1", "machine-2", "machine-0"]
    alone, _ = take(Telemetry(4, seed=6), 10)
    np.testing.assert_array_equal([row.values for row in rows if row.stream == "machine-1"], alone)
    with pytest.raises(InvalidInputError, match="at least 1"):
        Fleet(0, 4)


def test_a_file_without_usable_rows_is_an_error(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n12%,1\n")
    with pytest.raises(DataError, match="no usable rows"):
        list(FileRows(open_table(path), repeat=True))
