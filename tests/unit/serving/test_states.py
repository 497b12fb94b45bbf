"""A version goes on with the streams of the one before it, by rules of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from datasentinel.artifact import save_artifact
from datasentinel.detector import Detector
from datasentinel.errors import SettingsError
from datasentinel.estimator import AutoencoderDetector
from datasentinel.serving.control.repository import ModelRepository
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.lines.session import LineStream
from datasentinel.serving.settings import Settings
from datasentinel.serving.states import ModelStreams
from tests.recordings import oscillations

WARM_UP_ROWS = 5
STEP_S = 10


@pytest.fixture(scope="module")
def artifact():
    """A model with memory and a short warm-up, in whose streams nothing is carried."""
    made = AutoencoderDetector(model="context").fit(oscillations(2500)).artifact_
    state = {**made.config.state, "warm_up_rows": WARM_UP_ROWS, "gap_s": 1000.0}
    return replace(made, config=replace(made.config, name="m", threshold=1e30, state=state))


@pytest.fixture(scope="module")
def other():
    """An artifact of another graph."""
    return AutoencoderDetector(model="context").fit(oscillations(2500, seed=8)).artifact_


def other_rules(artifact, **changes):
    """The same graph with other rules of its streams."""
    return replace(artifact.config, state={**artifact.config.state, **changes})


def carrying(artifact, first=0.0, stale_rows=5):
    missing = {"first_values": [first] * artifact.config.input_dim, "stale_rows": stale_rows}
    return other_rules(artifact, missing=missing)


class Served:
    """A repository of one model, and lines of the stream "a", a row every `STEP_S`."""

    def __init__(self, root, artifact, config, **settings):
        self.root, self.onnx = root, artifact.onnx
        # What is fed is scored on return.
        self.plane = DataPlane(
            settings=Settings(
                max_inline_us=60e6, stream_snapshot=str(root / "states"), stream_snapshot_interval_s=0.1
            )
        )
        self.repository = ModelRepository(root / "models", self.plane, Detector, **settings)
        self.rows = iter(oscillations(1000, seed=3))
        self.now_s = 1.7e9
        self.put("1", config)

    def put(self, version, config):
        save_artifact(self.root / "models" / version, self.onnx, config)

    @property
    def model(self):
        return self.plane.served.find()

    def open(self):
        self.lines = LineStream(self.plane.inference, self.plane.request_counts("tcp"), max_line_bytes=1000)

    def send(self, count, *, later_s=STEP_S, lacking=()):
        answers = []
        for _ in range(count):
            self.now_s += later_s
            row = next(self.rows).copy()
            row[list(lacking)] = np.nan
            line = f"@a t={self.now_s} {' '.join(map(str, row))}\n"
            answers.append(self.lines.feed(line.encode()).decode().strip())
        return answers


def served(test):
    """Run a test on the event loop of a repository."""

    async def run(made):
        await made.repository.open()
        made.open()
        await test(made)

    return lambda made: asyncio.run(run(made))


def test_a_version_of_the_same_graph_has_a_threshold_of_its_own(artifact, tmp_path):
    @served
    async def test(made):
        assert made.send(7) == ["WARMING"] * WARM_UP_ROWS + ["OK"] * 2
        made.put("2", replace(artifact.config, threshold=-1.0))
        await made.repository.refresh()
        assert made.model.version == "2"
        assert made.send(2) == ["ANOMALY"] * 2  # Its streams are warm.

    test(Served(tmp_path, artifact, artifact.config))


@pytest.mark.parametrize("is_restart", [False, True])
def test_a_version_of_the_same_graph_has_gaps_and_a_warm_up_of_its_own(artifact, tmp_path, is_restart):
    @served
    async def test(made):
        nonlocal config
        assert made.send(7)[-2:] == ["OK", "OK"]
        assert made.send(1, later_s=500) == ["OK"]
        config = other_rules(artifact, warm_up_rows=9, gap_s=100.0)
        if is_restart:
            await made.plane.served.states.save()
            return
        made.put("2", config)
        await made.repository.refresh()
        await go_on(made)

    async def go_on(made):
        assert made.send(3) == ["WARMING", "OK", "OK"]
        assert made.model.streams.store.warming == 0
        assert made.send(1, later_s=500) == ["WARMING"]
        assert made.model.streams.store.warming == 1

    config = artifact.config
    made = Served(tmp_path, artifact, config)
    test(made)
    if is_restart:
        again = Served(tmp_path, artifact, config)
        again.now_s, again.rows = made.now_s, made.rows
        served(go_on)(again)


def test_a_graph_served_before_goes_on_with_the_streams_of_its_snapshot(artifact, other, tmp_path):
    @served
    async def before(made):
        assert made.send(7)[-2:] == ["OK", "OK"]
        await made.plane.served.states.save()

    @served
    async def test(made):
        made.onnx = artifact.onnx
        made.put("2", artifact.config)
        await made.repository.refresh()
        assert made.model.version == "2"  # No stream of the first is judged: there is nothing to wait for.
        assert made.send(1) == ["OK"]

    before(Served(tmp_path / "before", artifact, artifact.config))
    shutil.copytree(tmp_path / "before" / "states", tmp_path / "after" / "states")
    made = Served(tmp_path / "after", other, artifact.config, stream_shadow_s=1000.0)
    made.now_s += 7 * STEP_S
    test(made)


def test_what_was_read_for_a_version_that_is_not_served_is_forgotten(artifact, other, tmp_path):
    @served
    async def test(made):
        states, detector = made.plane.served.states, Detector(artifact)
        made.send(1)
        await states.save()
        made.plane.served.withdraw("m", "1")
        await states.restore("m", detector)
        assert len(states.of("m", detector).store) == 1
        states.keep_only([])
        await states.restore("m", detector)
        made.onnx = other.onnx
        made.put("2", artifact.config)
        await made.repository.refresh()
        assert made.model.version == "2"
        assert len(states.of("m", detector).store) == 0

    test(Served(tmp_path, artifact, artifact.config))


def test_versions_whose_artifacts_differ_in_name_keep_their_streams(artifact, other, tmp_path):
    """All go by the name of the first."""

    @served
    async def test(made):
        assert [(model.name, model.version) for model in made.plane.served.all()] == [("m", "1"), ("m", "2")]
        answers.append(made.send(7))
        await made.plane.served.states.save()

    answers = []
    now_s = 1.7e9
    for _ in range(2):
        made = Served(tmp_path, artifact, artifact.config, served_versions=2)
        made.onnx = other.onnx
        made.put("2", replace(artifact.config, name="n"))
        made.now_s = now_s
        test(made)
        now_s = made.now_s
    assert answers == [["WARMING"] * WARM_UP_ROWS + ["OK"] * 2, ["OK"] * 7]


def test_a_file_of_states_that_is_slow_to_read_keeps_nothing_else_waiting(artifact, tmp_path, caplog):
    made = Served(tmp_path, artifact, artifact.config)
    file = tmp_path / "states" / ModelStreams("m", artifact.sha256, False, None).file_name
    os.mkfifo(file)  # To open it waits for one who writes.

    async def test():
        opening = asyncio.create_task(made.repository.open())
        # The reader has opened it as soon as a writer can.
        async with asyncio.timeout(60):
            while (writer := open_for_writing(file)) is None:
                assert not opening.done()
                await asyncio.sleep(0.01)
        assert not opening.done()
        assert made.plane.served.all() == []
        os.write(writer, b"not what was saved")
        os.close(writer)
        await opening
        made.open()
        assert made.send(1) == ["WARMING"]

    asyncio.run(test())
    (record,) = [record for record in caplog.records if record.msg == "streams_not_restored"]
    assert "it begins otherwise" in str(record.fields["reason"])


def test_states_are_saved_again_and_again_or_the_log_says_why_not(artifact, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"stream_snapshot: .*file: "):
        DataPlane(settings=Settings(stream_snapshot=str(tmp_path / "file")))

    @served
    async def test(made):
        made.send(1)
        states = made.plane.served.states
        folder = tmp_path / "states"
        saving = asyncio.create_task(states.save_for_ever())
        async with asyncio.timeout(60):
            while not list(folder.glob("*.streams")):
                await asyncio.sleep(0.01)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        folder.rename(tmp_path / "elsewhere")  # A thread may still be writing to it.
        await states.save()
        (record,) = [record for record in caplog.records if record.msg == "streams_not_saved"]
        assert "cannot be written" in str(record.fields["reason"])

    test(Served(tmp_path, artifact, artifact.config))


def open_for_writing(fifo):
    """Return a descriptor, or None while nobody reads."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def test_a_version_of_the_same_graph_carries_by_rules_of_its_own(artifact, tmp_path):
    @served
    async def test(made):
        assert made.send(7, lacking=[1])[-2:] == ["OK", "OK"]
        assert made.model.streams.store.stale == 1
        made.put("2", carrying(artifact, first=1.0, stale_rows=20))
        await made.repository.refresh()
        assert made.send(1, lacking=[1]) == ["OK"]
        store = made.model.streams.store
        assert store.stale == 0
        assert made.send(12, lacking=[1]) == ["OK"] * 12
        assert store.stale == 0
        assert made.send(1, lacking=[1]) == ["OK"]  # The 21st without a value.
        assert store.stale == 1
        # Whole rows only: what is kept of a stream is something else.
        made.put("3", artifact.config)
        await made.repository.refresh()
        assert made.send(1, lacking=[1]) == ["ERROR: value 2 is not finite: 'nan'"]
        assert made.send(1) == ["WARMING"]

    test(Served(tmp_path, artifact, carrying(artifact)))


def test_a_shadow_knows_how_long_values_have_been_carried(artifact, other, tmp_path):
    @served
    async def test(made):
        made.send(6)
        made.send(4, lacking=[1])
        made.onnx = other.onnx
        made.put("2", carrying(artifact, stale_rows=9))
        await made.repository.refresh()
        shadow = made.plane.served.shadows["m"]
        store = shadow.new.streams.store
        assert store.stale == 0
        assert set(made.send(5, lacking=[1])) == {"OK"}
        assert (len(store), store.stale) == (1, 0)
        made.send(1, lacking=[1])  # The tenth.
        assert store.stale == 1
        assert shadow.is_warm
        await made.repository.refresh()
        made.plane.served.serve("m", "2", shadow.new.detector)
        assert made.model.version == "2"
        assert made.send(1, lacking=[1]) == ["OK"]
        assert (store.stale, store.stale_rows) == (1, 1)

    test(Served(tmp_path, artifact, carrying(artifact), stream_shadow_s=1000.0))


def test_a_version_takes_over_the_streams_of_a_warm_shadow_of_the_same_graph(artifact, other, tmp_path):
    @served
    async def test(made):
        made.send(6)
        made.onnx = other.onnx
        made.put("2", artifact.config)
        await made.repository.refresh()
        assert made.send(6) == ["OK"] * 6
        assert made.plane.served.shadows["m"].is_warm
        made.put("3", replace(artifact.config, threshold=-1.0))
        await made.repository.refresh()
        assert (made.model.version, made.plane.served.shadows) == ("3", {})
        assert made.send(1) == ["ANOMALY"]
        assert len(list(made.plane.served.states)) == 1

    test(Served(tmp_path, artifact, artifact.config, stream_shadow_s=1000.0))


@pytest.mark.parametrize("is_seasonal", [False, True])
def test_a_version_that_has_a_season_where_the_other_has_none_has_no_shadow(
    artifact, other, tmp_path, is_seasonal
):
    """The last value is the second of the week to one of them, and one of its columns to the other."""
    seasonal = replace(artifact.config, calendar={"time_zone": "UTC"})
    configs = [seasonal, artifact.config] if is_seasonal else [artifact.config, seasonal]

    @served
    async def test(made):
        assert made.send(7)[-2:] == ["OK", "OK"]
        made.onnx = other.onnx
        made.put("2", configs[1])
        await made.repository.refresh()
        assert made.plane.served.shadows == {}
        assert made.model.version == "2"

    test(Served(tmp_path, artifact, configs[0], stream_shadow_s=1000.0))
