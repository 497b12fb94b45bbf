"""Text in UTF-16 and UTF-32, found out from its beginning and recoded as UTF-8 before it is parsed."""

from __future__ import annotations

import codecs
from typing import Any

# UTF-32's marks come first: one of them begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
# Without a mark: bytes of a character, and which of them ASCII's letters are in. The others are zero.
_WITHOUT_MARK = (("utf-32-le", 4, 0), ("utf-32-be", 4, 3), ("utf-16-le", 2, 0), ("utf-16-be", 2, 1))
# Text in other scripts has fewer zeros than ASCII; text in UTF-8 or Latin-1 has none.
_LEAST_ZEROS = 0.6
# Bytes that no text has, as binary files do.
NO_TEXT = bytes(sorted({*range(0x20), 0x7F} - set(b"\t\n\r\f")))
SAMPLE_BYTES = 4096


def find_encoding(head: bytes) -> tuple[str, int]:
    """Return the encoding that a file's beginning tells of, and the length of its mark.

    Parameters
    ----------
    head : bytes
        The first `SAMPLE_BYTES` of it.

    Returns
    -------
    encoding : str
        A form of UTF-16 or UTF-32, "utf-8" for one with a mark, or "" for anything else.
    mark_bytes : int
        0 where there is no mark.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding, len(mark)
    for encoding, size, at in _WITHOUT_MARK:
        units = [head[i : len(head) - len(head) % size : size] for i in range(size)]
        letters = units.pop(at)
        zeros = [unit.count(0) for unit in units]
        is_text = letters and letters.translate(None, NO_TEXT) == letters
        if is_text and min(zeros) >= _LEAST_ZEROS * len(letters):
            return encoding, 0
    return "", 0


class Recoded:
    """Text as UTF-8; what is none in its encoding becomes U+FFFD.

    Parameters
    ----------
    source : file-like
        Bytes in `encoding`, behind the mark.
    encoding : str
    """

    def __init__(self, source: Any, encoding: str) -> None:  # noqa: ANN401
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ahead = b""

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end."""
        while len(self._ahead) < size:
            data = self._source.read(size)
            self._ahead += self._decoder.decode(data, final=not data).encode()
            if not data:
                break
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data
