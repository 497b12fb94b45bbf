"""The source distribution holds what is in version control, and nothing that was made here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LEFT_OUT = (".ci/", ".github/")


def files_of_version_control() -> set[str]:
    """Return tracked files, and those that a commit would add."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip(f"git does not list files here: {listed.stderr.strip()}")
    return {name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()}


def test_it_holds_what_is_in_version_control(tmp_path):
    pytest.importorskip("scikit_build_core", reason="needs scikit-build-core: pip install '.[dev]'")
    build = f"from scikit_build_core.build import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    made = subprocess.run(
        [sys.executable, "-c", build], cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=240
    )
    with tarfile.open(tmp_path / made.stdout.splitlines()[-1]) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    expected = {name for name in files_of_version_control() if not name.startswith(LEFT_OUT)}
    assert inside == expected | {"PKG-INFO"}
