"""Where artifacts lie: a folder each, perhaps of numbered versions, perhaps of several models."""

from __future__ import annotations

import os
from pathlib import Path

from datasentinel.errors import ArtifactError, ModelNotFoundError

MODEL_FILE = "model.onnx"
CONFIG_FILE = "config.json"


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


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(child for child in directory.iterdir() if child.is_dir() and not child.name.startswith("."))
