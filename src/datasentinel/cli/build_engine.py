"""`datasentinel build-engine`: compile a model for a GPU before it has to serve."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from datasentinel.artifact import load_artifact
from datasentinel.backend import build_engines, load_scorer
from datasentinel.gpu import EngineOptions, architecture_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import TaskID

    from datasentinel.artifact import Artifact

_DEFAULTS = EngineOptions()


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(("float32", "tf32")),
    default="float32",
    show_default=True,
    help="Arithmetic of the model's float32 layers; tf32 is faster and keeps 10 bits of the mantissa.",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    default=_DEFAULTS.optimization_level,
    show_default=True,
    help="How hard to search for fast kernels.",
)
@click.option(
    "--workspace-mib",
    type=click.IntRange(0, 1 << 24),
    default=_DEFAULTS.workspace_mib,
    help="Device memory that a layer may use at most.  [default: the library's]",
)
@click.option(
    "--max-rows",
    type=click.IntRange(1, 1 << 24),
    default=_DEFAULTS.max_rows,
    show_default=True,
    help="Largest batch of the engine; more rows are split.",
)
@click.option(
    "--compute-capability",
    "compute_capabilities",
    metavar="LIST",
    help="Build for these GPUs instead, such as 8.6,8.9,12.0, without one: needs TensorRT for RTX.",
)
@click.option("--hardware-compatible", is_flag=True, help="Let it also run on other GPUs, from Ampere on.")
@click.option(
    "--version-compatible", is_flag=True, help="Let it also run with other minor versions of TensorRT."
)
def command(  # noqa: PLR0917 - click passes them by name
    model: Path,
    precision: str,
    optimization_level: int,
    workspace_mib: int,
    max_rows: int,
    compute_capabilities: str | None,
    hardware_compatible: bool,
    version_compatible: bool,
) -> None:
    """Build the TensorRT engine of MODEL (an artifact folder) for this machine's GPU, or others, and keep it.

    Engines are kept in the user's cache folder. A server with the same options takes the engine from there
    instead of building it when it starts.
    """
    started = perf_counter()
    artifact = load_artifact(model)
    options = EngineOptions(
        optimization_level=optimization_level,
        workspace_mib=workspace_mib,
        max_rows=max_rows,
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
    )
    with _Progress() as progress:
        if compute_capabilities is None:
            facts = load_scorer(
                artifact, backend="tensorrt", precision=precision, engine=options, on_progress=progress.show
            ).facts
        else:
            facts = _build_for(compute_capabilities, artifact, precision, options, progress.show)
    for key, value in facts.items():
        click.echo(f"{key:<24}{value}")
    click.echo(f"{'took':<24}{perf_counter() - started:.1f} s")


def _build_for(
    compute_capabilities: str,
    artifact: Artifact,
    precision: str,
    options: EngineOptions,
    on_progress: Callable[[str, int, int], None],
) -> dict[str, str]:
    """Build for each of the listed compute capabilities; return what to print of each."""
    listed = [item.strip() for item in compute_capabilities.split(",")]
    engines = build_engines(
        artifact,
        [architecture_of(item) for item in listed],
        precision=precision,
        engine=options,
        on_progress=on_progress,
    )
    facts = {
        f"compute capability {item}": f"{engine.size_bytes} bytes, "
        + ("built" if engine.built else "from the cache")
        for item, engine in zip(listed, engines, strict=True)
    }
    return facts | {"tensorrt": engines[0].library}


class _Progress:
    """A progress bar a phase on stderr; invisible where stderr is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, phase: str, step: int, steps: int) -> None:
        """Move `phase` on to `step`; each phase has a bar of its own."""
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=steps)
        self._progress.update(self._tasks[phase], completed=step)
