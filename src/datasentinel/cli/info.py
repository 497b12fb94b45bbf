"""`datasentinel info`: versions, backends and, given a model, what it is and how it would run."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import datasentinel
from datasentinel import backend
from datasentinel.detector import Detector
from datasentinel.types import BACKEND_NAMES

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "grpcio", "uvloop", "torch", "onnx")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, Any]:
    return {
        "datasentinel": datasentinel.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu features": backend.cpu_features(),
        "build": backend.build_info(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "backends": [
            {
                "name": status.name,
                "state": status.availability,
                "version": status.version,
                "detail": status.detail or status.library,
            }
            for status in backend.backends()
        ],
    }


def _print(console: Console, machine: dict[str, Any], model: dict[str, Any] | None) -> None:
    facts = Table(show_header=False, box=None)
    facts.add_row("datasentinel", machine["datasentinel"])
    facts.add_row("python", f"{machine['python']} on {machine['platform']}")
    facts.add_row("cpu features", ", ".join(machine["cpu features"]) or "none of note")
    facts.add_row("build", ", ".join(f"{key} {value}" for key, value in machine["build"].items()))
    facts.add_row("packages", ", ".join(f"{name} {version}" for name, version in machine["packages"].items()))
    console.print(facts)

    table = Table("backend", "state", "version", "detail", title="Backends")
    for entry in machine["backends"]:
        table.add_row(entry["name"], entry["state"], entry["version"], escape(entry["detail"]))
    console.print(table)

    if model is not None:
        table = Table("model", "", title=f"Model {model['directory']}", show_header=False)
        for key, value in model.items():
            if isinstance(value, dict):
                for name, text in value.items():
                    table.add_row(f"{key}: {name}", escape(str(text)))
            else:
                table.add_row(key, escape(str(value)))
        console.print(table)


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--backend", "backend_name", type=click.Choice(BACKEND_NAMES), default="auto", show_default=True,
    help="Load MODEL on this backend.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(model: Path | None, backend_name: str, as_json: bool) -> None:
    """Show versions, CPU features and every backend with the reason where it cannot run.

    With MODEL (an artifact folder), load it and show what it is and how it runs.
    """
    machine = _machine()
    described = Detector.load(model, backend=backend_name).info() if model is not None else None
    if as_json:
        click.echo(json.dumps(machine | ({"model": described} if described else {}), indent=2))
    else:
        _print(Console(), machine, described)
