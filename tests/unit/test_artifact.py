from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from datasentinel.artifact import Config, load_artifact, save_artifact
from datasentinel.errors import ArtifactError, ModelNotFoundError

CONFIG = Config(
    input_dim=2,
    output_dim=2,
    latent_dim=1,
    threshold=0.5,
    name="pump",
    version="3",
    feature_names=("a", "b"),
    score="mean squared error",
    calibration={"method": "quantile", "rows": 7},
    training={"rows": 30, "versions": {"numpy": "2"}},
    extra={"site": ["north", 4], "note": None},
)


def write(directory, config, onnx=b"graph"):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(onnx)
    (directory / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return directory


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def prototype(**changes):
    return {"input_dim": 2, "output_dim": 2, "latent_dim": 1, "threshold": 0.5, **changes}


def test_what_is_saved_is_loaded(tmp_path):
    save_artifact(tmp_path / "new" / "folder", b"graph", CONFIG)
    artifact = load_artifact(str(tmp_path / "new" / "folder"))
    assert artifact.onnx == b"graph"
    assert artifact.directory == tmp_path / "new" / "folder"
    assert replace(artifact.config, model_sha256="") == CONFIG
    assert names(artifact.directory) == ["config.json", "model.onnx"]


def test_unknown_keys_survive_a_rewrite(tmp_path):
    write(tmp_path, prototype(colour="red", nested={"deep": [1, None]}))
    artifact = load_artifact(tmp_path)
    save_artifact(tmp_path, artifact.onnx, artifact.config)
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["colour"] == "red"
    assert document["nested"] == {"deep": [1, None]}


def test_a_prototype_config_of_four_keys_loads(tmp_path):
    config = load_artifact(write(tmp_path, prototype(threshold=1))).config
    assert (config.input_dim, config.output_dim, config.latent_dim, config.threshold) == (2, 2, 1, 1.0)
    assert isinstance(config.threshold, float)
    assert (config.format_version, config.feature_names, config.model_sha256) == (0, (), "")


@pytest.mark.parametrize("key", ["input_dim", "output_dim", "latent_dim", "threshold"])
def test_a_missing_key_is_named(tmp_path, key):
    document = prototype()
    del document[key]
    with pytest.raises(ArtifactError, match=rf"config\.json: required key '{key}' is missing"):
        load_artifact(write(tmp_path, document))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_dim", True),
        ("input_dim", 2.0),
        ("input_dim", "2"),
        ("input_dim", 0),
        ("output_dim", -1),
        ("output_dim", 3),
        ("latent_dim", None),
        ("threshold", False),
        ("threshold", "0.5"),
        ("threshold", float("nan")),
        ("threshold", float("inf")),
        ("threshold", 10**400),
        ("format_version", "1"),
        ("format_version", -1),
        ("format_version", 4),
        ("name", 7),
        ("feature_names", "ab"),
        ("feature_names", ["a", 1]),
        ("feature_names", ["a"]),
        ("offsets", 1.0),
        ("offsets", [1.0]),
        ("offsets", [1.0, "2"]),
        ("state", {"warm_up_rows": 1}),
        ("state", {"size": 0, "warm_up_rows": 1}),
        ("state", {"size": 1, "warm_up_rows": 1, "row_s": 0}),
        ("state", {"size": 1, "warm_up_rows": 1, "missing": {"stale_rows": 1, "first_values": 1}}),
        ("calendar", {"time_zone": 1}),
        ("text_format", "german"),
        ("text_format", {"decimal": "comma"}),
        ("text_format", {"decimal": ",", "thousands": ","}),
        ("text_format", {"decimal": ",", "thousands": 3}),
        ("text_format", {"date_order": "hour"}),
        ("columns", {"time": 1}),
        ("calibration", []),
        ("training", "yesterday"),
        ("model_sha256", 5),
        ("model_sha256", "0" * 64),
    ],
)
def test_a_wrong_value_is_named(tmp_path, key, value):
    with pytest.raises(ArtifactError, match=rf"config\.json: key '{key}'"):
        load_artifact(write(tmp_path, prototype(**{key: value})))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "\udcff", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_named(tmp_path, text):
    write(tmp_path, prototype())
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match=r"config\.json"):
        load_artifact(tmp_path)


def test_a_changed_model_is_noticed(tmp_path):
    save_artifact(tmp_path, b"graph", CONFIG)
    (tmp_path / "model.onnx").write_bytes(b"grapf")
    with pytest.raises(ArtifactError, match=r"model_sha256.*model\.onnx"):
        load_artifact(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "config.json"])
def test_half_an_artifact_names_what_is_missing(tmp_path, name):
    save_artifact(tmp_path, b"graph", CONFIG)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_artifact(tmp_path)


def test_no_artifact(tmp_path):
    (tmp_path / "README.md").write_text("models go here")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "README.md"):
        with pytest.raises(ModelNotFoundError, match=path.name):
            load_artifact(path)


def test_the_newest_version_is_the_greatest_number(tmp_path):
    for version in ("2", "10", "9"):
        save_artifact(tmp_path / "pump" / version, version.encode(), CONFIG)
    (tmp_path / "pump" / "11").mkdir()
    (tmp_path / ".cache").mkdir()
    assert load_artifact(tmp_path / "pump").onnx == b"10"
    assert load_artifact(tmp_path).onnx == b"10"


def test_several_models_are_listed(tmp_path):
    save_artifact(tmp_path / "pump" / "1", b"a", CONFIG)
    save_artifact(tmp_path / "fan" / "1", b"b", CONFIG)
    with pytest.raises(ArtifactError, match="fan, pump"):
        load_artifact(tmp_path)
    assert load_artifact(tmp_path / "fan").onnx == b"b"


def test_a_failed_write_leaves_the_old_artifact(tmp_path):
    save_artifact(tmp_path, b"old", CONFIG)
    for bad in (replace(CONFIG, threshold=float("nan")), replace(CONFIG, extra={"x": object()})):
        with pytest.raises(ArtifactError):
            save_artifact(tmp_path, b"new", bad)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        save_artifact(tmp_path / "file", b"new", CONFIG)
    assert load_artifact(tmp_path).onnx == b"old"
    assert names(tmp_path) == ["config.json", "file", "model.onnx"]


@pytest.mark.parametrize("first", ["with digest", "prototype"])
def test_readers_never_see_a_mixed_pair(tmp_path, first):
    """Readers race a writer; each model says in its bytes which threshold belongs to it."""
    if first == "prototype":
        write(tmp_path, prototype(threshold=0), onnx=b"0")
    else:
        save_artifact(tmp_path, b"0", replace(CONFIG, threshold=0))
    done = threading.Event()
    seen, failures = set(), []

    def read():
        while not done.is_set():
            try:
                artifact = load_artifact(tmp_path)
                seen.add((float(artifact.onnx), artifact.config.threshold))
            except ArtifactError as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(1, 30):
        save_artifact(tmp_path, str(i).encode(), replace(CONFIG, threshold=i))
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert len(seen) > 1
    assert all(model == threshold for model, threshold in seen)
