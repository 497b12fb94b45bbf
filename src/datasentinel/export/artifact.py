"""From a training result to an artifact on disk."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.artifact import Config, newest_version, save_artifact
from datasentinel.export.graph import build_graph
from datasentinel.export.verify import Verification, verify_graph

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from datasentinel.artifact import Json
    from datasentinel.training.pipeline import TrainingResult
    from datasentinel.types import Float32Array

SCORE_DEFINITION = (
    "mean over the features of the squared difference between the standardised input and its reconstruction"
)
_VERIFIED_ROWS = 1024
DEFAULT_NAME = "detector"


@dataclass(frozen=True)
class Exported:
    """What was written: where, and how far its scores are from torch's."""

    directory: Path
    config: Config
    verification: Verification


def export_artifact(
    result: TrainingResult,
    directory: str | os.PathLike[str],
    *,
    rows: Float32Array,
    name: str | None = None,
    feature_names: Sequence[str] = (),
    training_facts: Mapping[str, Json] | None = None,
) -> Exported:
    """Build the ONNX graph, check it against torch and write the artifact.

    Parameters
    ----------
    result : TrainingResult
        What `train` returned.
    directory : path-like
        Where the artifact goes; with `name`, where `<name>/<version>/` goes, the version being the next one.
    rows : float32 array, shape [N, D]
        Raw rows to compare the graph with torch on; the first thousand or so are used.
    name : str, optional
        The model's name; `DEFAULT_NAME` without one.
    feature_names : sequence of str
        One a column, or none.
    training_facts : mapping, optional
        Further facts for `config.json`, such as the digest of the data.

    Raises
    ------
    ArtifactError
        The graph disagrees with torch, or the artifact cannot be written.
    """
    onnx = build_graph(result.scaling, result.network.layers())
    sample = np.ascontiguousarray(rows[:_VERIFIED_ROWS], dtype=np.float32)
    verification = verify_graph(onnx, result.scoring_module(), sample)
    directory = Path(directory)
    version = "1"
    if name:
        version = str(newest_version(directory / name) + 1)
        directory = directory / name / version
    config = Config(
        input_dim=result.network.input_dim,
        output_dim=result.network.input_dim,
        latent_dim=result.network.latent,
        threshold=result.calibration.threshold,
        name=name or DEFAULT_NAME,
        version=version,
        feature_names=tuple(feature_names),
        score=SCORE_DEFINITION,
        calibration=result.calibration.facts(),
        training={**_training_facts(result), **(training_facts or {})},
    )
    save_artifact(directory, onnx, config)
    return Exported(directory, config, verification)


def _training_facts(result: TrainingResult) -> dict[str, Json]:
    network = result.network
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "rows": result.rows_trained,
        "epochs": len(result.history),
        "hidden": list(network.hidden),
        "activations": list(network.activations),
        "batch_size": result.schedule.batch_size,
        "learning_rate": result.schedule.learning_rate,
        "device": result.device,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("datasentinel", "torch", "onnx", "numpy")},
        },
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
