"""Which delimiter is found where rows hold times, text and decimal commas."""

from __future__ import annotations

import numpy as np
import pytest

from datasentinel.tables import Roles, open_table

ROWS = 40
VALUES = (19.58 + np.sin(np.arange(ROWS))).round(2)
TIMES = {
    "de": [f"01.03.2026 10:{i:02}:00" for i in range(ROWS)],
    "iso": [f"2026-03-01T10:{i:02}:00Z" for i in range(ROWS)],
    "ms": [f"2026-03-01 10:{i:02}:00,{i:03}" for i in range(ROWS)],
    "day": ["01.03.2026"] * ROWS,
    "clock": [f"10:{i:02}:00" for i in range(ROWS)],
}


def write(path, header, rows):
    path.write_text("".join(f"{line}\n" for line in [header, *rows] if line is not None))
    return path


def comma(value):
    return f"{value:.2f}".replace(".", ",")


def read(path, roles=None):
    table = open_table(path, roles=roles)
    chunks = list(table.chunks())
    assert not any(chunk.bad for chunk in chunks)
    return table, np.concatenate([chunk.values for chunk in chunks])


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("text", [None, "Halle 1", "load 1, 2, 3", "a, b"])
@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("delimiter", ";\t|")
def test_decimal_commas_beside_times_and_text(tmp_path, times, text, has_header, delimiter):
    texts = [] if text is None else [text]
    rows = [
        delimiter.join([time, *texts, comma(value)]) for time, value in zip(TIMES[times], VALUES, strict=True)
    ]
    header = delimiter.join(["Zeit", *["Ort"] * len(texts), "Wert"]) if has_header else None
    table, values = read(write(tmp_path / "data.csv", header, rows))
    assert len(table.columns.left_out) == 1 + len(texts)
    np.testing.assert_array_equal(values, VALUES[:, None])


@pytest.mark.parametrize(
    ("header", "row", "width"),
    [
        ("Zeit;Leistung, kW", "01.03.2026 10:00:00;{}", 1),
        ("msg;v", "cpu 1 2 3 4 5 6;{}", 1),
        ("Wert", "{}", 1),
        ("a;b", "{0};{0}", 2),
        ("a;b;c", "web;{0};{0}", 2),
        ("a b", "{0} {0}", 2),
        ("a,b", '"{0}","{0}"', 2),
        ("v;note", '{};"a;b, c"', 1),
        ("n;v", "7;{}", 2),
    ],
)
def test_decimal_commas_under_headers(tmp_path, header, row, width):
    rows = [row.format(comma(value)) for value in VALUES]
    _, values = read(write(tmp_path / "data.csv", header, rows))
    assert values.shape == (ROWS, width)
    np.testing.assert_array_equal(values[:, -1], VALUES)


@pytest.mark.parametrize("mark", ["sep=;", "SEP=;", '"sep=;"', "sep=\t", "sep=^", "sep=,"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("has_header", [True, False])
def test_the_line_that_says_the_delimiter(tmp_path, mark, end, encoding, has_header):
    delimiter = mark.strip('"')[-1]
    lines = [delimiter.join(["a", "b", "label"])] * has_header
    lines += [f"{i}.5{delimiter}{value}{delimiter}{i % 2}" for i, value in enumerate(VALUES)]
    lines[-1] = lines[-1].replace("39.5", "word")
    path = tmp_path / "data.csv"
    path.write_bytes(end.join([mark, *lines, ""]).encode(encoding))
    table = open_table(path, roles=None if has_header else Roles(label="3"))
    (chunk,) = table.chunks()
    assert table.has_labels
    assert (len(chunk.values), table.num_features) == (ROWS - 1, 2)
    assert [bad.line for bad in chunk.bad] == [1 + has_header + ROWS]
