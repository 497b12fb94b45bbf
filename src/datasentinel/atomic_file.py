"""Files that are either whole or not there."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(path: Path, *, private: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` once it is complete and on disk.

    On an error, `path` stays as it was. `private` as in `replacing_together`.

    Raises
    ------
    OSError
        The folder cannot be written, or the disk is full.
    """
    with replacing_together(path, private=private) as (file,):
        yield file


@contextmanager
def overwriting(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing as `replacing` does, or at once where it is a pipe or a device.

    A link stays one, and a file keeps its permissions; a new one has those that the umask leaves.

    Raises
    ------
    OSError
        It cannot be written.
    """
    # Under /dev and /proc are open files, which others go on writing to.
    is_open = path.absolute().parts[1:2] in {("dev",), ("proc",)}
    # What is mounted on its own, as into a container, has no name that could be given to another file.
    if is_open or (path.exists() and (not path.is_file() or path.is_mount())):
        with path.open("wb") as file:
            yield file
        return
    target = path.resolve()
    mode = None
    if target.exists():
        with target.open("ab"):  # raises where it must not be written
            mode = target.stat().st_mode & 0o777
    with replacing(target, private=False) as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        yield file


@contextmanager
def replacing_together(*paths: Path, private: bool) -> Iterator[list[BinaryIO]]:
    """Open files for writing that replace `paths`, in this order, once all are complete and on disk.

    Parameters
    ----------
    *paths : Path
        Files of folders that exist.
    private : bool
        Whether only this user may read them; otherwise the umask decides.

    Raises
    ------
    OSError
        A folder cannot be written, or the disk is full. All files stay as they were, unless renaming fails.
    """
    import tempfile  # slow to import

    temporary: list[Path] = []
    try:
        with ExitStack() as stack:
            files: list[BinaryIO] = []
            for path in paths:
                handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
                temporary.append(Path(name))
                files.append(stack.enter_context(os.fdopen(handle, "wb")))
                if not private:
                    os.fchmod(handle, 0o666 & ~_umask())
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for source, path in zip(temporary, paths, strict=True):
            source.replace(path)
    finally:
        for source in temporary:
            source.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
