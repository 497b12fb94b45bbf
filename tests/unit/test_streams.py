from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasentinel.artifact import Artifact, format_config, load_artifact, parse_config, save_artifact
from datasentinel.backend import StateStore, StreamRules
from datasentinel.detector import Detector
from datasentinel.errors import ArtifactError, InvalidInputError, UnsupportedModelError
from datasentinel.estimator import AutoencoderDetector
from datasentinel.export import build_artifact
from datasentinel.gpu import EngineOptions
from datasentinel.stream_snapshot import restore_states, save_states
from datasentinel.streams import Decision, StreamDetector
from datasentinel.training import TrainingSettings, train
from tests.parity.test_context import train_with
from tests.recordings import noisy, oscillations
from tests.unit.training.test_recording import recording


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        _, built = train_with(patch, 100.0, oscillations(3000))
    folder = save_artifact(tmp_path_factory.mktemp("model"), built.onnx, built.config)
    return load_artifact(folder)


@pytest.fixture(scope="module")
def detector(artifact):
    return Detector(artifact, backend="fused")


def test_interleaved_streams_score_as_each_does_alone(detector):
    random = np.random.default_rng(0)
    names = [f"pump-{i}" for i in range(20)]
    recordings = {name: oscillations(60, seed=i) for i, name in enumerate(names)}
    alone = {name: detector.score(rows) for name, rows in recordings.items()}
    order = random.permutation(np.repeat(names, 60)).tolist()
    seen = dict.fromkeys(names, 0)
    rows, expected = [], []
    for name in order:
        rows.append(recordings[name][seen[name]])
        expected.append(alone[name][seen[name]])
        seen[name] += 1
    streams = StreamDetector(detector)
    scores = []
    first = 0
    while first < len(order):
        count = int(random.choice([1, 2, 17, 90, 400]))
        scores.append(streams.update_many(rows[first : first + count], order[first : first + count])[0])
        first += count
    np.testing.assert_allclose(np.concatenate(scores), expected, rtol=2e-4, atol=1e-5)
    assert len(streams) == 20


# A batch of rows of streams by number, or one of them begins anew, or all are written and read again.
_STEPS = st.lists(
    st.one_of(
        st.lists(st.integers(0, 4), min_size=1, max_size=40),
        st.integers(0, 4),
        st.just("restart"),
    ),
    max_size=25,
)


@given(steps=_STEPS)
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_any_interleaving_scores_as_each_stream_does_alone(detector, tmp_path, steps):
    recordings = [oscillations(300, seed=i) for i in range(5)]
    alone = [detector.score(rows) for rows in recordings]
    seen = [0] * 5
    streams = StreamDetector(detector)
    for step in steps:
        if step == "restart":
            streams.save(tmp_path / "states")
            streams = StreamDetector(detector)
            assert streams.restore(tmp_path / "states") == sum(count > 0 for count in seen)
        elif isinstance(step, int):
            assert streams.forget(step) == (seen[step] > 0)
            seen[step] = 0
        else:
            step = [number for number in step if seen[number] + step.count(number) <= 300]  # noqa: PLW2901
            rows, expected, warming = [], [], []
            for number in step:
                rows.append(recordings[number][seen[number]])
                expected.append(alone[number][seen[number]])
                warming.append(seen[number] < 96)
                seen[number] += 1
            scores, warms = streams.update_many(np.array(rows).reshape(-1, 7), step)
            np.testing.assert_allclose(scores, expected, rtol=2e-4, atol=1e-5)
            assert warms.tolist() == warming


def test_rows_are_warming_until_the_beginning_has_faded_and_then_told(detector):
    rows = noisy(oscillations(800, seed=9), 600, 640)
    streams = StreamDetector(detector)
    decisions = [streams.update(row, "a")[1] for row in rows]
    warm_up = detector.artifact.config.warm_up_rows
    assert set(decisions[:warm_up]) == {Decision.WARMING}
    assert Decision.WARMING not in decisions[warm_up:]
    assert Decision.ANOMALY in decisions[600:650]
    assert decisions[warm_up:600].count(Decision.ANOMALY) <= 25
    np.testing.assert_array_equal(
        np.array([decision is Decision.ANOMALY for decision in decisions]), detector.predict(rows)
    )


def test_a_bad_row_leaves_every_stream_as_it_was(detector):
    rows = oscillations(30, seed=2)
    streams, untouched = StreamDetector(detector), StreamDetector(detector)
    for each in (streams, untouched):
        each.update_many(rows[:20], ["a", "b"] * 10)
    bad = rows[20:24].copy()
    bad[2, 3] = np.nan
    with pytest.raises(InvalidInputError, match="row 2, column 3"):
        streams.update_many(bad, ["a", "b", "a", "c"])
    with pytest.raises(InvalidInputError, match="4 rows, but 3"):
        streams.update_many(rows[20:24], ["a", "b", "c"])
    with pytest.raises(InvalidInputError, match="expected 7 values"):
        streams.update(rows[0, :3], "a")
    assert streams.update(rows[25], "a") == untouched.update(rows[25], "a")
    assert len(streams) == 2


def test_the_stream_heard_of_least_recently_is_forgotten_first(detector):
    streams = StreamDetector(detector, max_streams=3)
    row = oscillations(1)[0]
    for name in ("a", "b", "c", "a", "d"):
        streams.update(row, name)
    assert (len(streams), streams.evicted) == (3, 1)
    assert streams.forget("a")
    assert not streams.forget("b")
    assert len(streams) == 2


def test_more_streams_in_a_batch_than_are_kept(detector):
    rows = oscillations(10)
    streams = StreamDetector(detector, max_streams=2)
    scores, _ = streams.update_many(rows, list("abcdefghij"))
    np.testing.assert_allclose(scores, [detector.score(row)[0] for row in rows], rtol=1e-4)
    assert (len(streams), streams.evicted) == (2, 8)


def test_a_snapshot_goes_on_where_the_streams_were(detector, tmp_path):
    rows = oscillations(200, seed=5)
    streams = StreamDetector(detector)
    for name in ("a", "b", 7):
        streams.scan(rows[:150], name)
    streams.save(tmp_path / "states")
    restored = StreamDetector(detector)
    restored.update(rows[0], "b")  # newer than the snapshot
    assert restored.restore(tmp_path / "states") == 2
    for name in ("a", "7"):
        np.testing.assert_array_equal(restored.scan(rows[150:], name)[0], streams.scan(rows[150:], name)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["states"]


def test_reasons_are_of_a_row_in_its_stream(detector):
    recordings = {name: noisy(oscillations(160, seed=i), 150, 160) for i, name in enumerate("ab")}
    expected = {name: detector.explain(rows, 3) for name, rows in recordings.items()}
    streams = StreamDetector(detector)
    for first, end in ((0, 150), (150, 160)):
        rows = np.stack([recordings["a"][first:end], recordings["b"][first:end]], axis=1).reshape(-1, 7)
        ids = ["a", "b"] * (end - first)
        scores, warming, reasons = streams.explain_many(rows, ids, top=3)
        alone = detector.score(recordings["a"])[first:end]
        np.testing.assert_allclose(scores[::2], alone, rtol=2e-4, atol=1e-5)
        assert warming.tolist() == [i < 96 for i in range(first, end) for _ in "ab"]
        for i, name in enumerate("ab"):
            for told, alone in zip(reasons[i::2], expected[name][first:end], strict=True):
                parts = [[reason.contribution for reason in row] for row in (told, alone)]
                np.testing.assert_allclose(*parts, rtol=1e-2, atol=1e-3)
                assert {reason.value for reason in told} <= set(recordings[name].ravel().tolist())
    assert reasons[-1][0].feature == "x0"
    assert reasons[-1][0].expected is not None
    assert streams.explain_many([], [])[2] == []
    with pytest.raises(InvalidInputError, match="top must be at least 1"):
        streams.explain_many(rows, ids, top=0)


def with_gap(artifact, gap_s):
    config = replace(artifact.config, state={**artifact.config.state, "gap_s": gap_s})
    return Detector(replace(artifact, config=config), backend="fused")


def test_a_stream_begins_anew_after_a_gap_between_times(artifact, tmp_path):
    detector = with_gap(artifact, 60)
    rows = oscillations(300, seed=5)
    times = [dt.datetime(2026, 5, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=i) for i in range(300)]
    times[150:] = [time + dt.timedelta(seconds=60) for time in times[150:]]  # 61 s from row to row
    expected = np.concatenate([detector.score(rows[:150]), detector.score(rows[150:])])
    early = np.arange(150) < 96
    streams = StreamDetector(detector)
    scores, warming = streams.scan(rows, "whole", times)
    np.testing.assert_array_equal(scores, expected)
    assert warming.tolist() == [*early, *early]
    texts = [time.isoformat() for time in times]
    scores = [
        streams.update(*asked, timestamp=text)[0]
        for *asked, text in zip(rows, ["a"] * 300, texts, strict=True)
    ]
    np.testing.assert_array_equal(scores, expected)
    # The time of the last row is known after a restart.
    streams.scan(rows[:150], "b", times[:150])
    streams.save(tmp_path / "states")
    restored = StreamDetector(detector)
    restored.restore(tmp_path / "states")
    np.testing.assert_array_equal(restored.scan(rows[150:], "b", times[150:])[0], expected[150:])
    # Where the time of one of the two is not known, there is no gap.
    streams.scan(rows[:150], "c")
    np.testing.assert_array_equal(streams.scan(rows[150:], "c", times[150:])[0], detector.score(rows)[150:])
    just = [time - dt.timedelta(seconds=1 if i >= 150 else 0) for i, time in enumerate(times)]
    np.testing.assert_array_equal(streams.scan(rows, "just", just)[0], detector.score(rows))


def test_what_is_no_time_is_refused(artifact):
    streams = StreamDetector(with_gap(artifact, 60))
    rows = oscillations(3)
    with pytest.raises(InvalidInputError, match="3 rows, but 2 timestamps"):
        streams.scan(rows, "a", [0, 1])
    with pytest.raises(InvalidInputError, match="the timestamp of row 1, 'soon', is not a time"):
        streams.update_many(rows, ["a", "b", "c"], [0, "soon", 1])
    assert len(streams) == 0


@pytest.mark.parametrize(("order", "over"), [("day", False), ("month", True)])
def test_dates_are_read_in_the_order_trained_on(artifact, order, over):
    """A day later is no gap, a month later is."""
    gapped = with_gap(artifact, 40 * 3600)
    config = replace(gapped.artifact.config, text_format={"date_order": order})
    streams = StreamDetector(Detector(replace(gapped.artifact, config=config), backend="fused"))
    rows = oscillations(200, seed=5)
    _, warming = streams.scan(rows, "a", ["01/05/2026"] * 199 + ["02/05/2026"])
    assert warming[-2:].tolist() == [False, over]


def test_the_streams_used_last_are_restored_where_not_all_fit(detector, tmp_path):
    streams = StreamDetector(detector)
    rows = oscillations(3000)
    streams.update_many(rows[:2500], [f"stream {i}" for i in range(2500)])
    streams.update(rows[0], "stream 3")
    streams.save(tmp_path / "states")
    restored = StreamDetector(detector, max_streams=10)
    assert restored.restore(tmp_path / "states") == 10
    kept = ["stream 3", *(f"stream {i}" for i in range(2491, 2500))]
    assert all(restored.forget(name) for name in kept)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.replace(b"0123456789abcdef", b"f" * 16), "another model"),
        (lambda content: content[:-40], "cut off|checksum|not a snapshot"),
        (lambda content: content[:-40] + b"x" + content[-39:], "checksum"),
        (lambda content: b"PK\x03\x04 nothing", "begins otherwise"),
        (lambda content: b"", "begins otherwise"),
        (lambda content: content.split(b"\n")[0] + b"\n[]\n", "not a snapshot"),
        (lambda content: content.split(b"\n")[0] + b"\n" + b"[" * 100_000 + b"\n", "not a snapshot"),
        (lambda content: b"\n".join(content.split(b"\n")[:2]) + b"\n[9000000000000000000]\n", "cut off"),
        (lambda content: b"\n".join(content.split(b"\n")[:2]) + b"\n[-1]\n", "cut off"),
    ],
)
def test_a_damaged_snapshot_or_one_of_another_model_is_refused(detector, tmp_path, damage, message):
    path = tmp_path / "states"
    rules = StreamRules()
    store = StateStore(3, rules, max_streams=10)
    store.insert([b"a", b"b"], rules, np.ones((2, 3), np.float32))
    assert save_states(store, "0123456789abcdef", path) == 2
    restored = StateStore(3, rules, max_streams=10)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match=message):
        restore_states(restored, rules, "0123456789abcdef", path)
    assert len(restored) == 0


def test_a_snapshot_that_cannot_be_written_or_read_is_named(detector, tmp_path):
    streams = StreamDetector(detector)
    with pytest.raises(InvalidInputError, match="absent/states: cannot be written"):
        streams.save(tmp_path / "absent" / "states")
    with pytest.raises(ArtifactError, match="states: cannot be read"):
        streams.restore(tmp_path / "states")


def test_a_row_is_one_row(artifact):
    streams = StreamDetector.load(artifact.directory, backend="fused", max_streams=5)
    assert streams.warm_up_rows == artifact.config.warm_up_rows
    with pytest.raises(InvalidInputError, match=r"row must have shape \[D\], got \(2, 7\)"):
        streams.update(oscillations(2))
    with pytest.raises(InvalidInputError, match="max_streams must be at least 1, got 0"):
        StreamDetector.load(artifact.directory, max_streams=0)


def test_an_id_is_a_text_or_a_number(detector):
    streams = StreamDetector(detector)
    row = oscillations(1)[0]
    for stream in (7, np.int32(7), "7"):
        streams.update(row, stream)
    assert len(streams) == 1
    with pytest.raises(InvalidInputError, match="a text or a whole number"):
        streams.update(row, 7.5)


def test_a_detector_without_memory_has_no_streams():
    rows = recording(500)
    built = build_artifact(train(rows, settings=TrainingSettings(model="subspace")), rows=rows)
    with pytest.raises(UnsupportedModelError, match="no memory"):
        StreamDetector(Detector(Artifact(Path("m"), built.config, built.onnx), backend="fused"))
    assert built.config.format_version == 1


def test_the_artifact_tells_its_state(artifact):
    config = artifact.config
    assert config.format_version == 2
    assert config.state["half_lives_rows"] == [8.0, 32.0, 4.0, 16.0]
    assert config.state_size == 1 + 2 * 7 * 4
    assert config.warm_up_rows == 96
    assert parse_config(format_config(config), where=Path("c")) == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"size": 57', b'"size": 0', "key 'state': 'size'"),
        (b'"warm_up_rows": 96', b'"warm_up": 96', "'warm_up_rows' is missing"),
        (b'"format_version": 2', b'"format_version": 1', "format_version 2"),
        (b'"format_version": 2', b'"format_version": 4', "newer"),
    ],
)
def test_a_broken_state_is_named(artifact, old, new, message):
    raw = format_config(artifact.config)
    assert old in raw
    with pytest.raises(ArtifactError, match=message):
        parse_config(raw.replace(old, new), where=Path("config.json"))


def test_a_state_that_is_not_the_graphs_is_found_at_load(artifact):
    raw = format_config(artifact.config).replace(b'"size": 57', b'"size": 58')
    config = parse_config(raw, where=Path("config.json"))
    with pytest.raises(ArtifactError, match="its size is 58"):
        Detector(Artifact(Path("m"), config, artifact.onnx), backend="fused")


def test_a_snapshot_is_of_one_graph_whether_config_says_which_or_not(artifact, tmp_path):
    other = AutoencoderDetector(model="context").fit(oscillations(2500, seed=4)).artifact_
    silent = [replace(made, config=replace(made.config, model_sha256="")) for made in (artifact, other)]
    ours, theirs = (StreamDetector(Detector(made, backend="fused")) for made in silent)
    ours.update(oscillations(1)[0], "a")
    ours.save(tmp_path / "states")
    assert StreamDetector(Detector(artifact, backend="fused")).restore(tmp_path / "states") == 1
    with pytest.raises(ArtifactError, match="of another model"):
        theirs.restore(tmp_path / "states")


def test_the_estimator_takes_context_where_groups_tell_recordings():
    recordings = np.concatenate([oscillations(700), oscillations(800, seed=1)])
    groups = ["a"] * 700 + ["b"] * 800
    told = AutoencoderDetector(target_fpr=0.05).fit(recordings, groups=groups)
    assert told.artifact_.config.training["model"] == "context"
    assert told.artifact_.config.state
    # Not where nothing tells recordings, rows do not follow each other, or another model's options are given.
    shuffled = np.random.default_rng(0).permutation(recordings)
    for estimator, rows, of in (
        (AutoencoderDetector(target_fpr=0.05), recordings, None),
        (AutoencoderDetector(target_fpr=0.05), shuffled[:200], groups[600:800]),
        (AutoencoderDetector(steps=20, target_fpr=0.05), recordings, groups),
    ):
        assert not estimator.fit(rows, groups=of).artifact_.config.state


def test_the_estimator_scores_each_group_as_a_recording_of_its_own():
    estimator = AutoencoderDetector(model="context").fit(oscillations(1500))
    first, second = oscillations(50, seed=1), oscillations(50, seed=2)
    rows, groups = np.empty((100, 7), np.float32), np.array(["a", "b"] * 50)
    rows[::2], rows[1::2] = first, second
    scores = estimator.score_samples(rows, groups=groups)
    np.testing.assert_allclose(scores[::2], estimator.score_samples(first), rtol=2e-4)
    np.testing.assert_allclose(scores[1::2], estimator.score_samples(second), rtol=2e-4)
    above = scores.astype(np.float64) > estimator.threshold_
    np.testing.assert_array_equal(estimator.predict(rows, groups), np.where(above, -1, 1))
    np.testing.assert_array_equal(estimator.decision_function(rows, groups) < 0, above)
    np.testing.assert_array_equal(estimator.severity(rows, groups) > 1, above)
    p_values = estimator.p_values(rows, groups)
    np.testing.assert_array_equal(p_values, Detector(estimator.artifact_).p_values_of_scores(scores))
    np.testing.assert_allclose(estimator.predict_proba(rows, groups)[:, 0], p_values, rtol=1e-6)


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_the_estimator_takes_series_from_the_column_that_tells_them(kind):
    """By turns in the frame, they are learnt and scored as with groups."""
    names = [f"m{i}" for i in range(7)]
    rows, hosts = np.empty((1600, 7), np.float32), ["a", "b"] * 800
    rows[::2], rows[1::2] = oscillations(800, seed=1), oscillations(800, seed=2)
    columns = {"host": hosts, **dict(zip(names, rows.T, strict=True))}
    module = pytest.importorskip({"arrow": "pyarrow"}.get(kind, kind))
    frame = module.table(columns) if kind == "arrow" else module.DataFrame(columns)
    told = AutoencoderDetector(id="host").fit(frame)
    expected = AutoencoderDetector().fit(rows, groups=hosts)
    assert told.artifact_.config.training["model"] == "context"
    assert told.threshold_ == expected.threshold_
    np.testing.assert_array_equal(told.score_samples(frame), expected.score_samples(rows, groups=hosts))
    with pytest.raises(InvalidInputError, match="1600 rows, but 3 groups"):
        told.predict(frame, groups=["a", "b", "c"])
    if kind == "pandas":  # Which has NaN for numbers that are missing.
        frame["host"] = frame["host"].map({"a": 1.0})
        np.testing.assert_array_equal(told.score_samples(frame), expected.score_samples(rows, groups=hosts))


def test_onnxruntime_binds_no_memory_and_wants_what_comes_after(artifact):
    with pytest.raises(UnsupportedModelError, match="IO binding of a model with memory is not supported"):
        Detector(artifact, backend="onnxruntime", engine=EngineOptions(io_binding="on"))
    model = onnx.load_from_string(artifact.onnx)
    model.graph.output.remove(next(output for output in model.graph.output if output.name == "state_next"))
    forgetful = replace(artifact, onnx=model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="'state' needs an output 'state_next' of the same shape"):
        Detector(forgetful, backend="onnxruntime")
