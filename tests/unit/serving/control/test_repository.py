"""A folder of models changes; what is served follows, and what is broken is said."""

from __future__ import annotations

import asyncio
import shutil
import threading

import pytest

from datasentinel.detector import Detector
from datasentinel.errors import ArtifactError, ModelNotFoundError, NotAllowedError
from datasentinel.serving.control.repository import ModelRepository
from datasentinel.serving.data_plane import DataPlane
from tests.networks import Network, write_artifact

D = 3


def put(folder, threshold=1.0):
    write_artifact(folder, Network.random([D, 2, D]).to_onnx(), input_dim=D, threshold=threshold)


def load(artifact):
    return Detector(artifact, backend="fused")


def on_loop(test):
    asyncio.run(test())


async def controlled(folder):
    """Return where the models of a folder are served, and the repository that they are controlled by."""
    plane = DataPlane()
    repository = ModelRepository(folder, plane, load, control=True)
    await repository.open()
    return plane, repository


def thresholds(plane, name="pump"):
    """Return what is served under a name, by version, the latest last."""
    return {v: plane.served.find(name, v).detector.threshold for v in plane.served.versions(name)}


def test_an_older_version_that_changes_stays_the_older_one(tmp_path):
    async def test():
        for version in (1, 2, 3):
            put(tmp_path / "pump" / str(version), threshold=version)
        plane = DataPlane()
        repository = ModelRepository(tmp_path, plane, load, served_versions=2)
        await repository.open()
        assert thresholds(plane) == {"2": 2.0, "3": 3.0}
        put(tmp_path / "pump" / "2", threshold=20.0)
        await repository.refresh()
        assert list(thresholds(plane).items()) == [("2", 20.0), ("3", 3.0)]
        assert plane.served.find("pump").version == "3"
        assert plane.reloads == {"ok": 1, "failed": 0}

    on_loop(test)


def test_a_version_that_breaks_is_served_as_it_was(tmp_path, caplog):
    async def test():
        put(tmp_path / "pump" / "1")
        put(tmp_path / "fan" / "1")
        plane, repository = await controlled(tmp_path)
        (tmp_path / "pump" / "1" / "config.json").write_text("{")
        await repository.refresh()
        assert thresholds(plane) == {"1": 1.0}
        with pytest.raises(ArtifactError, match=r"config\.json") as caught:
            await repository.load("pump")
        assert str(tmp_path) not in str(caught.value)
        assert [model["state"] for model in repository.index(ready_only=True)] == ["READY", "READY"]
        with pytest.raises(ModelNotFoundError, match="no model 'crane' in the repository"):
            await repository.load("crane")
        shutil.rmtree(tmp_path)
        await repository.refresh()
        assert caplog.records[-1].msg == "repository_unreadable"
        assert thresholds(plane) == {"1": 1.0}

    on_loop(test)


def test_a_model_that_takes_too_long_to_load_is_given_up(tmp_path):
    async def test():
        put(tmp_path)
        is_over = threading.Event()
        repository = ModelRepository(tmp_path, DataPlane(), lambda _: is_over.wait(30), load_timeout_s=0.05)
        with pytest.raises(ArtifactError, match=r"had not loaded after 0\.05 s, and was given up"):
            await repository.open()
        is_over.set()

    on_loop(test)


def test_whatever_loading_raises_is_a_reason(tmp_path):
    async def test():
        put(tmp_path)
        repository = ModelRepository(tmp_path, DataPlane(), lambda _: 1 // 0)
        with pytest.raises(ArtifactError, match="ZeroDivisionError"):
            await repository.open()

    on_loop(test)


def test_what_is_unloaded_comes_back_when_it_is_asked_for_alone(tmp_path):
    async def test():
        put(tmp_path / "pump" / "1")
        put(tmp_path / "fan" / "1")
        plane, repository = await controlled(tmp_path)
        await repository.unload("pump")
        await repository.refresh()
        assert plane.served.versions("pump") == []
        assert {
            "name": "pump",
            "version": "",
            "state": "UNAVAILABLE",
            "reason": "unloaded",
        } in repository.index()
        await repository.load("pump")
        assert plane.served.versions("pump") == ["1"]
        for name in ("pump", "fan"):
            await repository.unload(name)
        with pytest.raises(ModelNotFoundError, match="no model is being served"):
            plane.served.find()
        with pytest.raises(NotAllowedError):
            await ModelRepository(tmp_path, plane, load).load("pump")

    on_loop(test)
