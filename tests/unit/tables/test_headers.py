"""Which first record is a header: of numbers, and of fewer names than there are columns."""

from __future__ import annotations

import numpy as np
import pytest

from datasentinel.errors import DataError
from datasentinel.tables import Roles, open_table

ROWS = 60


@pytest.mark.parametrize("header", ["2019,2020,2021", "400,401,402", "1200.5,1201.0,1201.5"])
def test_a_scale_above_other_numbers_is_a_header(tmp_path, header):
    values = np.random.default_rng(0).normal(10, 3, (ROWS, 3)).round(3)
    path = tmp_path / "data.csv"
    path.write_text(header + "\n" + "\n".join(",".join(map(str, row)) for row in values.tolist()))
    data = open_table(path).read()
    assert data.feature_names == tuple(header.split(","))
    np.testing.assert_array_equal(data.values, values)


@pytest.mark.parametrize("first", ["3,4,5", "10,11,12", "8,8.5,9"])
def test_a_row_like_those_below_is_none(tmp_path, first):
    values = np.random.default_rng(0).normal(10, 3, (ROWS, 3)).round(3)
    path = tmp_path / "data.csv"
    path.write_text(first + "\n" + "\n".join(",".join(map(str, row)) for row in values.tolist()))
    assert len(open_table(path).read().values) == ROWS + 1


def test_a_header_that_is_too_short_loses_no_measurement(tmp_path):
    """Only what tells rows apart is the index of a data frame, which has no name."""
    path = tmp_path / "data.csv"
    path.write_text("a,b\n" + "".join(f"{i % 7}.5,{i}.25,1.5\n" for i in range(ROWS)))
    data = open_table(path).read()
    assert not len(data.values)
    assert str(data.bad[0]) == "line 2: expected 2 values, got 3"
    path.write_text("Device;P-1\nflow;press;label\n" + "".join(f"{i % 7}.5;{i}.25;1\n" for i in range(ROWS)))
    assert not len(open_table(path).read().values)  # Not the label for a feature.
    for index in ("r{}", "{}", "2026-01-01 00:{:02}"):
        path.write_text("a,b\n" + "".join(f"{index.format(i)},{i}.25,{i}.5\n" for i in range(ROWS)))
        assert open_table(path).read().feature_names == ("a", "b")


PREAMBLES = {
    "1": '"Plot Title: 10347366"\n',
    "2": "Instrument,X12\nSerial,1234\n\n",
    "3": '"TOA5","CR1000","CR1000","12345","CR1000.Std.31","CPU:prog.CR1","54321","Table1"\n',
    "4": "# from the roof\nInstrument: X\nStart: 2026-10-24\n\n",
}


@pytest.mark.parametrize("preamble", PREAMBLES.values(), ids=PREAMBLES)
@pytest.mark.parametrize("width", [4, 7, 8, 9])
def test_what_loggers_tell_of_themselves_is_before_the_header(tmp_path, preamble, width):
    values = np.random.default_rng(0).normal(10, 3, (ROWS, width)).round(3)
    names = [f"sensor {i}" for i in range(width)]
    path = tmp_path / "data.csv"
    rows = [",".join(map(str, row)) for row in values.tolist()]
    path.write_text(preamble + "\n".join([",".join(names), *rows[:40], "x", *rows[40:]]))
    table = open_table(path)
    line = preamble.count("\n") + 1
    assert table.warnings == [f"{path}: line {line} is the header: what is before it is passed over"]
    data = table.read()
    assert data.feature_names == tuple(names)
    np.testing.assert_array_equal(data.values, values)
    assert [str(bad) for bad in data.bad] == [f"line {line + 41}: expected {width} values, got 1"]
    assert len(open_table(path, header=False, roles=Roles(features=("1",))).read().bad) > 1


def test_beginnings_without_rows_are_no_preamble(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("TOA5,CR1000\n")
    assert len(open_table(path).read().values) == 0
    path.write_text('"a,b\n1,2\n')
    with pytest.raises(DataError, match="no feature columns"):
        open_table(path)


def test_bad_rows_before_others_are_no_preamble(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("1\n2\n" + "".join(f"{i % 7}.5,{i}.25,1.5,{i}\n" for i in range(ROWS)))
    data = open_table(path).read()
    assert len(data.values) == ROWS
    assert [str(bad) for bad in data.bad] == [f"line {i}: expected 4 values, got 1" for i in (1, 2)]


def test_a_json_array_is_no_json_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('[\n{"a": 1},\n{"a": 2}\n]\n')
    with pytest.raises(DataError, match="a JSON document; write JSON lines, an object a line"):
        open_table(path)
