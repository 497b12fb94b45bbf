"""Reading and writing an artifact's two files, whole and matching whatever others do meanwhile."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from datasentinel.artifact.config import Config, format_config, parse_config
from datasentinel.artifact.folders import CONFIG_FILE, MODEL_FILE, printable, resolve_artifact
from datasentinel.atomic_file import replacing, replacing_together
from datasentinel.errors import ArtifactError

# A protobuf message, which an ONNX file is, ends at 2 GiB.
_MAX_BYTES = {MODEL_FILE: 2**31 - 1, CONFIG_FILE: 16 << 20}

# A reader that meets a writer half-way sees a pair that does not match, but not for long: a pair that stays
# the same for several looks is broken. The number of all looks is limited, too.
_LOOKS_AT_SAME_PAIR = 5
_LOOKS = 500
_LOOK_AGAIN_S = 0.02


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

    @property
    def files(self) -> tuple[Path, Path]:
        """The two files."""
        return self.directory / CONFIG_FILE, self.directory / MODEL_FILE

    @cached_property
    def sha256(self) -> str:
        """Digest of `onnx` in hexadecimal, whether config.json says it or not."""
        return hashlib.sha256(self.onnx).hexdigest()


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
    the digest of the new `model.onnx`, is renamed first: a reader in between sees a digest that does
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
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # A server often runs as another user than the trainer.
        paths = (directory / CONFIG_FILE, directory / MODEL_FILE)
        with replacing_together(*paths, private=False) as (config_file, model_file):
            config_file.write(raw)
            model_file.write(onnx)
        _sync_directory(directory)
    except OSError as error:
        raise ArtifactError(f"{directory}: cannot write the artifact: {error.strerror or error}") from error
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
        with replacing(directory / CONFIG_FILE, private=False) as file:
            file.write(raw)
        _sync_directory(directory)
    except OSError as error:
        raise ArtifactError(
            f"{directory / CONFIG_FILE}: cannot be written: {error.strerror or error}"
        ) from error


def _require_within(directory: Path, root: Path) -> None:
    for name in (CONFIG_FILE, MODEL_FILE):
        path = directory / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise ArtifactError(f"{path}: leads outside of {root}, which is not allowed here")


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


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
