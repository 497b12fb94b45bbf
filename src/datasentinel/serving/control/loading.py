"""How a server loads a model: as its settings say, warmed up, where nothing waits for a load that hangs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from datasentinel.artifact import load_artifact
from datasentinel.detector import Detector
from datasentinel.errors import UnsupportedModelError
from datasentinel.gpu import EngineOptions
from datasentinel.serving.models import outputs_of, warm_up
from datasentinel.streams import clock_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from datasentinel.artifact import Artifact
    from datasentinel.serving.settings import Settings


def loader(settings: Settings) -> Callable[[Artifact], Detector]:
    """Return what makes a detector of an artifact as the settings say."""
    make = partial(
        Detector,
        backend=settings.backend,
        num_threads=settings.num_threads,
        precision=settings.precision,
        plan_budget_s=settings.plan_budget_s,
        engine=EngineOptions(
            optimization_level=settings.engine_optimization_level,
            workspace_mib=settings.engine_workspace_mib,
            max_rows=settings.engine_max_rows,
            io_binding=settings.engine_io_binding,
        ),
    )

    def load(artifact: Artifact) -> Detector:
        if artifact.config.state and settings.workers > 1:
            raise UnsupportedModelError(
                f"{artifact.directory}: the model keeps a state for each stream (config.json: key 'state'), "
                f"and rows of one stream would reach different ones of {settings.workers} workers; serve it "
                "with --workers 1"
            )
        return make(artifact)

    return load


def load_and_warm_up(folder: Path, root: Path, load: Callable[[Artifact], Detector]) -> Detector:
    """Load the artifact of `folder`, which has to lie in `root`, and score a few rows.

    Raises
    ------
    ArtifactError, UnsupportedModelError, BackendUnavailableError, BackendError, OutOfMemoryError
        The model cannot be loaded or run.
    SettingsError
        Its time zone is not known here.
    """
    artifact = load_artifact(folder, within=root)
    detector = load(artifact)
    warm_up(detector)
    # What cannot do one of these is to fail here, not when it takes over.
    outputs_of(detector)
    clock_of(detector.artifact.config)
    return detector
