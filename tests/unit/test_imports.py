"""Imports point one way: no module needs itself, by whatever way round."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import datasentinel
from datasentinel.v1 import inference_pb2

SOURCE = Path(__file__).resolve().parents[2] / "src"
MODULES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((SOURCE / "datasentinel").rglob("*.py"))
}


def imports_of(file: Path) -> set[str]:
    """Return the modules of ours that a file imports, wherever in it: for types, or when a function runs, too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inside}
    # The package itself imports its API; its modules take the version from it.
    return (found & MODULES.keys()) - {"datasentinel"}


def room_of(module: str) -> str:
    """Return the folder that a module is in; `datasentinel` and `serving` are houses, not rooms."""
    parts = module.split(".")
    for folder in (".".join(parts[:3]), ".".join(parts[:2])):
        is_folder = folder in MODULES and MODULES[folder].name == "__init__.py"
        if is_folder and folder not in ("datasentinel", "datasentinel.serving"):
            return folder
    return module


def check_order(graph: dict[str, set[str]]) -> None:
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


GRAPH = {name: imports_of(file) for name, file in MODULES.items()}


def test_there_is_no_cycle_of_imports():
    assert GRAPH["datasentinel.serving.server"]  # The files were found, and read.
    check_order(GRAPH)


def test_there_is_none_between_rooms():
    rooms: dict[str, set[str]] = {}
    for module, imported in GRAPH.items():
        room = room_of(module)
        rooms.setdefault(room, set()).update({room_of(other) for other in imported} - {room})
    assert rooms["datasentinel.serving.http"] >= {"datasentinel.serving.control"}
    check_order(rooms)


def modules_loaded_by(code: str, before: str = "") -> set[str]:
    """Return what a fresh interpreter has loaded after the code, beyond what it has after `before`."""
    tell = "\nimport sys, json; sys.stderr.write(json.dumps(list(sys.modules)))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", line + tell], check=True, capture_output=True, text=True, timeout=60
        )
        for line in (f"import json\n{before}", f"{before}\n{code}")
    ]
    without, loaded = (set(json.loads(run.stderr)) for run in runs)
    return loaded - without


def packages_of(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


VERSION = (
    "from datasentinel.cli import cli; "
    "cli.main(['--version'], prog_name='datasentinel', standalone_mode=False)"
)


@pytest.mark.parametrize(
    ("before", "code", "packages", "most_modules"),
    [
        ("", "import datasentinel", {"datasentinel"}, 30),
        ("", VERSION, {"datasentinel", "click"}, 160),
        ("import numpy", "from datasentinel import Detector", {"datasentinel", "numpy"}, 90),
    ],
    ids=["package", "version", "Detector"],
)
def test_no_more_is_imported_than_is_used(before, code, packages, most_modules):
    """What starting takes is the time of these modules; their count is the same on every machine."""
    loaded = modules_loaded_by(code, before)
    assert packages_of(loaded) == packages
    assert len(loaded) <= most_modules, sorted(loaded)


def test_the_package_has_the_names_that_it_lists():
    assert set(datasentinel.__all__) <= set(dir(datasentinel))
    assert all(getattr(datasentinel, name) is not None for name in datasentinel.__all__)
    with pytest.raises(AttributeError, match="'datasentinel' has no attribute 'Detectors'"):
        datasentinel.Detectors  # noqa: B018


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"inference\.proto defines no Evaluation"):
        inference_pb2.Evaluation  # noqa: B018
    assert inference_pb2.DESCRIPTOR.package == "datasentinel.v1"
