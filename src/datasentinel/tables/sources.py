"""Where tables lie: files, patterns, folders, pipes, standard input, URLs; and how their bytes are packed."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import sys
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from datasentinel.errors import DataError, MissingDependencyError
from datasentinel.tables import encodings

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE_BYTES = 1 << 20
STDIN = "-"

_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"


def expand(paths: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """Find the files that paths name.

    Parameters
    ----------
    paths : sequence of path-like
        Files, patterns such as "data/*.csv", folders (all files in them, hidden ones and those that begin
        with "_" aside), URLs, or "-" for standard input.

    Raises
    ------
    DataError
        There is no such file.
    MissingDependencyError
        A URL, without fsspec.
    """
    sources: list[Source] = []
    for path in paths:
        text = os.fspath(path)
        if not text:
            raise DataError("'': no such file")
        if text == STDIN:
            sources.append(Source("standard input", text))
        elif "://" in text:
            sources += [Source(name, name) for name in _expand_url(text)]
        else:
            sources += [Source(str(found), str(found)) for found in _expand_path(text)]
    return sources


def _expand_path(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        found = [
            Path(folder) / name
            for folder, _, names in os.walk(path)
            for name in names
            if not any(p.startswith((".", "_")) for p in (Path(folder) / name).relative_to(path).parts)
        ]
        if not found:
            raise DataError(f"{path}: a folder without data files")
        return sorted(found)
    if path.exists():
        return [path]
    if any(c in text for c in "*?["):
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True) if Path(match).is_file())  # noqa: PTH207
        if matches:
            return matches
        raise DataError(f"{text}: no file matches")
    raise DataError(f"{path}: no such file")


def _fsspec(url: str) -> Any:  # noqa: ANN401
    try:
        import fsspec
    except ImportError as error:
        raise MissingDependencyError(
            f'{url}: URLs need fsspec: pip install "datasentinel[remote]"'
        ) from error
    return fsspec


def _expand_url(url: str) -> list[str]:
    fsspec = _fsspec(url)
    try:
        system, path = fsspec.core.url_to_fs(url)
        if url.startswith(("http://", "https://")):
            return [url]
        paths = sorted(system.glob(path)) if any(c in path for c in "*?[") else [path]
        paths = [
            found
            for each in paths
            for found in (sorted(system.find(each)) if system.isdir(each) else [each])
            if not Path(found).name.startswith((".", "_"))
        ]
        if not paths or not all(map(system.exists, paths)):
            raise DataError(f"{url}: no such file")
        return [system.unstrip_protocol(found) for found in paths]
    except (ImportError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise MissingDependencyError(f"{url}: fsspec cannot open it: {error}") from error
    except OSError as error:
        raise DataError(f"{url}: cannot be read: {error}") from error


@dataclass
class Source:
    """A file, or what can be read like one.

    Attributes
    ----------
    name : str
        For messages.
    path : str
        A path, a URL or "-".
    """

    name: str
    path: str
    _stream: Stream | None = field(default=None, repr=False)
    _was_opened: bool = field(default=False, repr=False)

    @property
    def suffix(self) -> str:
        """The name's ending, without one that names a compression, in lower case."""
        path = Path(self.path.lower())
        return path.with_suffix("").suffix if path.suffix in _PACKED_SUFFIXES else path.suffix

    @property
    def is_reopenable(self) -> bool:
        """Whether it can be read again from the start: a pipe cannot."""
        return "://" in self.path or (self.path != STDIN and Path(self.path).is_file())

    def open(self) -> Stream:
        """Open it, unpacked.

        Raises
        ------
        DataError
            It cannot be opened, or was read before and is a pipe.
        """
        if self._stream is not None:
            stream, self._stream = self._stream, None
            return stream
        if self._was_opened and not self.is_reopenable:
            raise DataError(f"{self.name}: can be read only once")
        self._was_opened = True
        try:
            raw = self._open_raw()
            try:
                return Stream(self.name, raw)
            except DataError:
                if self.path != STDIN:
                    raw.close()
                raise
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error.strerror or error}") from error

    def peek(self, size: int = SAMPLE_BYTES) -> bytes:
        """Return the first bytes, unpacked, and leave them to be read."""
        stream = self.open()
        try:
            head = stream.peek(size)
        except DataError:
            stream.close()
            raise
        if self.is_reopenable:
            stream.close()
        else:
            self._stream = stream
        return head

    @property
    def plain_path(self) -> Path | None:
        """Its path, if it is a file on this machine that is not packed."""
        if "://" in self.path or not self.is_reopenable:
            return None
        path = Path(self.path)
        with path.open("rb") as file:
            return None if _unpacker(self.name, file.read(8)) else path

    def open_seekable(self) -> BinaryIO:
        """Open it for reading in any order; what cannot be is copied to a temporary file."""
        if self.plain_path is not None:
            return self.plain_path.open("rb")
        stream = self.open()
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        while data := stream.read(SAMPLE_BYTES):
            copy.write(data)
        stream.close()
        copy.seek(0)
        return cast("BinaryIO", copy)

    def _open_raw(self) -> BinaryIO:
        if self.path == STDIN:
            if sys.stdin is None:
                raise DataError("standard input is closed")
            return sys.stdin.buffer
        if "://" in self.path:
            return cast("BinaryIO", _fsspec(self.path).open(self.path, "rb").open())
        return Path(self.path).open("rb")


_PACKED_SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".zst", ".zstd"})


class Stream:
    """Bytes in order, unpacked and, where they are UTF-16 or UTF-32, as UTF-8, with a look ahead."""

    def __init__(self, name: str, raw: BinaryIO) -> None:
        self.name = name
        self._raw = raw
        self._size = _size_of(raw)
        head = _read_up_to(raw, 8)
        self._unpacked: Any = _Joined(head, raw)
        if (unpack := _unpacker(name, head)) is not None:
            self._unpacked = unpack(self._unpacked)
        head = self._read(encodings.SAMPLE_BYTES)
        encoding, mark_bytes = encodings.find_encoding(head)
        self._ahead = head[mark_bytes:]
        if encoding not in ("", "utf-8"):
            self._unpacked = encodings.Recoded(_Joined(self._ahead, self._unpacked), encoding)
            self._ahead = b""

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, or all there are, and leave them to be read."""
        self._ahead += self._read(size - len(self._ahead))
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end."""
        ahead, self._ahead = self._ahead[:size], self._ahead[size:]
        return ahead + self._read(size - len(ahead)) if len(ahead) < size else ahead

    def _read(self, size: int) -> bytes:
        try:
            return _read_up_to(self._unpacked, size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{self.name}: cannot be read: {error}") from error

    @property
    def share_read(self) -> float:
        """How much of the file has been read, where its size is known; otherwise 0."""
        return min(1.0, self._raw.tell() / self._size) if self._size else 0.0

    def replace_line_ends(self) -> None:
        """Treat carriage returns in the unread rest as line ends."""
        self._unpacked = _Replaced(_Joined(self._ahead, self._unpacked))
        self._ahead = b""

    def close(self) -> None:
        """Close the file."""
        if self._raw is not getattr(sys.stdin, "buffer", None):
            self._raw.close()


def _size_of(raw: BinaryIO) -> int:
    try:
        size = os.fstat(raw.fileno()).st_size
    except (OSError, AttributeError, io.UnsupportedOperation):
        # fsspec's files have a size, or None.
        size = getattr(raw, "size", None) or 0
    return int(size)


def _read_up_to(file: Any, size: int) -> bytes:  # noqa: ANN401
    """Read `size` bytes, or fewer at the end, from what may return fewer at a time."""
    parts = []
    while size > 0 and (data := file.read(size)):
        parts.append(bytes(data))
        size -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _Joined(io.RawIOBase):
    """Bytes that were read already, and what follows them."""

    def __init__(self, head: bytes, rest: Any) -> None:  # noqa: ANN401
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            head, self._head = self._head, b""
            return bytes(head + self._rest.read())
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = self._rest.read(size)
        return bytes(data)


class _Replaced:
    def __init__(self, source: Any) -> None:  # noqa: ANN401
        self._source = source

    def read(self, size: int) -> bytes:
        return bytes(self._source.read(size)).replace(b"\r", b"\n")


def _unpacker(name: str, head: bytes) -> Any:  # noqa: ANN401
    if head.startswith(_GZIP):
        return lambda raw: gzip.GzipFile(fileobj=raw)
    if head.startswith(_BZIP2):
        return bz2.BZ2File
    if head.startswith(_XZ):
        return lzma.LZMAFile
    if head.startswith(_ZSTD):
        return lambda raw: _unpack_zstd(name, raw)
    return None


def _unpack_zstd(name: str, raw: Any) -> Any:  # noqa: ANN401
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingDependencyError(
            f'{name}: Zstandard needs pyarrow: pip install "datasentinel[parquet]"'
        ) from error
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
