"""Any table that csv, pandas or polars write, in any dialect, is read back to the same numbers or refused."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasentinel.errors import DataError
from datasentinel.tables import Roles, open_table

NAMES = ("alpha", "beta", "gamma", "delta")
NUMBERS = st.one_of(
    st.floats(-1e30, 1e30),
    st.floats(-1e6, 1e6),
    st.integers(-(10**9), 10**9).map(float),
    st.sampled_from([0.0, -0.0, 1e-300, 5e-324, 0.1, -1.5]),
)
TEXTS = st.text(st.sampled_from("ab ,;|\t'\"\n#é.1"), max_size=8).map(lambda text: "t" + text)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


@st.composite
def tables(draw):
    width = draw(st.integers(2, len(NAMES)))
    rows = draw(st.lists(st.tuples(*[NUMBERS] * width), min_size=3, max_size=12))
    texts = draw(st.none() | st.lists(TEXTS, min_size=len(rows), max_size=len(rows)))
    return NAMES[:width], np.array(rows), texts


def check(path, names, values, texts):
    """Either the same numbers come out, or rows are refused; never others, and never a row too many."""
    try:
        table = open_table(path, roles=Roles(features=names, keep=("note",) if texts else ()))
        chunks = list(table.chunks())
    except DataError:
        return
    read = np.concatenate([chunk.values for chunk in chunks])
    rows = np.concatenate([chunk.rows for chunk in chunks])
    bad = sum(len(chunk.bad) for chunk in chunks)
    if not bad:
        assert len(rows) == len(values)
        np.testing.assert_array_equal(read, values)
    for row in read:
        assert any(np.array_equal(row, value) for value in values)


common = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@common
@given(
    table=tables(),
    delimiter=st.sampled_from(",;\t| "),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    quotechar=st.sampled_from("\"'"),
    end=st.sampled_from(["\n", "\r\n"]),
    doublequote=st.booleans(),
    encoding=ENCODINGS,
)
def test_csv(tmp_path, table, delimiter, quoting, quotechar, end, doublequote, encoding):
    names, values, texts = table
    path = tmp_path / "data.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(
            file,
            delimiter=delimiter,
            quoting=quoting,
            quotechar=quotechar,
            lineterminator=end,
            doublequote=doublequote,
            escapechar=None if doublequote else "\\",
        )
        writer.writerow([*names, "note"] if texts else names)
        for i, row in enumerate(values.tolist()):
            writer.writerow([*row, texts[i]] if texts else row)
    check(path, names, values, texts)


@common
@given(
    table=tables(),
    sep=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    index=st.booleans(),
    packed=st.sampled_from([None, "gzip", "bz2"]),
    encoding=ENCODINGS,
)
def test_pandas(tmp_path, table, sep, decimal, index, packed, encoding):
    names, values, texts = table
    frame = pd.DataFrame(values, columns=list(names))
    if texts:
        frame["note"] = texts
    path = tmp_path / "data.csv"
    if packed:
        encoding = "utf-8"  # pandas leaves UTF-16's mark out of packed files.
    frame.to_csv(path, sep=sep, decimal=decimal, index=index, compression=packed, encoding=encoding)
    check(path, names, values, texts)


@common
@given(
    table=tables(),
    separator=st.sampled_from(",;\t|"),
    quote_style=st.sampled_from(["necessary", "always", "non_numeric"]),
    scientific=st.none() | st.booleans(),
)
def test_polars(tmp_path, table, separator, quote_style, scientific):
    names, values, texts = table
    frame = pl.DataFrame(values, schema=list(names))
    if texts:
        frame = frame.with_columns(pl.Series("note", texts))
    path = tmp_path / "data.csv"
    frame.write_csv(path, separator=separator, quote_style=quote_style, float_scientific=scientific)
    check(path, names, values, texts)


@common
@given(table=tables(), separator=st.sampled_from(",;\t|"))
def test_plain_numbers_are_never_refused(tmp_path, table, separator):
    names, values, _ = table
    path = tmp_path / "data.csv"
    pd.DataFrame(values, columns=list(names)).to_csv(path, sep=separator, index=False)
    data = open_table(path, roles=Roles(features=names)).read()
    assert data.problems.total == 0
    np.testing.assert_array_equal(data.values, values)
