"""Remembers measured plans between runs, in the user's cache folder.

A plan says which backend takes which batch size. Measuring one takes up to a second; a plan stays valid for
the same model on the same machine with the same libraries and settings.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasentinel.atomic_file import replacing

_FORMAT_VERSION = 1
CACHE_DIR_VARIABLE = "DATASENTINEL_CACHE_DIR"


@dataclass(frozen=True)
class PlanKey:
    """Everything that a measured plan depends on."""

    model_sha256: str
    cpu: str
    gpus: str
    num_threads: int
    precision: str
    versions: tuple[str, ...]

    def digest(self) -> str:
        """Return a file name for this key."""
        return hashlib.sha256(json.dumps([_FORMAT_VERSION, asdict(self)]).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PlanRecord:
    """A plan as it is stored: plain data.

    Attributes
    ----------
    steps : tuple of (min_rows, backend)
    timings : tuple of (rows, backend, latency_us)
    refusals : tuple of (backend, reason)
    """

    steps: tuple[tuple[int, str], ...]
    timings: tuple[tuple[int, str, float], ...]
    refusals: tuple[tuple[str, str], ...]


def cache_dir() -> Path:
    """Return the folder for what can be made again.

    `DATASENTINEL_CACHE_DIR`, else `datasentinel` under `XDG_CACHE_HOME` or `~/.cache`. Where the user has no
    home, neither in a variable nor in the system's list, it cannot be made, and nothing is remembered.
    """
    override = os.environ.get(CACHE_DIR_VARIABLE)
    if override:
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "datasentinel"
    except RuntimeError:
        return Path(os.devnull, "datasentinel")


def cpu_identity() -> str:
    """Describe the CPU as far as timings depend on it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return f"{platform.machine()} {platform.processor()}"


def gpu_identity(drivers: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """Describe the GPUs that this process may use, as far as timings depend on them."""
    models = []
    for path in sorted(drivers.glob("*/information")):
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            models += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return ", ".join([*models, os.environ.get("CUDA_VISIBLE_DEVICES", "all")])


def _path(key: PlanKey) -> Path:
    return cache_dir() / "plans" / f"{key.digest()}.json"


def _tuples(rows: object, types: tuple[type, ...]) -> tuple[Any, ...]:
    """Check that `rows` is a list of lists of exactly these types; anything else is not a plan of ours."""
    if not isinstance(rows, list):
        raise TypeError
    for row in rows:
        if not isinstance(row, list) or [type(value) for value in row] != list(types):
            raise TypeError
    return tuple(tuple(row) for row in rows)


def load(key: PlanKey) -> PlanRecord | None:
    """Read the plan for `key`; None when there is none, or none that can be trusted."""
    try:
        data = json.loads(_path(key).read_text(encoding="utf-8"))
        record = PlanRecord(
            steps=_tuples(data["steps"], (int, str)),
            timings=_tuples(data["timings"], (int, str, float)),
            refusals=_tuples(data["refusals"], (str, str)),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if record.steps else None


def store(key: PlanKey, record: PlanRecord) -> bool:
    """Write the plan for `key` atomically; False when the folder cannot be written, which is harmless."""
    path = _path(key)
    text = json.dumps({"key": asdict(key), **asdict(record)}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
    except OSError:
        return False
    return True
