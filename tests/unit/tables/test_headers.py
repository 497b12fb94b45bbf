"""Which first record is a header: of numbers, and of fewer names than there are columns."""

from __future__ import annotations

import numpy as np
import pytest

from datasentinel.errors import DataError
from datasentinel.tables import open_table

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


def test_a_json_array_is_no_json_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('[\n{"a": 1},\n{"a": 2}\n]\n')
    with pytest.raises(DataError, match="a JSON document; write JSON lines, an object a line"):
        open_table(path)
