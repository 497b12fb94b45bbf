"""The model artifact: `model.onnx` and `config.json` in one directory.

The artifact is the only thing that training and serving share. This module reads, checks and writes it;
it never opens the ONNX graph.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeAlias

from datasentinel.errors import ArtifactError, ModelNotFoundError

MODEL_FILE = "model.onnx"
CONFIG_FILE = "config.json"
FORMAT_VERSION = 2
# The first that has `state`; files without it say 1, so that older readers take them.
_FIRST_WITH_STATE = 2

# More columns than any detector has; what is allocated for each of them stays within a few MiB a row.
MAX_DIMENSION = 1 << 20
# Names are in every reply and label.
_MAX_NAME_CHARACTERS = 256

# A protobuf message, which an ONNX file is, ends at 2 GiB.
_MAX_BYTES = {MODEL_FILE: 2**31 - 1, CONFIG_FILE: 16 << 20}

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

# A reader that meets a writer half-way sees a pair that does not match, but not for long: a pair that stays
# the same for several looks is broken. The number of all looks is limited, too.
_LOOKS_AT_SAME_PAIR = 5
_LOOKS = 500
_LOOK_AGAIN_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `config.json` says.

    Attributes
    ----------
    input_dim, output_dim, latent_dim : int
        Widths of the network. `output_dim` equals `input_dim`: the model reconstructs its input.
    threshold : float
        A row is an anomaly iff its score is greater than this.
    format_version : int
        Version of this file's layout; 0 for a file that does not say, as the prototype wrote.
    name, version : str
        The model's name and version; empty where the file does not say.
    feature_names : tuple of str
        One name a column, or empty.
    offsets : tuple of float
        What the graph subtracts from each column before anything else, or empty: float32 numbers, so that the
        difference is exact for values between half and twice the offset.
    columns : mapping
        The other columns of the table that it was trained on, by name: `time`, `id`, `label` and `ignored`, a
        list of all that are neither these nor features. Empty where there are none.
    score : str
        The definition of the score in words.
    calibration : mapping
        How the threshold was found.
    training : mapping
        What the model was trained on and with.
    state : mapping
        For a model with memory: the `size` of a stream's state, its `layout`, and `warm_up_rows`. Empty for
        any other.
    model_sha256 : str
        Digest of `model.onnx` in hexadecimal; empty where the file does not say.
    extra : mapping
        Keys that this version does not know; they are written back unchanged.
    """

    input_dim: int
    output_dim: int
    latent_dim: int
    threshold: float
    format_version: int = 1
    name: str = ""
    version: str = ""
    feature_names: tuple[str, ...] = ()
    offsets: tuple[float, ...] = ()
    columns: Mapping[str, Json] = field(default_factory=dict)
    score: str = ""
    calibration: Mapping[str, Json] = field(default_factory=dict)
    training: Mapping[str, Json] = field(default_factory=dict)
    state: Mapping[str, Json] = field(default_factory=dict)
    model_sha256: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def carried_columns(self) -> tuple[str, ...]:
        """Names of the time and the id column, where there are such."""
        return tuple(name for key in ("time", "id") if isinstance(name := self.columns.get(key), str))

    @property
    def other_columns(self) -> frozenset[str]:
        """Names of all columns that the model knows to be no features."""
        ignored = self.columns.get("ignored", [])
        names = [*(ignored if isinstance(ignored, list) else []), self.columns.get("label")]
        return frozenset(name for name in (*names, *self.carried_columns) if isinstance(name, str))

    @property
    def state_size(self) -> int:
        """Number of values in a stream's state, S; 0 for a model without memory."""
        return _integer(self.state["size"], 1) if self.state else 0

    @property
    def warm_up_rows(self) -> int:
        """Number of rows after which a stream's beginning has faded; its rows until then are no alarms."""
        return _integer(self.state["warm_up_rows"], 0) if self.state else 0


@dataclass(frozen=True)
class Artifact:
    """A loaded and checked artifact.

    Attributes
    ----------
    directory : Path
        The directory that holds the two files.
    config : Config
        The checked configuration.
    onnx : bytes
        The content of `model.onnx`.
    """

    directory: Path
    config: Config
    onnx: bytes


def load_artifact(path: str | os.PathLike[str], *, within: str | os.PathLike[str] | None = None) -> Artifact:
    """Load the artifact at `path`.

    Parameters
    ----------
    path : path-like
        A directory with `model.onnx` and `config.json`, one with numbered versions of a model (the newest
        is taken), or one with a single `<name>/<version>/`.
    within : path-like, optional
        The folder that the files have to lie in, once symbolic links are followed.

    Raises
    ------
    ModelNotFoundError
        There is no artifact.
    ArtifactError
        The artifact is broken, a file is too large or outside of `within`, or `path` holds several models.
    """
    directory = resolve_artifact(path)
    if str(directory) != printable(str(directory)):
        raise ArtifactError(f"{printable(str(directory))}: the name of this folder is not UTF-8; rename it")
    if within is not None:
        _require_within(directory, Path(within))
    seen: tuple[bytes, str] | None = None
    unchanged = 0
    for _ in range(_LOOKS):
        raw = _read(directory / CONFIG_FILE)
        onnx = _read(directory / MODEL_FILE)
        digest = hashlib.sha256(onnx).hexdigest()
        if _read(directory / CONFIG_FILE) == raw:
            config = parse_config(raw, where=directory / CONFIG_FILE)
            if config.model_sha256 in ("", digest):
                return Artifact(directory, config, onnx)
        unchanged = unchanged + 1 if seen == (raw, digest) else 1
        if unchanged == _LOOKS_AT_SAME_PAIR:
            break
        seen = raw, digest
        time.sleep(_LOOK_AGAIN_S)
    raise ArtifactError(
        f"{directory / CONFIG_FILE}: key 'model_sha256' does not match {MODEL_FILE} beside it: "
        "the two files are not from the same training run; export the model again"
    )


def save_artifact(directory: str | os.PathLike[str], onnx: bytes, config: Config) -> Path:
    """Write an artifact, replacing one that is already there.

    Both files are written under temporary names, flushed to disk and renamed. `config.json`, which carries
    the digest of the new `model.onnx`, is renamed first: whoever reads in between sees a digest that does
    not match, never a mixed pair that looks sound.

    Parameters
    ----------
    directory : path-like
        Made if it does not exist.
    onnx : bytes
        The ONNX file.
    config : Config
        Its `model_sha256` is filled in here.

    Returns
    -------
    Path
        `directory`.
    """
    directory = Path(directory)
    config = replace(config, model_sha256=hashlib.sha256(onnx).hexdigest())
    raw = format_config(config)
    parse_config(raw, where=directory / CONFIG_FILE)
    temporary: dict[str, Path] = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in ((CONFIG_FILE, raw), (MODEL_FILE, onnx)):
            temporary[name] = _write_temporary(directory, name, content)
        for name, source in temporary.items():
            source.replace(directory / name)
        _sync_directory(directory)
    except OSError as error:
        raise ArtifactError(f"{directory}: cannot write the artifact: {error.strerror or error}") from error
    finally:
        for source in temporary.values():
            source.unlink(missing_ok=True)
    return directory


def save_config(directory: str | os.PathLike[str], config: Config) -> None:
    """Replace the `config.json` of an artifact, leaving its `model.onnx` alone.

    Raises
    ------
    ArtifactError
        The configuration is not sound, or the file cannot be written.
    """
    directory = Path(directory)
    raw = format_config(config)
    parse_config(raw, where=directory / CONFIG_FILE)
    try:
        _write_temporary(directory, CONFIG_FILE, raw).replace(directory / CONFIG_FILE)
        _sync_directory(directory)
    except OSError as error:
        raise ArtifactError(
            f"{directory / CONFIG_FILE}: cannot be written: {error.strerror or error}"
        ) from error


def resolve_artifact(path: str | os.PathLike[str]) -> Path:
    """Find the directory that holds `model.onnx` and `config.json`; see `load_artifact`."""
    path = Path(path)
    _require_directory(path)
    if _is_artifact(path):
        return path
    newest = newest_version(path)
    if newest:
        return path / str(newest)
    models = [child for child in _subdirectories(path) if _is_artifact(child) or newest_version(child)]
    if not models:
        raise ModelNotFoundError(f"{path}: no model here ({MODEL_FILE} and {CONFIG_FILE})")
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise ArtifactError(f"{path}: holds several models, name one of them: {names}")
    return resolve_artifact(models[0])


def find_artifacts(path: str | os.PathLike[str]) -> dict[str, list[Path]]:
    """Find all artifacts in a folder.

    Parameters
    ----------
    path : path-like
        An artifact, numbered versions of one model, or folders `<name>/` or `<name>/<version>/` of several.

    Returns
    -------
    dict of str to list of Path
        By the name of the model's folder, sorted: its artifacts, the greatest version last. The name is empty
        where `path` is one model itself.

    Raises
    ------
    ModelNotFoundError
        There is no artifact.
    """
    path = Path(path)
    _require_directory(path)
    if _is_artifact(path):
        return {"": [path]}
    if versions := _versions(path):
        return {"": versions}
    models = {
        child.name: [child] if _is_artifact(child) else _versions(child) for child in _subdirectories(path)
    }
    models = {name: versions for name, versions in models.items() if versions}
    if not models:
        raise ModelNotFoundError(f"{path}: no model here ({MODEL_FILE} and {CONFIG_FILE})")
    return models


def newest_version(directory: Path) -> int:
    """Return the greatest number N for which `directory/N` is an artifact, or 0."""
    versions = _versions(directory) if directory.is_dir() else []
    return int(versions[-1].name) if versions else 0


def printable(name: str) -> str:
    """Return the name of a file with what is not UTF-8 in it written as escapes, fit for any message."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_version(name: str) -> bool:
    """Whether a folder of this name holds a version of the model that its parent is."""
    # "07" and "7" would be the same number, but only the plain spelling leads back to the directory.
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def parse_config(raw: bytes, *, where: Path) -> Config:
    """Parse and check the bytes of a `config.json`.

    Parameters
    ----------
    raw : bytes
        The file's content.
    where : Path
        The file's name, for error messages.

    Raises
    ------
    ArtifactError
        The text is not JSON, a required key is missing or a value is wrong.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{where}: expected a JSON object, got {_kind(document)}")
    for key in ("input_dim", "output_dim", "latent_dim", "threshold"):
        if key not in document:
            raise ArtifactError(f"{where}: required key '{key}' is missing")
    known = {f.name for f in fields(Config)} - {"extra"}
    values: dict[str, object] = {"format_version": 0}
    for key in known & document.keys():
        try:
            values[key] = _CHECKS[key](document[key])
        except (TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(f"{where}: key '{key}': {error}") from None
    values["extra"] = {key: value for key, value in document.items() if key not in known}
    config = Config(**values)  # type: ignore[arg-type]  # every value was checked by _CHECKS
    if config.format_version > FORMAT_VERSION:
        raise ArtifactError(
            f"{where}: key 'format_version': {config.format_version} is newer than {FORMAT_VERSION}, the "
            "newest that this version of datasentinel reads"
        )
    if config.output_dim != config.input_dim:
        raise ArtifactError(
            f"{where}: key 'output_dim': {config.output_dim} differs from input_dim {config.input_dim}, but "
            "the model must reconstruct its input"
        )
    if config.state and config.format_version < _FIRST_WITH_STATE:
        raise ArtifactError(f"{where}: key 'state' needs format_version {_FIRST_WITH_STATE}")
    names = config.feature_names
    if names and len(names) != config.input_dim:
        raise ArtifactError(
            f"{where}: key 'feature_names': got {len(names)} names for input_dim {config.input_dim}"
        )
    if config.offsets and len(config.offsets) != config.input_dim:
        raise ArtifactError(
            f"{where}: key 'offsets': got {len(config.offsets)} numbers for input_dim {config.input_dim}"
        )
    return config


def format_config(config: Config) -> bytes:
    """Return the bytes of a `config.json`; `parse_config` gives an equal `Config` back."""
    document: dict[str, object] = {f.name: getattr(config, f.name) for f in fields(Config)}
    document.pop("extra")
    if not config.state:
        document.pop("state")
    document.update(config.extra)
    try:
        return (_readable(document) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{CONFIG_FILE}: cannot be written as JSON: {error}") from error


def _readable(value: object, indent: str = "") -> str:
    """Write objects with a key a line, and everything else, long lists of numbers above all, on one line."""
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, allow_nan=False, default=_plain)
    inner = indent + "  "
    members = (f"{inner}{json.dumps(str(key))}: {_readable(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(members) + f"\n{indent}}}"


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value!r}")


def _integer(value: object, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected an integer, got {_kind(value)}")
    if value < minimum:
        raise ValueError(f"expected an integer of at least {minimum}, got {value}")
    return value


def _dimension(value: object) -> int:
    dimension = _integer(value, 1)
    if dimension > MAX_DIMENSION:
        raise ValueError(f"expected at most {MAX_DIMENSION}, got {dimension}")
    return dimension


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {_kind(value)}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return float(value)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {_kind(value)}")
    if value != printable(value):
        raise ValueError(f"holds half of a character (a lone surrogate): {printable(value)[:80]!r}")
    return value


def _name(value: object) -> str:
    name = _string(value)
    if len(name) > _MAX_NAME_CHARACTERS:
        raise ValueError(f"{len(name)} characters, more than {_MAX_NAME_CHARACTERS}")
    return name


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("expected a list of strings")
    return tuple(map(_string, value))


def _numbers(value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list of numbers, got {_kind(value)}")
    return tuple(map(_finite, value))


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {_kind(value)}")
    return value


def _columns(value: object) -> dict[str, object]:
    columns = _mapping(value)
    for key in ("time", "id", "label"):
        if key in columns:
            _string(columns[key])
    _strings(columns.get("ignored", []))
    return columns


def _state(value: object) -> dict[str, object]:
    facts = _mapping(value)
    if facts:
        for key, least in (("size", 1), ("warm_up_rows", 0)):
            if key not in facts:
                raise ValueError(f"'{key}' is missing")
            try:
                _integer(facts[key], least)
            except (TypeError, ValueError) as error:
                raise ValueError(f"'{key}': {error}") from None
    return facts


_CHECKS: dict[str, Callable[[object], object]] = {
    "input_dim": _dimension,
    "output_dim": _dimension,
    "latent_dim": _dimension,
    "threshold": _finite,
    "format_version": lambda value: _integer(value, 0),
    "name": _name,
    "version": _name,
    "feature_names": _strings,
    "offsets": _numbers,
    "columns": _columns,
    "score": _string,
    "calibration": _mapping,
    "training": _mapping,
    "state": _state,
    "model_sha256": _string,
}


def _is_artifact(directory: Path) -> bool:
    # One file of the two is enough: what is left of a broken artifact deserves its own error, and so does a
    # folder that may not be read.
    if not os.access(directory, os.R_OK | os.X_OK):
        return True
    return (directory / MODEL_FILE).is_file() or (directory / CONFIG_FILE).is_file()


def _versions(directory: Path) -> list[Path]:
    """List the numbered artifacts of a folder, the greatest number last."""
    folders = [
        child for child in _subdirectories(directory) if is_version(child.name) and _is_artifact(child)
    ]
    return sorted(folders, key=lambda folder: int(folder.name))


def _require_directory(path: Path) -> None:
    if not path.exists():
        raise ModelNotFoundError(f"{path}: no such directory; make one with `datasentinel train`")
    if not path.is_dir():
        raise ModelNotFoundError(f"{path}: a file, not a directory with {MODEL_FILE} and {CONFIG_FILE}")


def _require_within(directory: Path, root: Path) -> None:
    for name in (CONFIG_FILE, MODEL_FILE):
        path = directory / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise ArtifactError(f"{path}: leads outside of {root}, which is not allowed here")


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(child for child in directory.iterdir() if child.is_dir() and not child.name.startswith("."))


def _read(path: Path) -> bytes:
    limit = _MAX_BYTES[path.name]
    try:
        # Opening a pipe would wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{path}: not a regular file")
            if status.st_size > limit:
                raise ArtifactError(
                    f"{path}: {status.st_size} bytes, more than the {limit} that are sensible"
                )
            return file.read(limit + 1)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; an artifact is {MODEL_FILE} and {CONFIG_FILE}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


def _write_temporary(directory: Path, name: str, content: bytes) -> Path:
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
    path = Path(temporary)
    try:
        with os.fdopen(handle, "wb") as file:
            # mkstemp makes private files; a server often runs as another user than the trainer.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
