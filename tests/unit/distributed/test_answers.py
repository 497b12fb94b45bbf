from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from datasentinel.artifact import load_artifact
from datasentinel.detector import Detector
from datasentinel.distributed.brokers.base import Message
from datasentinel.distributed.stream.answers import Answerer, identity_of
from datasentinel.distributed.stream.payloads import PayloadOptions
from datasentinel.errors import SettingsError, UnsupportedModelError
from datasentinel.serving.data_plane import DataPlane
from datasentinel.streams import StreamDetector
from tests.networks import Network, write_artifact
from tests.parity.test_context import train_with
from tests.recordings import oscillations

D = 4
NETWORK = Network.random([D, 3, 2, 3, D])
ROWS = np.random.default_rng(0).normal(0, 2, (30, D)).astype(np.float32)


def message(payload: object, key: str = "k", position: str = "s/1") -> Message:
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Message(content, key, position, {}, False, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    scores = np.sort(NETWORK.reference(ROWS)[0]).tolist()
    table = {"rows": 30, "score_table": {"scores": scores, "greater": list(range(30))[::-1]}}
    onnx = NETWORK.to_onnx(with_contributions=True)
    write_artifact(folder, onnx, input_dim=D, threshold=scores[20], calibration=table)
    return DataPlane(Detector(load_artifact(folder), backend="fused")).served.find()


@pytest.fixture(scope="module")
def memory_detector():
    with pytest.MonkeyPatch.context() as patch:
        return Detector(train_with(patch, 100.0, oscillations(3000))[1], backend="fused")


def results_of(answers) -> list[dict[str, object]]:
    return [json.loads(record.payload) for record in answers.results]


def test_single_rows_and_batches_are_told_apart_and_scored_alike(model):
    expected = NETWORK.reference(ROWS)[0]
    messages = [message(ROWS[0].tolist()), message(ROWS[1:9].tolist()), message(ROWS[9].tolist())]
    answers = Answerer(PayloadOptions(), num_reasons=1).answer(model, messages)
    first, batch, last = results_of(answers)
    scores = [first["score"], *batch["score"], last["score"]]
    np.testing.assert_allclose(scores, expected[:10], rtol=1e-4)
    threshold = model.detector.threshold
    assert [first["anomaly"], *batch["anomaly"], last["anomaly"]] == [score > threshold for score in scores]
    assert first["p_value"] == pytest.approx(model.detector.p_values(ROWS[:1])[0])
    assert len(batch["reasons"]) == 8
    assert first["reasons"][0]["feature"].startswith("f")
    assert (answers.rows, answers.anomalies) == (10, sum(np.array(scores) > threshold))


def test_one_bad_message_among_many_is_the_only_dead_letter(model):
    messages = [message(row.tolist(), position=f"s/{number}") for number, row in enumerate(ROWS)]
    messages[11] = message(b"[1, 2, NaN, 4]", position="s/11")
    answers = Answerer(PayloadOptions()).answer(model, messages)
    assert [result["position"] for result in results_of(answers)] == [f"s/{n}" for n in range(30) if n != 11]
    (letter,) = answers.dead_letters
    assert letter.payload == b"[1, 2, NaN, 4]"
    assert letter.headers["reason"] == "column 'f2': nan is not finite"
    assert letter.headers["source-position"] == "s/11"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"time": 10**400}, "is not a time"),
        ({"time": {"a": 1}}, "is not a time"),
        ({"time": "9999-12-31T23:59:59-23:59"}, ""),
        ({"id": "\ud800"}, "an id is not Unicode text"),
        ({"time": "\ud800"}, "is not a time"),
    ],
    ids=str,
)
def test_no_time_and_no_id_stops_the_others(memory_detector, row, reason):
    model = DataPlane(memory_detector).served.find()
    features = dict(zip(_names(memory_detector), oscillations(1)[0].tolist(), strict=True))
    answerer = Answerer(PayloadOptions(time="time", id="id"))
    good = {**features, "time": 5, "id": "a"}
    answers = answerer.answer(model, [message(good), message(good | row), message(good)])
    assert len(answers.results) + len(answers.dead_letters) == 3
    assert len(answers.results) >= 2
    for record in (*answers.results, *answers.dead_letters):
        record.key.encode()
        "".join(record.headers.values()).encode()
    assert all(reason in letter.headers["reason"] for letter in answers.dead_letters)
    assert bool(answers.dead_letters) == bool(reason)


def test_a_fault_of_ours_in_one_message_becomes_its_dead_letter(model, monkeypatch):
    score = Detector.score

    def fail(detector, values):
        if np.any(values == 1e6):
            raise RuntimeError("unforeseen")
        return score(detector, values)

    monkeypatch.setattr(Detector, "score", fail)
    rows = [[1.0] * D, [1e6] * D, [2.0] * D]
    answers = Answerer(PayloadOptions()).answer(model, [message(row) for row in rows])
    assert len(answers.results) == 2
    assert "unforeseen" in answers.dead_letters[0].headers["reason"]


def test_a_model_with_memory_scores_each_series_in_its_own_past(memory_detector):
    model = DataPlane(memory_detector).served.find()
    recordings = {name: oscillations(150, seed=seed) for seed, name in enumerate("ab")}
    answerer = Answerer(PayloadOptions())
    told: dict[str, list[dict[str, object]]] = {"a": [], "b": []}
    for first in range(0, 150, 10):
        rows = range(first, first + 10)
        messages = [message(recordings[name][row].tolist(), key=name) for row in rows for name in "ab"]
        for result in results_of(answerer.answer(model, messages)):
            told[result["key"]].append(result)
    for name, results in told.items():
        alone = memory_detector.score(recordings[name])
        np.testing.assert_allclose([result["score"] for result in results], alone, rtol=2e-4, atol=1e-5)
        assert [result["warming"] for result in results] == [row < 96 for row in range(150)]
        assert not any(result["anomaly"] for result in results[:96])


def test_a_gap_in_the_times_of_a_series_begins_it_anew(memory_detector):
    rows = oscillations(200)
    artifact = memory_detector.artifact
    state = {**artifact.config.state, "gap_s": 60.0}
    detector = Detector(replace(artifact, config=replace(artifact.config, state=state)), backend="fused")
    assert artifact.config.warm_up_rows == 96
    streams = StreamDetector(detector)
    times = [float(second + (3600 if second >= 150 else 0)) for second in range(200)]
    expected, warming = streams.update_many(rows, ["a"] * 200, times)
    assert warming.tolist() == [*[True] * 96, *[False] * 54, *[True] * 50]

    model = DataPlane(detector).served.find()
    answerer = Answerer(PayloadOptions(format="csv", columns=(*_names(memory_detector), "time"), time="time"))
    messages = [
        message(",".join(map(str, [*row.tolist(), time])).encode(), key="a")
        for row, time in zip(rows, times, strict=True)
    ]
    told = [
        result
        for n in range(0, 200, 50)
        for result in results_of(answerer.answer(model, messages[n : n + 50]))
    ]
    np.testing.assert_allclose([result["score"] for result in told], expected, rtol=2e-4, atol=1e-5)
    assert [result["warming"] for result in told] == warming.tolist()
    (letter,) = answerer.answer(model, [message(messages[0].payload[:-3] + b"soon", key="a")]).dead_letters
    assert "is not a time" in letter.headers["reason"]


def test_reasons_are_those_of_the_row_in_its_series(memory_detector):
    rows = oscillations(120)
    rows[110, 1] += 40
    expected = StreamDetector(memory_detector).explain_many(rows, ["a"] * 120, top=1)[2]
    model = DataPlane(memory_detector).served.find()
    answers = Answerer(PayloadOptions(), num_reasons=1).answer(model, [message(rows.tolist(), key="a")])
    (told,) = results_of(answers)
    assert [row[0]["feature"] for row in told["reasons"]] == [row[0].feature for row in expected]
    assert told["reasons"][110][0]["feature"] == _names(memory_detector)[1]


def test_what_warms_up_in_the_shadow_of_a_model_sees_its_rows(memory_detector):
    rows = oscillations(120)
    model = DataPlane(memory_detector).served.find()
    shadow = DataPlane(memory_detector).served.find()
    Answerer(PayloadOptions()).answer(model, [message(rows.tolist(), key="a")], shadow)
    assert model.streams is not None
    assert shadow.streams is not None
    assert shadow.streams.store is not model.streams.store
    both = [store.copy(0, 10) for store in (model.streams.store, shadow.streams.store)]
    assert both[0][1] == both[1][1] == [b"a"]
    np.testing.assert_array_equal(both[0][3], both[1][3])


@pytest.mark.parametrize("num_reasons", [0, 1])
def test_what_warms_up_knows_what_is_carried_and_for_how_long(memory_detector, num_reasons):
    artifact = memory_detector.artifact
    missing = {"first_values": [0.0] * memory_detector.input_dim, "stale_rows": 3}
    config = replace(artifact.config, state={**artifact.config.state, "missing": missing})
    detector = Detector(replace(artifact, config=config), backend="fused")
    model, shadow = (DataPlane(detector).served.find() for _ in range(2))
    rows = oscillations(6).tolist()
    for row in rows[2:]:
        row[1] = None
    answerer = Answerer(PayloadOptions(), num_reasons)
    answerer.answer(model, [message(rows[:4], key="a")])
    answerer.answer(model, [message(rows[4:], key="a")], shadow)
    known, followed = (streams.store.copy(0, 10)[3][0, -14:] for streams in (model.streams, shadow.streams))
    np.testing.assert_array_equal(followed, known)
    assert known[1] == np.float32(rows[1][1])
    assert known[8] == 4
    assert shadow.streams.store.stale == 1


def _names(detector):
    names = detector.feature_names
    return names or tuple(f"x{column}" for column in range(detector.input_dim))


def test_what_a_model_does_not_offer_is_refused_at_once(model, tmp_path):
    write_artifact(tmp_path, NETWORK.to_onnx(), input_dim=D, threshold=1.0)
    mute = DataPlane(Detector(load_artifact(tmp_path), backend="fused")).served.find()
    with pytest.raises(UnsupportedModelError, match="leave out --explain"):
        Answerer(PayloadOptions(), num_reasons=1).prepare(mute)
    with pytest.raises(SettingsError, match="--columns lacks"):
        Answerer(PayloadOptions(columns=("f0",))).prepare(model)


def test_an_identity_is_that_of_the_message_its_place_or_its_content():
    numbered = message(b"1")
    assert identity_of(numbered._replace(headers={"id": "mine"})) == "mine"
    assert identity_of(numbered) == "s/1"
    loose = numbered._replace(position="")
    assert identity_of(loose) == identity_of(replace_payload(loose, b"1"))
    assert (
        len(
            {
                identity_of(loose),
                identity_of(loose._replace(key="x")),
                identity_of(replace_payload(loose, b"2")),
            }
        )
        == 3
    )


def replace_payload(told: Message, payload: bytes) -> Message:
    return told._replace(payload=payload)
