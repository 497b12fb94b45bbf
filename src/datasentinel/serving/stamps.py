"""Whether a file is still the one that was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

Stamp: TypeAlias = "tuple[int, ...]"


def stamp_of(path: Path) -> Stamp:
    """Return what changes with a file; () for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino
