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
from datasentinel.errors import BackendUnavailableError
from datasentinel.types import BACKEND_NAMES

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13-libs",
    "grpcio",
    "uvloop",
    "torch",
    "onnx",
)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _grpc() -> str:
    try:
        return str(backend.open_nghttp2())
    except BackendUnavailableError as error:
        return f"not served: {error}"


def _machine() -> dict[str, Any]:
    return {
        "datasentinel": datasentinel.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu features": backend.cpu_features(),
        "build": backend.build_info(),
        "grpc": _grpc(),
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
    facts.add_row("grpc", machine["grpc"])
    facts.add_row("packages", ", ".join(f"{name} {version}" for name, version in machine["packages"].items()))
    console.print(facts)

    table = Table("backend", "state", "version", "detail", title="Backends")
    for entry in machine["backends"]:
        table.add_row(entry["name"], entry["state"], entry["version"], escape(entry["detail"]))
    console.print(table)

    if model is not None:
        _print_model(console, model)


def _print_model(console: Console, model: dict[str, Any]) -> None:
    table = Table(title=f"Model {escape(model['directory'])}", show_header=False)
    for key in ("name", "version", "input_dim", "threshold", "score", "backend"):
        table.add_row(key, escape(str(model[key])))
    for key, value in model["facts"].items():
        table.add_row(escape(key), escape(value))
    for name, reason in model["refusals"].items():
        table.add_row(f"refused: {name}", escape(reason))
    console.print(table)
    if model["timings"]:
        console.print(_plan_table(model["plan"], model["timings"]))


def _plan_table(plan: dict[int, str], timings: list[tuple[int, str, float]]) -> Table:
    """Show each backend's time by batch size, and which of them the plan takes."""
    names = list(dict.fromkeys(name for _, name, _ in timings))
    table = Table("rows", *(f"{name}, µs" for name in names), "plan", title="Plan, measured on this machine")
    for rows in dict.fromkeys(rows for rows, _, _ in timings):
        measured = {name: latency_us for size, name, latency_us in timings if size == rows}
        chosen = plan[max(start for start in plan if start <= rows)]
        table.add_row(str(rows), *(f"{measured[name]:.3g}" for name in names), chosen)
    return table


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--backend",
    "backend_name",
    type=click.Choice(BACKEND_NAMES),
    default="auto",
    show_default=True,
    help="Load MODEL on this backend.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(model: Path | None, backend_name: str, as_json: bool) -> None:
    """Show versions, CPU features and every backend, with the reason where one cannot run.

    With MODEL (an artifact folder), load it and show what it is and how it runs.
    """
    machine = _machine()
    described = Detector.load(model, backend=backend_name).info() if model is not None else None
    if as_json:
        click.echo(json.dumps(machine | ({"model": described} if described else {}), indent=2))
    else:
        _print(Console(), machine, described)
