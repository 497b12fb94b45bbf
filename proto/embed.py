"""Write a file's bytes as a Python module: `embed.py FROM TO`."""

from __future__ import annotations

import sys
from pathlib import Path

source, target = map(Path, sys.argv[1:])
target.write_text(
    f'"""Compiled from proto/ at build time."""\n\nDESCRIPTOR_SET = {source.read_bytes()!r}\n',
    encoding="ascii",
)
