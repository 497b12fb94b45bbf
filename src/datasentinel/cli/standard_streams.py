"""Standard input, output and error that are there, whatever started the process left closed."""

from __future__ import annotations

import os
import sys

_INPUT, _OUTPUT, _ERROR = 0, 1, 2


def open_missing() -> None:
    """Open what is closed on nothing, or the first sockets would take its place and be written to."""
    for descriptor in (_INPUT, _OUTPUT, _ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(opened, True)  # Workers and others that are started need it, too.
    if sys.stdin is None:
        sys.stdin = open(_INPUT, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(_OUTPUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(_ERROR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def give_up_output() -> None:
    """Redirect standard output to the null device: its reader is gone, and a flush at exit would fail."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, _OUTPUT)
    os.close(nothing)
