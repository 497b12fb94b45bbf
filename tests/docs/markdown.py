"""Runs the code of a Markdown document: its Python in one namespace, its commands in one shell."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FENCE = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CHECKER = doctest.OutputChecker()
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Command:
    """A command and the output that the document shows; none shown, any is right."""

    text: str
    expected: str


def commands(block: str) -> Iterator[Command]:
    """Take a console block apart: `$ ` begins a command, `> ` continues it, the rest is output."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next((i for i, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
        yield Command("\n".join([lines[0], *(line[2:] for line in lines[1:end])]), "\n".join(lines[end:]))


class Shell:
    """One bash, in which commands follow each other."""

    _END = "--- end of command:"

    def __init__(self, folder: Path) -> None:
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.run(f"export PATH='{Path(sys.executable).parent}':$PATH COLUMNS=110; set -m")

    def run(self, text: str) -> tuple[str, int]:
        """Return a command's output and exit code."""
        self._bash.stdin.write(f"{text}\nstatus=$?; echo; echo '{self._END}' $status\n")
        self._bash.stdin.flush()
        lines = []
        for line in self._bash.stdout:
            if line.startswith(self._END):
                return "".join(lines).rstrip(), int(line.removeprefix(self._END))
            lines.append(line)
        raise AssertionError(f"the shell ended in {text!r}: {''.join(lines)}")

    def close(self) -> None:
        """End it, and what it left running."""
        self._bash.stdin.write("kill $(jobs -p) 2> /dev/null\n")
        self._bash.communicate(timeout=30)


def run(document: Path, folder: Path) -> None:
    """Run all code of a document in a folder; fail where it does, or answers something else than is shown."""
    names: dict[str, object] = {"__name__": "__main__"}
    shell = Shell(folder)
    try:
        for language, block in _FENCE.findall(document.read_text(encoding="utf-8")):
            if language == "python":
                exec(compile(block, str(document), "exec"), names)
                continue
            for command in commands(block):
                output, code = shell.run(command.text)
                assert code == 0, f"$ {command.text}\n{output}\nexit code {code}"
                if command.expected:
                    matches = _CHECKER.check_output(command.expected + "\n", output + "\n", _FLAGS)
                    assert matches, f"$ {command.text}\n{output}\nThe document shows:\n{command.expected}"
    finally:
        shell.close()
