"""Files that a command writes."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel.errors import DataError
from datasentinel.tables.sources import STDIN, expand

if TYPE_CHECKING:
    from collections.abc import Iterable


def require_other_file(out: str | os.PathLike[str] | None, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse an output that is one of the inputs, by whatever path or link, before it is opened.

    Parameters
    ----------
    out : path-like or None
        None for standard output.
    inputs : iterable of path-like
        Files, patterns, folders, URLs or "-", as `tables.sources.expand` takes them.

    Raises
    ------
    DataError
        They are the same regular file, or an input is not there.
    """
    target = _status(sys.stdout if out is None else out)
    if target is None:
        return
    for path in inputs:
        # URLs are looked up once, where they are read.
        for source in [] if "://" in os.fspath(path) else expand([path]):
            read = _status(sys.stdin if source.path == STDIN else source.path)
            if read is not None and os.path.samestat(read, target):
                raise DataError(
                    f"{out or 'standard output'}: is what {source.name} is read from; "
                    "name another file for the output"
                )


def require_other_files(folder: Path, names: Iterable[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse a folder in which a file that is to be written is one of the inputs.

    Parameters
    ----------
    folder : Path
    names : iterable of str
        The files that are written in it.
    inputs : iterable of path-like
        As for `require_other_file`.

    Raises
    ------
    DataError
        As for `require_other_file`.
    """
    inputs = list(inputs)
    for name in names:
        require_other_file(folder / name, inputs)


def _status(file: object) -> os.stat_result | None:
    """Return the status of a regular file, named or open, or None for anything else."""
    try:
        named = isinstance(file, str | os.PathLike)
        status = Path(file).stat() if named else os.fstat(file.fileno())  # type: ignore[arg-type,attr-defined]
    except (OSError, ValueError, AttributeError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None
