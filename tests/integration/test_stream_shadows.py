"""A new version of a model with memory warms up beside the old one, which answers until then."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from dataclasses import replace

import grpc
import numpy as np
import pytest

from datasentinel.artifact import load_artifact, save_artifact
from datasentinel.detector import Detector
from datasentinel.oip import grpc_predict_v2_pb2 as oip
from datasentinel.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from datasentinel.serving.control.repository import ModelRepository
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.lines.session import LineStream
from datasentinel.serving.settings import Settings
from datasentinel.serving.shadows import Shadow
from tests.recordings import oscillations

TIMEOUT_S = 20
D = 7
WARM_UP_ROWS = 96
CLOSE = {"rtol": 2e-4, "atol": 1e-5}
WATCHED = ("--watch", "--watch-interval-s", "0.05")


@pytest.fixture(scope="module")
def old(memory_artifact):
    return Detector(load_artifact(memory_artifact), backend="fused")


@pytest.fixture(scope="module")
def new(other_memory_artifact):
    return Detector(load_artifact(other_memory_artifact), backend="fused")


@pytest.fixture(scope="module")
def recordings():
    return {name: oscillations(400, seed=i) for i, name in enumerate(("pump-7", "pump-8", "idle"))}


def put(detector, folder):
    save_artifact(folder, detector.artifact.onnx, detector.artifact.config)


def infer(server, stream, rows, version=""):
    """Return scores, which rows are warming, and the version that answered."""
    request = oip.ModelInferRequest(
        model_name="memory", model_version=version, raw_input_contents=[rows.tobytes()]
    )
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.parameters["sequence_id"].string_param = stream
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        reply = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    scores, _, warming = reply.raw_output_contents
    return np.frombuffer(scores, np.float32), np.frombuffer(warming, bool), reply.model_version


def index(server):
    return {
        (entry["version"], entry["state"]): entry.get("reason", "")
        for entry in json.loads(server.fetch("/v2/repository/index", b""))
    }


def sample(server, metric):
    return [found.value for found in server.samples() if found.name == metric]


def feed(stream, rows):
    for row in rows:  # One is never more than a turn takes.
        stream.feed(line(row))


def line(row):
    return b" ".join(str(value).encode() for value in row) + b"\n"


def test_the_old_version_answers_until_the_new_one_is_warm(start_server, tmp_path, old, new, recordings):
    root = tmp_path / "models"
    put(old, root / "1")
    expected = {name: old.score(rows) for name, rows in recordings.items()}
    streams = ("pump-7", "pump-8")
    with start_server(*WATCHED, artifact=root) as server, server.connect() as connection:

        def ask_lines(rows):
            connection.sendall(b"".join(map(line, rows)))
            return [replies.readline().decode().strip() for _ in rows]

        def send(first, last, expected, version, begin=0):
            for name in streams:
                scores, warming, answered_by = infer(server, name, recordings[name][first:last])
                np.testing.assert_allclose(scores, expected[name][first - begin : last - begin], **CLOSE)
                assert not warming.any() or first == 0
                assert answered_by == version

        replies = connection.makefile("rb")
        send(0, 120, expected, "1")
        assert ask_lines(recordings["pump-7"][:120])[:97].count("WARMING") == WARM_UP_ROWS
        put(new, root / "2")
        server.wait_for_log("event=model_warms_in_shadow")
        assert ("1", "READY") in index(server)
        assert "0 of 3 streams are warm" in index(server)["2", "LOADING"]
        send(120, 216, expected, "1")
        assert "WARMING" not in ask_lines(recordings["pump-7"][120:216])
        server.process.send_signal(signal.SIGHUP)  # Nothing has changed: what is warm stays warm.
        assert sample(server, "datasentinel_streams") == sample(server, "datasentinel_shadow_streams") == [3]
        assert sample(server, "datasentinel_shadow_streams_warm") == [0]
        assert sample(server, "datasentinel_shadow_memory_bytes")[0] > 3 * 4 * new.scorer.state_dim
        with pytest.raises(grpc.RpcError, match="version '2'"):
            infer(server, "pump-7", recordings["pump-7"][:1], "2")
        send(216, 217, expected, "1")
        assert "event=model_leaves_shadow" not in server.log()
        ask_lines(recordings["pump-7"][216:217])
        server.wait_for_log("event=model_withdrawn")
        send(217, 300, {name: new.score(recordings[name][120:]) for name in streams}, "2", begin=120)
        assert "WARMING" not in ask_lines(recordings["pump-7"][217:230])
        assert index(server) == {("2", "READY"): ""}
        assert sample(server, "datasentinel_shadow_streams") == []
        assert sample(server, "datasentinel_streams") == [3]
        assert server.stop() == 0
        assert "level=error" not in server.log()


def test_it_takes_over_when_its_time_is_over(start_server, tmp_path, old, new, recordings):
    root = tmp_path / "models"
    put(old, root / "1")
    with start_server(*WATCHED, "--no-tcp", "--stream-shadow-s", "1.5", artifact=root) as server:
        infer(server, "idle", recordings["idle"][:120])
        put(new, root / "2")
        server.wait_for_log("event=model_withdrawn")
        assert "event=model_warms_in_shadow" in server.log()
        assert "warm_streams=0 judged_streams=1" in server.log()
        scores, warming, version = infer(server, "idle", recordings["idle"][120:130])
        np.testing.assert_allclose(scores, new.score(recordings["idle"][120:130]), **CLOSE)
        assert warming.all()
        assert version == "2"


@pytest.mark.parametrize("flags", [("--stream-shadow-s", "0"), ()])
def test_where_there_is_nothing_to_wait_for_it_takes_over_at_once(
    start_server, tmp_path, old, new, recordings, flags
):
    root = tmp_path / "models"
    put(old, root / "1")
    with start_server(*WATCHED, "--no-tcp", *flags, artifact=root) as server:
        # With a shadow: no stream is judged yet.
        infer(server, "idle", recordings["idle"][: 120 if flags else 10])
        put(new, root / "2")
        server.wait_for_log("event=model_withdrawn")
        assert "event=model_warms_in_shadow" not in server.log()


def test_a_version_that_was_taken_back_leaves_the_old_one(start_server, tmp_path, old, new, recordings):
    root = tmp_path / "models"
    put(old, root / "1")
    expected = old.score(recordings["idle"])
    with start_server(*WATCHED, "--no-tcp", artifact=root) as server:
        infer(server, "idle", recordings["idle"][:120])
        put(new, root / "2")
        server.wait_for_log("event=model_warms_in_shadow")
        shutil.rmtree(root / "2")
        server.wait_for_log("event=shadow_dropped")
        scores, _, version = infer(server, "idle", recordings["idle"][120:300])
        np.testing.assert_allclose(scores, expected[120:300], **CLOSE)
        assert version == "1"
        assert index(server) == {("1", "READY"): ""}


@pytest.mark.parametrize("end", ["it fails", "it is unloaded", "it comes with another threshold"])
def test_a_shadow_ends_before_it_is_warm(tmp_path, old, new, recordings, monkeypatch, end):
    async def run():
        root = tmp_path / "models"
        put(old, root / "1")
        plane = DataPlane(settings=Settings(max_inline_us=60e6))  # What is fed is scored on return.
        repository = ModelRepository(root, plane, Detector, control=True, stream_shadow_s=1000.0)
        await repository.open()
        name = plane.served.default_name
        stream = LineStream(plane.inference, plane.request_counts("tcp"), max_line_bytes=1000)
        feed(stream, recordings["idle"][:120])
        put(new, root / "2")
        await repository.refresh()
        feed(stream, recordings["idle"][120:150])
        assert [entry["state"] for entry in repository.index()] == ["READY", "LOADING"]
        assert len(plane.served.shadows[name].new.streams.store) == 1
        if end == "it fails":
            monkeypatch.setattr(Shadow, "failure", "the device fell off the bus")
            looking = asyncio.create_task(repository.end_shadows())
            while plane.reloads["failed"] == 0:
                await asyncio.sleep(0.01)
            looking.cancel()
            states = {entry["version"]: entry["state"] for entry in repository.index()}
            assert states == {"1": "READY", "2": "UNAVAILABLE"}
            assert "fell off the bus" in repository.index()[1]["reason"]
            assert plane.served.find().version == "1"
        elif end == "it is unloaded":
            await repository.unload(name)
            assert [entry["reason"] for entry in repository.index()] == ["unloaded"]
        else:
            artifact = new.artifact
            save_artifact(root / "3", artifact.onnx, replace(artifact.config, threshold=7.0))
            await repository.refresh()
            shadow = plane.served.shadows[name]
            assert (shadow.new.version, shadow.new.detector.threshold) == ("3", 7.0)
            feed(stream, recordings["idle"][150:217])
            assert shadow.is_due  # The rows that version 2 has seen count.
            return
        assert plane.served.shadows == {}

    asyncio.run(run())
