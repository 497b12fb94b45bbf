from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from datasentinel.artifact import Config
from datasentinel.distributed.stream.payloads import Decoder, PayloadOptions
from datasentinel.errors import InvalidInputError, SettingsError

NAMES = ("a", "b", "c")
ROWS = np.array([[1.5, -2.0, 3.25], [0.0, 1e-3, 7.0]], np.float32)


def config(**extra: object) -> Config:
    return Config(input_dim=3, output_dim=3, latent_dim=1, threshold=1.0, feature_names=NAMES, **extra)


def decoder(told: Config | None = None, **options: object) -> Decoder:
    return Decoder(told or config(), PayloadOptions(**options))


def ipc(table: pa.Table, new=pa.ipc.new_stream) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def objects(rows: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()]


@pytest.mark.parametrize(
    ("payload", "is_batch"),
    [
        (json.dumps(objects(ROWS)[0] | {"host": "x"}).encode(), False),
        (json.dumps(ROWS[0].tolist()).encode(), False),
        (json.dumps(objects(ROWS)).encode(), True),
        (json.dumps(ROWS.tolist()).encode(), True),
        (json.dumps(ROWS[:1].tolist()).encode(), True),
        (b" " + json.dumps(objects(ROWS)[0]).encode() + b"\n", False),
        (b"1.5,-2,3.25", False),
        (b"1.5,-2,3.25\r\n0,0.001,7\r\n", True),
        (ipc(pa.Table.from_pylist(objects(ROWS))), True),
        (ipc(pa.Table.from_pylist(objects(ROWS)).select(["c", "a", "b"]), pa.ipc.new_file), True),
    ],
)
def test_formats_are_told_by_their_beginnings(payload, is_batch):
    reader = decoder()
    rows = reader.decode(payload)
    assert rows.is_batch == is_batch
    values = reader.join([rows])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, ROWS[: len(values)])
    assert len(values) == 1 or is_batch


def test_raw_float32_is_taken_when_asked_for():
    reader = decoder(format="float32", columns=("c", "x", "a", "b"))
    raw = np.zeros((2, 4), "<f4")
    raw[:, [2, 3, 0]] = ROWS
    rows = reader.decode(raw.tobytes())
    np.testing.assert_array_equal(reader.join([rows, rows]), np.concatenate([ROWS, ROWS]))
    with pytest.raises(InvalidInputError, match="17 bytes are no rows of 4 float32 values"):
        reader.decode(raw.tobytes()[:17])


@pytest.mark.parametrize(
    "payload",
    [
        "[[1.5,-2,3.25],[0,1e-3,7]]",
        "[[1.5, -2.0, 3.25], [0, 1E-3, 7]]",
        "[[1.5,-2,3.25] , [0,0.001,7]] ",
        "[[1.5,-2,3.25],\n[0,0.001,7]]",
    ],
)
def test_arrays_of_arrays_are_read_alike_however_they_are_written(payload):
    reader = decoder()
    np.testing.assert_array_equal(reader.join([reader.decode(payload.encode())]), ROWS)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("[[1 2,3,4]]", "is not JSON"),
        ("[[1,2,3],[]]", "row 1: expected 3 values, got 0"),
        ("[[],[1,2,3]]", "row 0: expected 3 values, got 0"),
        ("[[1,2,3],[1,2,3]", "is not JSON"),
        ("[[1,2,3],[[1,2,3]]]", "row 1: expected 3 values, got 1"),
        ("[[1,2,3]],[[1,2,3]]", "is not JSON"),
        ("[[1,2,1e39]]", "column 'c': 1e.39 does not fit float32"),
        ("[[1,2,]]", "is not JSON"),
        ("[[1,2,3],]", "is not JSON"),
    ],
)
def test_what_looks_like_an_array_of_arrays_is_told_as_json(payload, reason):
    reader = decoder()
    with pytest.raises(InvalidInputError, match=reason):
        reader.join([reader.decode(payload.encode())])


def test_times_and_series_are_taken_by_name_or_by_place():
    named = decoder(time="t", id="pump").decode(json.dumps(objects(ROWS)[0] | {"t": 5, "pump": 7}).encode())
    assert (named.times, named.series) == ([5], ["7"])
    placed = decoder(columns=("t", "pump", *NAMES), time="t", id="pump")
    line = placed.decode(b"2026-01-01,p7,1.5,-2,3.25")
    assert (line.times, line.series) == (["2026-01-01"], ["p7"])
    np.testing.assert_array_equal(placed.join([line]), ROWS[:1])
    array = placed.decode(b'["2026-01-01","p7",1.5,-2,3.25]')
    assert (array.times, array.series) == (["2026-01-01"], ["p7"])
    table = pa.Table.from_pylist([row | {"t": 1} for row in objects(ROWS)])
    assert placed.decode(ipc(table)).times == [1, 1]
    assert placed.decode(ipc(table)).series is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no rows"),
        (b"[]", "expected 3 values, got 0"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "column 'a': is empty"),
        (b'"text"', "'\"text\"' is not a number|expected 3 values"),
        (b'{"a": 1, "b": null, "c": 1}', "column 'b': is empty"),
        (b'{"a": 1, "b": "2", "c": 1}', "column 'b': \"2\" is not a number"),
        (b'{"a": 1, "b": [2], "c": 1}', "column 'b': .* is not a number"),
        (b'{"a": 1, "b": NaN, "c": 1}', "column 'b': nan is not finite"),
        (b'{"a": 1, "b": 1e39, "c": 1}', "column 'b': 1e.39 does not fit float32"),
        (b'{"a": 1, "b": 1' + b"0" * 400 + b', "c": 1}', "column 'b': 10+ does not fit float32"),
        (b"[[1,2,3],[1,2]]", "row 1: expected 3 values, got 2"),
        (b"[[1,2,3],5]", "row 1: is not a JSON object"),
        (
            b'[{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": Infinity}]',
            "row 1: column 'c': inf is not finite",
        ),
        (b"1,2", "expected 3 values, got 2"),
        (b"1,2,x", "column 'c': 'x' is not a number"),
        (b"1,2,3\n1,nan,3", "row 1: column 'b': nan is not finite"),
        (b"\x00\x01\x02", "expected 3 values, got 1"),
        (ipc(pa.table({"a": [1.0], "b": [2.0]})), "lacks columns that the model needs: 'c'"),
        (ipc(pa.table({"a": [1.0], "b": [2.0], "c": ["x"]})), "column 'c' must hold real numbers"),
        (ipc(pa.table({"a": [1.0], "b": [None], "c": [3.0]})), "row 0: column 'b'"),
        (ipc(pa.table({"a": [1.0], "b": [2.0], "c": [3.0]}))[:100], "is not Arrow IPC"),
    ],
)
def test_what_cannot_be_scored_is_an_error_with_its_place(payload, reason):
    reader = decoder()
    with pytest.raises(InvalidInputError, match=reason):
        reader.join([reader.decode(payload)])


def test_a_season_takes_the_second_of_the_week_from_the_time():
    told = Config(
        input_dim=4, output_dim=4, latent_dim=1, threshold=1.0, feature_names=(*NAMES, "second_of_week"),
        columns={"time": "when"}, calendar={"time_zone": "UTC"},
    )  # fmt: skip
    reader = decoder(told)
    monday = json.dumps(objects(ROWS)[0] | {"when": "2026-11-23T00:01:00"}).encode()
    np.testing.assert_array_equal(reader.join([reader.decode(monday)]), [[*ROWS[0], 60.0]])
    with pytest.raises(InvalidInputError, match="row 0: column 'when': None is no time"):
        reader.join([reader.decode(json.dumps(objects(ROWS)[0]).encode())])
    unclear = reader.decode(json.dumps(objects(ROWS)[0] | {"when": "05/04/2026 00:01"}).encode())
    with pytest.raises(InvalidInputError, match="column 'when': '05/04/2026 00:01' is no time"):
        reader.join([unclear])
    for order, weekday in (("day", 6), ("month", 0)):
        trained = decoder(replace(told, text_format={"date_order": order}))
        assert trained.join([unclear])[0, -1] == weekday * 86_400 + 60


def test_columns_have_to_name_every_feature():
    with pytest.raises(SettingsError, match="--columns lacks the model's feature 'c'"):
        decoder(columns=("a", "b"))


def test_a_model_of_one_nameless_feature_takes_numbers_by_place():
    reader = Decoder(Config(input_dim=1, output_dim=1, latent_dim=1, threshold=1.0), PayloadOptions())
    np.testing.assert_array_equal(
        reader.join([reader.decode(b"[2]"), reader.decode(b"3\n4")]), [[2], [3], [4]]
    )


@pytest.mark.parametrize("payload", ["[[1,-,2]]", "[[1,,2]]", "[[1,NA,2]]", "[[,,]]"])
def test_what_is_not_json_is_refused_where_values_may_lack(payload):
    lacking = decoder(config(state={"missing": {"first_values": [0.0, 0.0, 0.0]}}))
    with pytest.raises(InvalidInputError, match="is not JSON"):
        lacking.decode(payload.encode())
    with pytest.raises(InvalidInputError, match="is not JSON"):
        decoder().decode(payload.encode())


def test_objects_without_any_feature_are_refused_where_values_may_lack():
    lacking = decoder(config(state={"missing": {"first_values": [0.0, 0.0, 0.0]}}))
    for payload, reason in {
        "{}": "^has none of the model's features",
        '{"x": 1}': "^has none of the model's features",
        '[{"a": 1}, {"x": 1}]': "^row 1: has none of the model's features",
    }.items():
        with pytest.raises(InvalidInputError, match=reason):
            lacking.decode(payload.encode())
    (row,) = lacking.decode(b'{"b": 2, "a": null}').values
    np.testing.assert_array_equal(row, [np.nan, 2, np.nan])


def test_arrow_with_offsets_beyond_its_data_is_refused():
    column = pa.array(["x", "y"])
    numbers = pa.array([1.0, 2.0])
    sound = pa.table({"a": numbers, "b": numbers, "c": numbers, "host": column})
    payload = ipc(sound)
    at = payload.index(np.array([0, 1, 2], np.int32).tobytes())
    evil = payload[: at + 8] + np.int32(1 << 30).tobytes() + payload[at + 12 :]
    reader = decoder(id="host")
    assert reader.decode(payload).series == ["x", "y"]
    with pytest.raises(InvalidInputError, match="is not Arrow IPC"):
        reader.decode(evil)
