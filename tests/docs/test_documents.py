"""The documents' code runs as written, and answers what they show."""

from __future__ import annotations

import re
import shutil
import socket
import tomllib
from pathlib import Path

import pytest

from tests.docs import markdown

DOCS = Path(__file__).resolve().parents[2] / "docs"


def free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.mark.parametrize(
    ("name", "ports", "programs"),
    [
        ("tutorial.md", (9000, 9001, 9002), ()),
        ("imports.md", (), ()),
        # Waits for scrapes, a training and an alert.
        pytest.param("watch.md", (9003, 9004, 9090), ("prometheus", "promtool"), marks=pytest.mark.slow),
    ],
)
def test_code_runs_as_written(name, ports, programs, tmp_path, monkeypatch):
    for port in ports:
        if not free(port):
            pytest.skip(f"somebody uses port {port}, which the document uses")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: package prometheus)")
    monkeypatch.chdir(tmp_path)
    markdown.run(DOCS / name, tmp_path)


def test_the_readme_names_every_extra_that_users_need():
    root = DOCS.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    table = (root / "README.md").read_text().partition("## Extras")[2].partition("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall("`(.*?)`", row)
    }
    assert named == set(project["optional-dependencies"]) - {"bench", "dev", "docs"}


def test_a_wrong_output_is_noticed(tmp_path):
    document = tmp_path / "wrong.md"
    document.write_text("```console\n$ echo one\ntwo\n```\n")
    with pytest.raises(AssertionError, match="The document shows:\ntwo"):
        markdown.run(document, tmp_path)


def test_a_command_that_fails_is_noticed(tmp_path):
    document = tmp_path / "failing.md"
    document.write_text("```console\n$ echo one; false\n```\n")
    with pytest.raises(AssertionError, match="exit code 1"):
        markdown.run(document, tmp_path)
