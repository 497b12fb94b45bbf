"""The same table in every way that people write it down."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
import os
import subprocess
import sys
import threading
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasentinel.errors import DataError, InvalidInputError, MissingDependencyError
from datasentinel.tables import Roles, open_table
from datasentinel.tables.arrow import validate
from datasentinel.tables.problems import ProblemKind

VALUES = np.round(np.random.default_rng(0).normal(size=(40, 3)), 4)
TEXT = "a,b,c\n" + "".join(f"{x!r},{y!r},{z!r}\n" for x, y, z in VALUES.tolist())


def read(path, **options):
    data = open_table(path, **options).read()
    assert data.problems.total == 0, data.problems.lines()
    return data


def delimited(delimiter, end="\n", decimal=".", *, trailing=False, quoted=False):
    quote = '"' if quoted else ""
    mark = delimiter if trailing else ""
    lines = [["a", "b", "c"], *([repr(v).replace(".", decimal) for v in row] for row in VALUES.tolist())]
    return "".join(delimiter.join(f"{quote}{f}{quote}" for f in line) + mark + end for line in lines)


TEXTS = {
    "commas": TEXT,
    "semicolons": delimited(";"),
    "tabs": delimited("\t"),
    "bars": delimited("|"),
    "blanks": delimited(" "),
    "runs of blanks": delimited("   ").replace("\n", "  \n  "),
    "commas and blanks": delimited(", "),
    "decimal commas": delimited(";", decimal=","),
    "decimal commas and tabs": delimited("\t", decimal=","),
    "quoted decimal commas": delimited(",", decimal=",", quoted=True),
    "quoted": delimited(",", quoted=True),
    "CRLF": delimited(",", "\r\n"),
    "CR": delimited(",", "\r"),
    "trailing delimiters": delimited(",", trailing=True),
    "trailing delimiters but in the header": delimited(",", trailing=True).replace("c,\n", "c\n", 1),
    "trailing delimiter in the header only": TEXT.replace("c\n", "c,\n", 1),
    "comments": "# made by logger 3\n# 2026\n" + TEXT.replace("\n", "\n# in between\n", 3),
    "a commented header": "# written by numpy\n# " + TEXT,
    "blank lines": TEXT.replace("\n", "\n\n", 9),
    "no line end at the end": TEXT.rstrip(),
    "plus signs": "a,b,c\n" + "".join(f"{x:+},{y:+},{z:+}\n" for x, y, z in VALUES.tolist()),
    "exponents": "a,b,c\n" + "".join(f"{x:.16e},{y:.16E},{z!r}\n" for x, y, z in VALUES.tolist()),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_delimited_text(tmp_path, kind):
    path = tmp_path / "data.txt"
    path.write_bytes(TEXTS[kind].encode())
    data = read(path)
    assert data.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(data.values, VALUES)


WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", *WIDE])
def test_encodings(tmp_path, encoding, pack):
    path = tmp_path / "data.csv"
    named = TEXT.replace("b", "Größe", 1)
    path.write_bytes(pack(named.encode(encoding)))
    data = read(path)
    assert data.feature_names == ("a", "Größe", "c")
    np.testing.assert_array_equal(data.values, VALUES)


@pytest.mark.parametrize("encoding", ["utf-8-sig", *WIDE])
def test_encodings_of_json_lines(tmp_path, encoding):
    path = tmp_path / "data.jsonl"
    lines = [
        json.dumps(dict(zip(["a", "Größe", "c"], row, strict=True)), ensure_ascii=False) for row in VALUES
    ]
    path.write_bytes("\n".join(lines).encode(encoding))
    data = read(path)
    assert data.feature_names == ("a", "Größe", "c")
    np.testing.assert_array_equal(data.values, VALUES)


@pytest.mark.parametrize("encoding", WIDE)
def test_no_record_is_cut_where_characters_take_more_bytes_as_utf_8(tmp_path, encoding):
    path = tmp_path / "data.csv"
    lines = [f"{i},{i % 7},{'長' * (i % 5)}\n" for i in range(3000)]
    path.write_bytes(("数,b,c\n" + "".join(lines)).encode(encoding))
    table = open_table(path, roles=Roles(features=("数", "b"), keep=("c",)))
    chunks = list(table.chunks(block_rows=97))
    assert not any(chunk.bad for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate([chunk.values[:, 0] for chunk in chunks]), np.arange(3000))
    assert chunks[1].kept["c"][-1] == "長" * (int(chunks[1].values[-1, 0]) % 5)


def test_small_whole_numbers_in_a_packed_array_are_no_text(tmp_path):
    """Every other byte of theirs is zero, as in UTF-16."""
    path = tmp_path / "data.npy"
    np.save(path, np.arange(33, 93, dtype="<i2").reshape(-1, 3))
    (tmp_path / "data.npy.gz").write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read(tmp_path / "data.npy.gz").values, np.arange(33, 93).reshape(-1, 3))


def zstd(data):
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as file:
        file.write(data)
    return packed.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstd),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_packed_files(tmp_path, suffix, pack, named):
    path = tmp_path / ("data.csv" + suffix if named else "data")
    path.write_bytes(pack(TEXT.encode()))
    np.testing.assert_array_equal(read(path).values, VALUES)


def test_a_packed_file_that_is_cut_off_is_an_error(tmp_path):
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(TEXT.encode())[:-30])
    with pytest.raises(DataError, match=r"data\.csv\.gz: cannot be read"):
        open_table(path).read()


# Zstandard as pyarrow writes it has no checksum.
@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_packed_files_that_are_damaged_in_the_middle(tmp_path, suffix, pack):
    path = tmp_path / ("data.csv" + suffix)
    packed = pack(TEXT.encode())
    middle = len(packed) // 2
    path.write_bytes(packed[:middle] + b"\xff\x00" * 40 + packed[middle + 80 :])
    with pytest.raises(DataError, match=r"data\.csv\.\w+: cannot be read"):
        open_table(path).read()


def test_several_files_patterns_and_folders(tmp_path):
    for i, part in enumerate(np.split(VALUES, 4)):
        pd.DataFrame(part, columns=list("abc")).to_csv(tmp_path / f"part-{i}.csv", index=False)
    # Columns go by name, from the second file on too.
    pd.read_csv(tmp_path / "part-2.csv")[list("cab")].to_csv(tmp_path / "part-2.csv", index=False)
    (tmp_path / "_SUCCESS").write_text("")
    for paths in ([tmp_path], [tmp_path / "part-*.csv"], [tmp_path / f"part-{i}.csv" for i in range(4)]):
        np.testing.assert_array_equal(open_table(*paths).read().values, VALUES)
    with pytest.raises(DataError, match="no file matches"):
        open_table(tmp_path / "*.tsv")
    (tmp_path / "part-3.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"part-3\.csv: lacks columns that the model needs: 'c'"):
        open_table(tmp_path)


def test_problems_in_several_files_name_the_file_and_its_line(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.csv").write_text(TEXT + "# comment\n1,2%,3\n")
    data = open_table(tmp_path).read()
    assert [str(bad).split("/")[-1] for bad in data.bad] == [
        f"{i}.csv, line 43: column 'b': '2%' is not a number" for i in range(2)
    ]
    assert [bad.row for bad in data.bad] == [40, 81]


def test_json_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [
        dict(zip("abc", row, strict=True)) | {"host": "web", "label": "normal"} for row in VALUES.tolist()
    ]
    lines = [*map(json.dumps, rows), '{"a": 1, "b": "x", "c": 2, "label": "attack"}', "{", '{"a": 1, "b": 2}']
    path.write_text("\n".join(lines) + "\n")
    data = open_table(path).read()
    np.testing.assert_array_equal(data.values, VALUES)
    assert not data.labels.any()
    assert [str(bad) for bad in data.bad] == [
        "line 41: column 'b': \"x\" is not a number",
        "line 42: is not a JSON object",
        "line 43: column 'c': is empty",
    ]
    (tmp_path / "array.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="write JSON lines"):
        open_table(tmp_path / "array.json")


def test_numbers_in_json_lines_may_be_texts(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [dict(zip("abc", map(str, row), strict=True)) for row in VALUES.tolist()]
    rows += [{"a": "1", "b": odd, "c": "3"} for odd in ("1_0", "", "1e99", "inf")]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = open_table(path).read()
    np.testing.assert_array_equal(data.values, VALUES)
    told = ['"1_0" is not a number', "is empty", "1e+99 does not fit float32", "inf is not finite"]
    assert [str(bad) for bad in data.bad] == [
        f"line {41 + i}: column 'b': {why}" for i, why in enumerate(told)
    ]
    lacking = open_table(path, roles=Roles(may_lack=True)).read()
    np.testing.assert_array_equal(lacking.values[40:], [[1, np.nan, 3]])


def test_a_key_of_json_lines_may_be_empty(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [
        {"a": a, "": b, "c": c, "note": "x", "label": int(i == 3)}
        for i, (a, b, c) in enumerate(VALUES.tolist())
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = read(path)
    assert data.feature_names == ("a", "column 2", "c")
    np.testing.assert_array_equal(data.values, VALUES)
    chunks = open_table(path, roles=Roles(features=("a",), keep=("column 2",))).chunks()
    assert [value for chunk in chunks for value in chunk.kept["column 2"]] == VALUES[:, 1].tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tgz", b"\x1f\x8b", "unknown file type '.tgz'"),
        (
            "a.dat",
            np.arange(900, dtype="<i4").tobytes(),
            "no feature columns: the file is neither text nor of a format",
        ),
        (
            "a.bin",
            VALUES.astype("<f4").tobytes(),
            "no feature columns: the file is neither text nor of a format",
        ),
        ("a.svm", b"1 1:0.5 3:-2e3\n0 2:1 # none\n", "unknown file type: LIBSVM"),
        ("a.txt", TEXT.replace(",", "||").encode(), r"'\|\|' is between the fields; write a single '\|'"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(gzip.compress(b"x" * 600) if name.endswith("gz") else content)
    with pytest.raises(DataError, match=rf"{name}: {message}"):
        open_table(tmp_path / name)


def test_blanks_that_do_not_break_are_shown(tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1.5,2\n2.5\u00a0,3\n")
    data = open_table(tmp_path / "data.csv").read()
    assert [str(bad) for bad in data.bad] == [r"line 3: column 'a': '2.5\xa0' is not a number"]


@pytest.mark.parametrize("doubled", [True, False])
def test_quotation_marks_in_text_are_doubled_or_behind_a_backslash(tmp_path, doubled):
    texts = ["plain"] * 30 + ['5" pipe, "north"', "C:\\", '\n"', "a, b", '"', "end"] * 2
    written = [
        text.replace('"', '""') if doubled else text.replace("\\", r"\\").replace('"', r"\"")
        for text in texts
    ]
    path = tmp_path / "data.csv"
    path.write_text("a,note,b\n" + "".join(f'{i},"{text}",{i}.5\n' for i, text in enumerate(written)))
    table = open_table(path, roles=Roles(features=("a", "b"), keep=("note",)))
    for size in (None, 1, 3):
        chunks = list(table.chunks(size))
        assert not any(chunk.bad for chunk in chunks)
        assert [text for chunk in chunks for text in chunk.kept["note"]] == texts


def test_parquet_types(tmp_path):
    table = pa.table(
        {
            "decimal": pa.array([Decimal("1.25"), Decimal("2.5"), None], pa.decimal128(9, 3)),
            "category": pa.array([1.5, 2.5, 3.5]).dictionary_encode(),
            "small": pa.array([1, 2, 3], pa.int8()),
            "flag": pa.array([True, False, True]),
            "half": pa.array(np.array([1.5, 2.5, 3.5], np.float16)),
            "host": pa.array(["a", "b", "a"]).dictionary_encode(),
            "when": pa.array([1, 2, 3], pa.timestamp("ms")),
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    opened = open_table(tmp_path / "data.parquet")
    assert opened.feature_names == ("decimal", "category", "small", "flag", "half")
    assert opened.columns.facts() == {"time": "when", "ignored": ["host"]}
    data = opened.read()
    np.testing.assert_array_equal(data.values, [[1.25, 1.5, 1, 1, 1.5], [2.5, 2.5, 2, 0, 2.5]])
    assert [str(bad) for bad in data.bad] == ["row 2: column 'decimal': is missing"]


def test_a_parquet_null_is_told_from_nan(tmp_path):
    numbers = [1.0, None, math.nan, 4.0]
    flags = pa.array([True, False, True, None])
    codes = pa.array([0, 1, 2, 0]).dictionary_encode()
    pq.write_table(
        pa.table({"x": pa.array(numbers), "flag": flags, "code": codes}), tmp_path / "data.parquet"
    )
    data = open_table(tmp_path / "data.parquet").read()
    assert [(bad.kind, str(bad)) for bad in data.bad] == [
        (ProblemKind.EMPTY, "row 1: column 'x': is missing"),
        (ProblemKind.NOT_FINITE, "row 2: column 'x': nan is not finite"),
        (ProblemKind.EMPTY, "row 3: column 'flag': is missing"),
    ]
    np.testing.assert_array_equal(data.values, [[1, 1, 0]])


def test_partitioned_parquet(tmp_path):
    frame = pd.DataFrame(VALUES, columns=list("abc")).assign(host=["web", "db"] * 20)
    frame.to_parquet(tmp_path / "data", partition_cols=["host"])
    table = open_table(tmp_path / "data", roles=Roles(id="host"))
    assert table.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(
        np.concatenate([chunk.values for chunk in table.chunks()]),
        np.concatenate([VALUES[1::2], VALUES[::2]]),
    )
    assert [set(chunk.kept["host"]) for chunk in table.chunks()] == [{"db"}, {"web"}]


def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(TEXT,))
    writer.start()
    table = open_table(path)
    np.testing.assert_array_equal(table.read().values, VALUES)
    writer.join()
    with pytest.raises(DataError, match="can be read only once"):
        table.read()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".npy", ".jsonl"])
def test_standard_input_in_any_format(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    frame = pd.DataFrame(VALUES, columns=list("abc"))
    if suffix == ".npy":
        np.save(path, VALUES)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    code = "from datasentinel.tables import open_table; print(open_table('-').read().values.sum())"
    with path.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=False
        )
    assert float(done.stdout) == pytest.approx(VALUES.sum(), abs=1e-12), done.stderr


def test_urls_by_fsspec():
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for i, part in enumerate(np.split(VALUES, 2)):
        files.pipe(f"/bucket/{i}.csv", pd.DataFrame(part, columns=list("abc")).to_csv(index=False).encode())
    for url in ("memory://bucket/*.csv", "memory://bucket"):
        np.testing.assert_array_equal(open_table(url).read().values, VALUES)
    with pytest.raises(DataError, match=r"memory://bucket/none\.csv: no such file"):
        open_table("memory://bucket/none.csv")
    with pytest.raises(MissingDependencyError, match=r"nowhere://x\.csv: fsspec cannot open it"):
        open_table("nowhere://x.csv")


@pytest.mark.parametrize(
    "value", ["1_000", "\uff11", "1,0000", "12,34", "12%", "$5", "0x1F", "1e", "--1", "1.2.3"]
)
def test_what_is_no_number_for_the_line_protocol_is_none_in_a_file(tmp_path, value):
    path = tmp_path / "data.csv"
    path.write_text(TEXT + f'"{value}",2,3\n' + "4,5,6\n", encoding="utf-8")
    data = open_table(path).read()
    assert [str(bad) for bad in data.bad] == [f"line 42: column 'a': '{value}' is not a number"]
    assert len(data.values) == 41


def test_the_only_row_may_be_refused(tmp_path):
    path = tmp_path / "data.csv"
    for value in ("1_000", "\uff11"):
        path.write_text(f"a,b\n{value},2\n", encoding="utf-8")
        data = open_table(path).read()
        assert data.feature_names == ("a", "b")
        assert [str(bad) for bad in data.bad] == [f"line 2: column 'a': '{value}' is not a number"]


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("line", [2, 20, 41])
def test_a_stray_quotation_mark_costs_one_row(tmp_path, at, line):
    lines = TEXT.splitlines()
    fields = lines[line - 1].split(",")
    fields[at] = '"' + fields[at]
    lines[line - 1] = ",".join(fields)
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    table = open_table(path)
    assert [str(bad) for bad in table.read().bad] == [
        f"line {line}: column '{'abc'[at]}': a quotation mark is opened and not closed"
    ]
    (chunk,) = table.chunks()
    assert chunk.rows.tolist() == [i for i in range(40) if i != line - 2]


def test_two_stray_quotation_marks_cost_two_rows(tmp_path):
    lines = ["host,a,b", *(f"web,{i}.5,{i % 7}" for i in range(300))]
    lines[10] = '"web,9.5,2'
    lines[200] = 'web",199.5,3'
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines))
    data = open_table(path, roles=Roles(features=("a", "b"))).read()
    assert [bad.line for bad in data.bad] == [11]
    assert len(data.values) == 299


def test_text_may_span_lines(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('a,note,b\n1,"two\nlines, ""quoted""",2\n3,plain,4\n5,"and\n\nthree",x\n6,"",7\n')
    table = open_table(path, roles=Roles(features=("a", "b"), keep=("note",)))
    (chunk,) = table.chunks()
    assert chunk.values.tolist() == [[1, 2], [3, 4], [6, 7]]
    assert [str(bad) for bad in chunk.bad] == ["line 5: column 'b': 'x' is not a number"]
    assert chunk.kept["note"] == ['two\nlines, "quoted"', "plain", "and\n\nthree", ""]


def test_blocks_end_where_records_do(tmp_path):
    """Whatever the size of a block, and with text that spans lines across them."""
    rows = [f'{i},"line one of {i}\nand, two",{2 * i}' if i % 3 else f'{i},"",{2 * i}' for i in range(200)]
    path = tmp_path / "data.csv"
    path.write_text("a,note,b\n" + "\n".join(rows) + "\n")
    table = open_table(path, roles=Roles(features=("a", "b")))
    for block_rows in (1, 2, 7, 50):
        values = np.concatenate([chunk.values for chunk in table.chunks(block_rows, threads=2)])
        np.testing.assert_array_equal(values, [[i, 2 * i] for i in range(200)])


def test_a_sample_of_many_rows(tmp_path):
    values = np.column_stack([np.arange(5000.0) * 1.5, np.arange(5000.0)])
    path = tmp_path / "data.csv"
    pd.DataFrame(values, columns=["a", "b"]).assign(label=np.arange(5000) % 2).to_csv(path, index=False)
    data = open_table(path).read(max_rows=100, seed=1)
    assert (len(data.values), data.num_rows) == (100, 5000)
    assert np.all(np.diff(data.values[:, 1]) > 0)
    np.testing.assert_array_equal(data.labels, data.values[:, 1] % 2 == 1)
    assert 1500 < data.values[:, 1].mean() < 3500
    again = open_table(path).read(max_rows=100, seed=1)
    np.testing.assert_array_equal(again.values, data.values)


def test_a_label_may_be_missing_in_rows_of_json_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1, "fault": 0}\n\n{"a": 2, "fault": null}\n{"a": 3, "fault": 1}')
    dataset = open_table(path, roles=Roles(label="fault")).read()
    assert dataset.values.ravel().tolist() == [1, 3]
    assert dataset.labels.tolist() == [False, True]
    assert "is empty" in str(dataset.bad[0])
    path.write_text("\n\n")
    with pytest.raises(DataError, match=r"data\.jsonl"):
        open_table(path)


@pytest.mark.parametrize("odd", [[1], {"of": 1}, 10**400])
def test_labels_that_are_neither_numbers_nor_words_are_words_of_their_own(tmp_path, odd):
    rows = [{"a": i * 1.5, "b": i % 7, "label": odd if i == 1501 else i % 50 == 0} for i in range(2000)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not isinstance(odd, int):
        with pytest.raises(DataError, match="label"):
            open_table(tmp_path / "data.jsonl").read()
    dataset = open_table(tmp_path / "data.jsonl", roles=Roles(normal=("false", "0"))).read()
    assert dataset.labels.sum() == 41
    assert dataset.labels[1501]


def test_labels_in_parquet_may_be_lists(tmp_path):
    table = pa.table({"a": [1.0, 2.0, 3.0], "label": [[0], [1], None]})
    pq.write_table(table, tmp_path / "data.parquet")
    dataset = open_table(tmp_path / "data.parquet", roles=Roles(label="label", normal=("[0]",))).read()
    assert dataset.labels.tolist() == [False, True]


def test_a_number_beyond_float64_is_a_bad_value(tmp_path):
    rows = [{"a": 10**400 if i == 3 else i * 1.5, "b": i % 7} for i in range(100)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = open_table(tmp_path / "data.jsonl").read()
    assert dataset.feature_names == ("a", "b")
    assert dataset.values.shape == (99, 2)
    assert "line 4: column 'a'" in str(dataset.bad[0])


@pytest.mark.parametrize("described", [b"{", b"[]", b"null", b'{"index_columns": null}', b"[" * 100_000])
def test_a_parquet_file_may_be_described_wrongly(tmp_path, described):
    table = pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0]}).replace_schema_metadata({"pandas": described})
    pq.write_table(table, tmp_path / "data.parquet")
    assert open_table(tmp_path / "data.parquet").feature_names == ("a", "b")


def test_numbers_in_a_dictionary_and_times_are_numbers(tmp_path):
    columns = {
        "a": pa.array([1.5, 2.5, 1.5]).dictionary_encode(),
        "b": pa.array([1, 2, 3], pa.duration("s")),
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    dataset = open_table(tmp_path / "data.parquet", roles=Roles(features=("a", "b"))).read()
    assert dataset.values.tolist() == [[1.5, 1], [2.5, 2], [1.5, 3]]


def test_a_record_batch_that_holds_something_else_than_it_says_is_refused():
    offsets = np.array([0, 1], np.int32).tobytes()
    text = pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(b"\xff"))
    with pytest.raises(InvalidInputError, match="a malformed record batch: column 'b'"):
        validate(pa.record_batch({"a": pa.array([1.0]), "b": text}))
    validate(pa.record_batch({"a": pa.array([1.0]), "b": pa.array(["x"])}))
