from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from datasentinel.errors import DataError
from datasentinel.tables import Roles, open_table


def csv(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_header_and_a_label_column_are_found(tmp_path):
    data = open_table(csv(tmp_path, "a,b,Label\n1,2,0\n3,4,1\n5,6,2\n"))
    assert data.feature_names == ("a", "b")
    dataset = data.read()
    np.testing.assert_array_equal(dataset.values, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(dataset.labels, [False, True, True])


@pytest.mark.parametrize("text", ["1,2\n3,4\n", "\ufeff1;2\r\n3;4\r\n", "1\t2\n\n 3 \t4", '"1","2"\n3,4\n'])
def test_without_a_header_all_columns_are_features(tmp_path, text):
    data = open_table(csv(tmp_path, text))
    assert data.feature_names == ()
    assert not data.has_labels
    np.testing.assert_array_equal(data.read().values, [[1, 2], [3, 4]])


def test_a_header_can_be_told(tmp_path):
    path = csv(tmp_path, "1,2\n3,4\n")
    assert open_table(path, header=True).feature_names == ("1", "2")
    path = csv(tmp_path, "a,b\n3,4\n5,6\n7,8\n")
    assert [bad.line for bad in open_table(path, header=False).read().bad] == [1]


def test_a_bad_first_row_is_no_header(tmp_path):
    dataset = open_table(csv(tmp_path, "1,x,3\n4,5,6\n7,8,9\n")).read()
    np.testing.assert_array_equal(dataset.values, [[4, 5, 6], [7, 8, 9]])
    assert str(dataset.bad[0]) == "line 1: column 2: 'x' is not a number"


@pytest.mark.parametrize(
    ("label", "values", "labels"),
    [("x", [[2, 0], [4, 1]], [0, 1]), ("2", [[0, 0], [3, 1]], [1, 1]), ("-1", [[0, 2], [3, 4]], [0, 1])],
)
def test_a_label_column_can_be_told_by_name_or_number(tmp_path, label, values, labels):
    dataset = open_table(
        csv(tmp_path, "x,y,z\n0,2,0\n3,4,1\n"), roles=Roles(label=label, normal=("0",))
    ).read()
    np.testing.assert_array_equal(dataset.values, values)
    np.testing.assert_array_equal(dataset.labels, np.array(labels, bool))


@pytest.mark.parametrize("label", ["w", "0", "4", "-4"])
def test_an_unknown_label_column(tmp_path, label):
    with pytest.raises(DataError, match=f"no label column '?{label}"):
        open_table(csv(tmp_path, "x,y,z\n1,2,0\n"), roles=Roles(label=label))


def test_bad_rows_come_with_line_and_reason(tmp_path):
    text = (
        "a,b,label\n1,2,0\n1,2\n1,2,3,0\n1,abc,0\n,2,0\nnan,2,0\n\n1,-inf,0\n1e39,2,0\n"
        '1,2,\n1,2,nan\n"1\n",2,0\n7,8,1\n'
    )
    table = open_table(csv(tmp_path, text))
    dataset = table.read()
    assert [str(bad) for chunk in table.chunks() for bad in chunk.bad] == [
        "line 3: expected 3 values, got 2",
        "line 4: expected 3 values, got 4",
        "line 5: column 'b': 'abc' is not a number",
        "line 6: column 'a': is empty",
        "line 7: column 'a': nan is not finite",
        "line 9: column 'b': -inf is not finite",
        "line 10: column 'a': 1e39 does not fit float32",
        "line 11: column 'label': is empty",
        "line 12: column 'label': is empty",
        "line 13: column 'a': a quotation mark is opened and not closed",
        "line 14: column 'a': a quotation mark is opened and not closed",
    ]
    np.testing.assert_array_equal(dataset.values, [[1, 2], [7, 8]])
    np.testing.assert_array_equal(dataset.labels, [False, True])
    assert dataset.problems.total == 11
    assert dataset.problems.lines()[10].startswith("and 1 more; of all 11: 2 with the wrong number of values")


def test_rows_keep_their_numbers_across_chunks(tmp_path):
    lines = [f"{i},x" if i % 7 == 3 else f"{i},{2 * i}" for i in range(100)]
    path = csv(tmp_path, "\n".join(lines))
    chunks = list(open_table(path, roles=Roles(features=("1", "2"))).chunks(block_rows=8, threads=2))
    assert len(chunks) > 10
    for chunk in chunks:
        np.testing.assert_array_equal(chunk.values[:, 0], chunk.rows)
        assert all(bad.row % 7 == 3 and bad.line == bad.row + 1 for bad in chunk.bad)
    assert sum(len(chunk.rows) + len(chunk.bad) for chunk in chunks) == 100
    assert chunks[-1].share_read == 1.0


def test_values_stay_float64(tmp_path):
    dataset = open_table(csv(tmp_path, "0.1,123456789.123456\n")).read()
    assert dataset.values.tolist() == [[0.1, 123456789.123456]]


def test_features_are_taken_by_name(tmp_path):
    path = csv(tmp_path, "when,b,a,label\nmonday,1,2,0\ntuesday,3,4,0\n")
    data = open_table(path, roles=Roles(model_features=("a", "b")))
    assert data.feature_names == ("a", "b")
    np.testing.assert_array_equal(data.read().values, [[2, 1], [4, 3]])
    with pytest.raises(DataError, match="lacks columns that the model needs: 'c', 'd'"):
        open_table(path, roles=Roles(model_features=("a", "c", "d")))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("data.csv", "", "no rows"),
        ("data.csv", "\n\n", "no rows"),
        ("data.csv", "a,a\n1.5,2\n", "'a' occurs more than once"),
        ("data.csv", "label\n1\n", "no feature columns"),
        ("data.xlsx", "1,2\n", "unknown file type '.xlsx'"),
        ("data.parquet", "no parquet", "not a Parquet file"),
        ("data.npy", "no array", "not a NumPy file"),
        ("data.npy", "", "not a NumPy file"),
        ("data.npz", "no archive", "not a NumPy file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, match):
    with pytest.raises(DataError, match=match):
        open_table(csv(tmp_path, content, name))


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.csv"):
        with pytest.raises(DataError, match=str(path)):
            open_table(path)


def test_binary_junk_is_bad_rows_not_a_crash(tmp_path):
    junk = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    with pytest.raises(DataError, match=r"no feature columns|no rows"):
        open_table(csv(tmp_path, junk))
    with pytest.raises(DataError, match="no feature columns"):
        open_table(csv(tmp_path, junk), header=False)
    rows = "3,4\n" * 9
    dataset = open_table(
        csv(tmp_path, rows + '"' + "x" * 200_000 + "\n" + rows + "a" * 200_000 + "\n")
    ).read()
    assert [bad.line for bad in dataset.bad] == [10, 20]
    assert len(dataset.values) == 18


def test_numpy_files(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows[2, 1] = np.nan
    np.save(tmp_path / "a.npy", rows)
    dataset = open_table(tmp_path / "a.npy").read()
    assert [str(bad) for bad in dataset.bad] == ["row 2: column 2: nan is not finite"]
    np.testing.assert_array_equal(dataset.values, rows[[0, 1, 3]])
    assert open_table(tmp_path / "a.npy", roles=Roles(label="-1", normal=("2",))).read().labels.tolist() == [
        False,
        True,
        True,
    ]
    np.savez(tmp_path / "b.npz", X=rows, y=[0, 1, 0, 1])
    chunks = list(open_table(tmp_path / "b.npz").chunks(block_rows=3))
    assert [chunk.rows.tolist() for chunk in chunks] == [[0, 1], [3]]
    assert open_table(tmp_path / "b.npz").read().labels.tolist() == [False, True, True]


def test_a_name_that_is_empty_is_no_folder():
    with pytest.raises(DataError, match="'': no such file"):
        open_table("")


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"Z": [[1.0]]}, "no array 'X'"),
        ({"X": [1.0, 2.0]}, "shape"),
        ({"X": [["a", "b"]]}, "not numbers"),
        ({"X": [[1.0, 2.0]], "y": [0, 1]}, "2 labels for 1 rows"),
        ({"X": np.array([[{}]], dtype=object)}, "not a NumPy file of numbers"),
    ],
)
def test_archives_that_cannot_be_used(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    with pytest.raises(DataError, match=match):
        open_table(tmp_path / "a.npz")


def npy(header, data=b""):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def with_zip_field(archive, local, central, value):
    """Write 16 bits into both headers of an archive's only member, at their offsets there."""
    changed = bytearray(archive)
    for magic, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = changed.index(magic) + offset
        changed[at : at + 2] = value.to_bytes(2, "little")
    return bytes(changed)


SHAPE = "{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 3)}\n"


@pytest.mark.parametrize(
    ("member", "change", "match"),
    [
        (npy(SHAPE % 2, bytes(48)), lambda data: with_zip_field(data, 6, 8, 1), "'X.npy' is encrypted"),
        (npy(SHAPE % 2, bytes(48)), lambda data: with_zip_field(data, 8, 10, 98), "method is not supported"),
        (npy(SHAPE % 10**15), lambda data: data, "does not fit in memory"),
        (npy(SHAPE.replace(")}", "") % 2), lambda data: data, "not a NumPy file of numbers"),
    ],
)
def test_archives_that_numpy_cannot_read(tmp_path, member, change, match):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("X.npy", member)
    (tmp_path / "a.npz").write_bytes(change(archive.getvalue()))
    with pytest.raises(DataError, match=rf"a\.npz: .*{match}"):
        open_table(tmp_path / "a.npz")


def test_parquet_files(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"a": [1, 2, 3], "b": [0.5, None, 2.5], "label": [False, False, True]})
    pq.write_table(table, tmp_path / "a.parquet")
    chunks = list(open_table(tmp_path / "a.parquet").chunks(block_rows=2))
    assert [chunk.values.tolist() for chunk in chunks] == [[[1.0, 0.5]], [[3.0, 2.5]]]
    assert [chunk.rows.tolist() for chunk in chunks] == [[0], [2]]
    assert [str(bad) for bad in chunks[0].bad] == ["row 1: column 'b': is missing"]
    assert open_table(tmp_path / "a.parquet").read().labels.tolist() == [False, True]
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="column 'b' holds string"):
        open_table(tmp_path / "b.parquet", roles=Roles(features=("a", "b"))).read()
