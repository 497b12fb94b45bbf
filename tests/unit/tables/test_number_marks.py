"""Decimal points and commas, and what is between thousands: read right, or with a word on what else it may mean."""

from __future__ import annotations

import numpy as np
import pytest

from datasentinel.cli.reading import ReadingOptions, read_data
from datasentinel.tables import Roles, open_table
from datasentinel.tables.number_marks import COMMA, POINT, Marks
from datasentinel.tables.text_format import TextFormat

COUNTS = [93_994, 609, 1_234_567, 5_014, 37, 116_050, 1_000]
SMALL = [4_392, 609, 16_307, 5_014, 37, 12_000, 1_000]
AMOUNTS = [93_994.25, 609.5, 1_234_567.01, 5_014.75, 37.0, 116_050.4, 1_000.99]
ROUNDED = [9.394, 60.951, 123.456, 5.014, 37.127, 116.054, 1.993]


def write(path, columns, delimiter=";", encoding="utf-8"):
    quote = '"' if delimiter == "," else ""
    lines = [delimiter.join(f"{quote}{field}{quote}" for field in row) for row in zip(*columns, strict=True)]
    path.write_text("\n".join([delimiter.join("vwabcd"[: len(columns)]), *lines, ""]), encoding)
    return path


def written(values, spec=",", thousands=",", decimal="."):
    marks = {",": thousands, ".": decimal}
    return ["".join(marks.get(char, char) for char in format(value, spec)) for value in values]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("values", "fields"),
    [
        (COUNTS, written(COUNTS)),
        (COUNTS, written(COUNTS, thousands="'")),
        (COUNTS, written(COUNTS, thousands=".")),
        (COUNTS, ["93,994", "609", "12,34,567", "5,014", "37", "1,16,050", "1,000"]),
        (AMOUNTS, written(AMOUNTS, ",.2f")),
        (AMOUNTS, written(AMOUNTS, ",.2f", ".", ",")),
        (AMOUNTS, written(AMOUNTS, ",.2f", "\u202f", ",")),
        (AMOUNTS, written(AMOUNTS, ",.2f", "\u2019", ".")),
        ([-v for v in AMOUNTS], ["-" + field for field in written(AMOUNTS, ",.2f")]),
        (ROUNDED, written(ROUNDED, ".2f", decimal=",")),
        (ROUNDED, written(ROUNDED, ".3f")),
        ([0.125, *ROUNDED[1:]], written([0.125, *ROUNDED[1:]], ".3f", decimal=",")),
        ([1234.125, *ROUNDED[1:]], written([1234.125, *ROUNDED[1:]], ".3f", decimal=",")),
    ],
)
def test_marks_that_numbers_leave_no_doubt_of(tmp_path, delimiter, values, fields):
    table = open_table(write(tmp_path / "data.csv", [fields, ["7"] * len(fields)], delimiter))
    data = table.read()
    assert not table.warnings
    assert data.problems.total == 0
    np.testing.assert_allclose(data.values[:, 0], [float(format(v, ".3f")) for v in values], atol=0.006)


@pytest.mark.parametrize(
    ("delimiter", "fields", "read", "otherwise"),
    [
        (",", written(SMALL), SMALL, "comma"),
        (",", written([4_392, 16_307]), [4_392, 16_307], "comma"),
        ("\t", written(SMALL), [4.392, 609, 16.307, 5.014, 37, 12, 1], "point"),
        (";", written(SMALL), [4.392, 609, 16.307, 5.014, 37, 12, 1], "point"),
        (";", [*written(ROUNDED, ".3f"), "1,234"], [*ROUNDED, 1_234], "comma"),
        (";", written([4_392, 16_307]), [4.392, 16.307], "point"),
        ("\t", written(ROUNDED[:1] + ROUNDED[2:], ".3f", decimal=","), ROUNDED[:1] + ROUNDED[2:], "point"),
        (";", written(SMALL, thousands="."), [4.392, 609, 16.307, 5.014, 37, 12, 1], "comma"),
        (",", written(SMALL, thousands="."), [4.392, 609, 16.307, 5.014, 37, 12, 1], "comma"),
    ],
)
def test_marks_in_doubt_are_named_with_the_option_that_decides(tmp_path, delimiter, fields, read, otherwise):
    path = write(tmp_path / "data.csv", [["7"] * len(fields), fields], delimiter)
    table = open_table(path)
    np.testing.assert_array_equal(table.read().values[:, 1], read)
    (warning,) = table.warnings
    assert warning.startswith("column 'w': '")
    assert f"--decimal {otherwise} reads it as" in warning
    assert table.read().warnings[0] == warning
    assert not open_table(path, roles=Roles(features=("v",))).warnings
    told, other = (".", ",") if otherwise == "point" else (",", ".")
    decided = open_table(path, decimal=told)
    numbers = [float(field.replace(other, "").replace(told, ".")) for field in fields]
    if decided.read().problems.total == 0:
        np.testing.assert_array_equal(decided.read().values[:, 1], numbers)
        assert not decided.warnings


def test_the_option_that_decides(tmp_path, capsys):
    path = write(tmp_path / "data.csv", [[*written(SMALL, thousands="."), "1,5", "1.5"], ["7"] * 9])
    data = read_data([str(path)], ReadingOptions(decimal="comma"))
    np.testing.assert_array_equal(data.values[:, 0], [*SMALL, 1.5])
    assert [str(bad) for bad in data.bad] == ["line 10: column 'v': '1.5' is not a number"]
    assert "warning" not in capsys.readouterr().err
    path = write(tmp_path / "data.csv", [written(SMALL), ["7"] * 7], ",")
    read_data([str(path)], ReadingOptions())
    told = "warning     column 'v': '4,392' is read as 4392; --decimal comma reads it as 4.392"
    assert capsys.readouterr().err.count(told) == 1


def test_addresses_and_numbers_of_documents_are_no_numbers(tmp_path):
    sources = ["192.168.100.149", "192.168.100.147", "10.10.100.200"] * 4
    documents = ["12.345.678", "23.456.789", "34.567.891"] * 4
    seconds = [4.967, 36.089, 12.551] * 4
    columns = [sources, sources, documents, documents, written(seconds, ".3f"), ["7"] * 12]
    table = open_table(write(tmp_path / "flows.csv", columns, ","))
    np.testing.assert_array_equal(table.read().values, [[value, 7] for value in seconds])
    assert not table.warnings
    amounts = written(AMOUNTS, ",.2f", ".", ",")
    table = open_table(write(tmp_path / "flows.csv", [["10.10.100.200"] * 7, amounts]))
    np.testing.assert_array_equal(table.read().values[:, 0], AMOUNTS)


@pytest.mark.parametrize(
    "columns",
    [
        [["4,897", "8,397"], ["1.5", "1.5"], ["9,125", "9,126"]],
        [["4,897", "8,397", "1,203", "5"] * 10, ["1", "2,5", "2", "2,125"] * 10],
        [["4,897", "1,203", "5,111"] * 10 + ["4,897,123"], ["1", "2", "2,125"] * 10 + ["1"]],
    ],
)
def test_commas_beside_semicolons_are_decimal_ones_in_doubt(tmp_path, columns):
    table = open_table(write(tmp_path / "data.csv", columns), roles=Roles(features=("v",)))
    first = [float(field.replace(",", ".")) for field in columns[0] if field.count(",") < 2]
    np.testing.assert_array_equal(table.read().values[:, 0], first)


EITHER = [["12,345", "13,871", "9,127", "8,451"], ["1", "2", "2,125", "1"]]
TELLING = {
    "decimal": ([["4,897", "8,397"] * 5, ["1", "2,5"] * 5], 1e-3),
    "thousands": ([["4,897", "1,008,397"] * 5, ["1", "2"] * 5], 1),
}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("marks", TELLING)
def test_later_files_have_the_marks_of_the_first(tmp_path, delimiter, marks):
    columns, unit = TELLING[marks]
    numbers = np.array([12_345, 13_871, 9_127, 8_451]) * unit
    first = write(tmp_path / "a.csv", columns, delimiter)
    table = open_table(first, write(tmp_path / "b.csv", EITHER, delimiter))
    assert not table.warnings
    np.testing.assert_allclose(table.read().values[-4:, 0], numbers)
    sure = write(tmp_path / "c.csv", TELLING["decimal"][0], delimiter)
    table = open_table(write(tmp_path / "d.csv", [["1", "2"], ["1.5", "2.5"]], delimiter), first, sure)
    np.testing.assert_allclose(table.read().values[-10:, 1], [1, 2.5] * 5)


def test_quoted_numbers_among_commas_are_scored_as_they_are_trained_on(tmp_path):
    scored = Roles(model_features=("v", "w"), num_features=2)
    numbers = [51_494, 914, 1_020, 38_001, 7, 2_500]
    for others in (["1.32", "3.25", "2.5", "1.75", "4.5", "2.25"], ["17", "12", "11", "19", "13", "18"]):
        path = write(tmp_path / "data.csv", [written(numbers), others], ",")
        for roles in (None, scored):
            table = open_table(path, roles=roles)
            np.testing.assert_array_equal(table.read().values[:, 0], numbers)
            assert "'51,494' is read as 51494; --decimal comma reads it as 51.494" in table.warnings[0]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_few_rows_to_score_have_decimal_commas_in_doubt(tmp_path, delimiter):
    scored = Roles(model_features=("v", "w"), num_features=2)
    table = open_table(write(tmp_path / "data.csv", EITHER, delimiter), roles=scored)
    np.testing.assert_array_equal(table.read().values[:, 0], [12.345, 13.871, 9.127, 8.451])
    assert "'12,345' is read as 12.345; --decimal point reads it as 12345" in table.warnings[0]
    table = open_table(write(tmp_path / "data.csv", TELLING["thousands"][0], delimiter), roles=scored)
    np.testing.assert_array_equal(table.read().values[:2, 0], [4_897, 1_008_397])


def as_trained(marks):
    return Roles(model_features=("v", "w"), num_features=2, text=TextFormat(marks))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("marks", "fields", "read", "is_told"),
    [
        (Marks(",", "."), ["1.234", "5"], [1_234, 5], False),
        (Marks(",", "."), ["1,234", "5"], [1.234, 5], False),
        (Marks(".", ","), ["1,234", "5"], [1_234, 5], False),
        (Marks(".", ","), ["1.234", "5"], [1.234, 5], False),
        (COMMA, ["1.234", "5"], [1_234, 5], True),
        (POINT, ["1,234", "5"], [1_234, 5], True),
        (POINT, ["1.234", "5.5"], [1.234, 5.5], False),
        (Marks(",", "."), ["1.5", "1.234"], [1.5, 1.234], True),
        (Marks(".", ","), ["1,5", "1,234"], [1.5, 1.234], True),
        (Marks(".", ","), ["1.234.567", "1.234"], [1_234_567, 1_234], True),
    ],
)
def test_a_model_reads_numbers_as_its_training_did_and_tells_of_others(
    tmp_path, delimiter, marks, fields, read, is_told
):
    path = write(tmp_path / "data.csv", [fields, ["7", "8"]], delimiter)
    table = open_table(path, roles=as_trained(marks))
    np.testing.assert_array_equal(table.read().values[:, 0], read)
    assert len(table.warnings) == is_told
    for warning in table.warnings:
        assert warning.startswith(f"column 'v': '{fields[0]}' is read as {read[0]}")
        assert "--decimal" in warning
    assert not open_table(path, roles=as_trained(marks), decimal=table.read().text.marks.decimal).warnings


def test_many_columns_in_doubt_are_counted(tmp_path):
    path = write(tmp_path / "data.csv", [["1.5", "2"]] * 6)
    roles = Roles(num_features=6, text=TextFormat(COMMA))
    warnings = open_table(path, roles=roles).warnings
    assert [
        warning.startswith(f"column '{name}': '1.5' is read as 1.5")
        for name, warning in zip("vwa", warnings, strict=False)
    ] == [True] * 3
    assert warnings[3:] == [f"{path}: numbers of 3 more columns are in doubt, too"]


def test_numbers_behind_the_first_megabyte_have_the_marks_trained_on(tmp_path):
    fields = ["7"] * 600_000 + ["1.234,5", "2.5"]
    data = open_table(write(tmp_path / "data.csv", [fields] * 2), roles=as_trained(Marks(",", "."))).read()
    assert data.values[-1].tolist() == [1_234.5] * 2
    assert [str(bad) for bad in data.bad] == ["line 600003: column 'v': '2.5' is not a number"]
    for shown in ("1,5", "7"):
        path = write(tmp_path / "data.csv", [[shown, *fields]] * 2)
        assert open_table(path, roles=as_trained(Marks(",", "."))).read().values[-1, 0] == 1_234.5


@pytest.mark.parametrize("mark", ["\u2019", "\u202f"])
def test_a_file_whose_encoding_lacks_the_mark_trained_on_is_read(tmp_path, mark):
    path = write(tmp_path / "data.csv", [["7", "8"], ["5", "6"], ["\xe9"] * 2], encoding="latin-1")
    table = open_table(path, roles=as_trained(Marks(".", mark)))
    assert table.read().values.tolist() == [[7, 5], [8, 6]]


def test_what_is_found_of_marks_is_told_and_nothing_else(tmp_path):
    for fields, marks in (
        (["1", "1000"], None),
        (["1.5", "2"], POINT),
        (["1,5", "1.000,5"], Marks(",", ".")),
    ):
        data = open_table(write(tmp_path / "data.csv", [fields] * 2)).read()
        assert data.text.marks == marks
        assert TextFormat.of_facts(data.text.facts()) == data.text
    data = open_table(write(tmp_path / "data.csv", [["1", "1000"]] * 2), decimal=",").read()
    assert data.text.marks == Marks(",", ".")


@pytest.mark.parametrize(
    ("times", "read"),
    [
        (["0", "0,5", "1", "1,5", "2", "x"], [0, 0.5, 1, 1.5, 2]),
        (["990", "1.000", "1.010,5", "1.020", "1.030", "x"], [990, 1000, 1010.5, 1020, 1030]),
    ],
)
def test_times_have_the_marks_of_other_numbers_and_are_handed_through_as_they_are(tmp_path, times, read):
    columns = [times, ["0,25", "1,5", "2,75", "0,5", "1,25", "2"]]
    # Those of files that models score, too.
    roles = Roles(time="v", model_features=("w",), num_features=1)
    table = open_table(write(tmp_path / "data.csv", columns), roles=roles)
    data = table.read(with_times=True)
    np.testing.assert_array_equal(data.times_s, read)
    assert [str(bad) for bad in data.bad] == ["row 5: column 'v': 'x' is not a time"]
    (chunk,) = table.chunks()
    assert chunk.good_values("v") == times
