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
from datasentinel.artifact.config import FIRST_WITH_TIME
from datasentinel.export.graph import build_graph
from datasentinel.export.verify import Verification, verify_graph
from datasentinel.training.context import ContextModel
from datasentinel.training.memory import stale_after
from datasentinel.training.seasonal import SeasonalModel, without_season

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from datasentinel.artifact import Json
    from datasentinel.training.fitting import Model
    from datasentinel.training.pipeline import TrainingResult
    from datasentinel.types import Float32Array

_VERIFIED_ROWS = 1024
DEFAULT_NAME = "detector"


@dataclass(frozen=True)
class Built:
    """An artifact in memory, and how far its scores are from the trained detector's."""

    onnx: bytes
    config: Config
    verification: Verification


@dataclass(frozen=True)
class Exported:
    """What was written: where, and how far its scores are from the trained detector's."""

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
    columns: Mapping[str, Json] | None = None,
    time_zone: str = "UTC",
    text_format: Mapping[str, Json] | None = None,
    training_facts: Mapping[str, Json] | None = None,
) -> Exported:
    """Build the ONNX graph, check it against the detector and write the artifact.

    Parameters
    ----------
    result : TrainingResult
        What `train` returned.
    directory : path-like
        Where the artifact goes; with `name`, where `<name>/<version>/` goes, the version being the next one.
    rows : float32 array, shape [N, D]
        Raw rows to compare the graph with the detector on; the first thousand or so are used.
    name : str, optional
        The model's name; `DEFAULT_NAME` without one.
    feature_names : sequence of str
        One a column, or none.
    columns : mapping, optional
        The columns that are not features, see `datasentinel.artifact.Config`.
    time_zone : str
        In which the second of the week of a model with a season counts.
    text_format : mapping, optional
        How numbers and dates in the tables are written, see `datasentinel.artifact.Config`.
    training_facts : mapping, optional
        Further facts for `config.json`, such as the digest of the data.

    Raises
    ------
    ArtifactError
        The graph disagrees with the detector, or the artifact cannot be written.
    """
    directory = Path(directory)
    version = "1"
    if name:
        version = str(newest_version(directory / name) + 1)
        directory = directory / name / version
    built = build_artifact(
        result,
        rows=rows,
        name=name or DEFAULT_NAME,
        version=version,
        feature_names=feature_names,
        columns=columns,
        time_zone=time_zone,
        text_format=text_format,
        training_facts=training_facts,
    )
    save_artifact(directory, built.onnx, built.config)
    return Exported(directory, built.config, built.verification)


def build_artifact(
    result: TrainingResult,
    *,
    rows: Float32Array,
    name: str = DEFAULT_NAME,
    version: str = "1",
    feature_names: Sequence[str] = (),
    columns: Mapping[str, Json] | None = None,
    time_zone: str = "UTC",
    text_format: Mapping[str, Json] | None = None,
    training_facts: Mapping[str, Json] | None = None,
) -> Built:
    """Build the ONNX graph and the configuration without writing them; see `export_artifact`."""
    model = result.model
    inner = without_season(model)
    onnx = build_graph(model)
    sample = np.ascontiguousarray(rows[:_VERIFIED_ROWS], dtype=np.float32)
    verification = verify_graph(onnx, model, sample)
    config = Config(
        input_dim=model.input_dim,
        output_dim=model.input_dim,
        latent_dim=model.latent_dim,
        threshold=result.calibration.threshold,
        name=name,
        version=version,
        feature_names=tuple(feature_names),
        # With a season, what is subtracted depends on the time.
        offsets=() if isinstance(model, SeasonalModel) else tuple(model.scaling.shift.tolist()),
        columns=columns or {},
        score=model.definition,
        calibration=result.calibration.facts(),
        training={**_training_facts(result), **(training_facts or {})},
        state=_state_facts(inner, result) if isinstance(inner, ContextModel) else {},
        calendar={"time_zone": time_zone} if isinstance(model, SeasonalModel) else {},
        text_format=text_format or {},
        format_version=_format_version(inner),
    )
    return Built(onnx, config, verification)


def _format_version(model: Model) -> int:
    if not isinstance(model, ContextModel):
        return 1
    return 2 if model.memory.row_s is None else FIRST_WITH_TIME


def _state_facts(model: ContextModel, result: TrainingResult) -> dict[str, Json]:
    facts = model.state_facts()
    alarms = result.calibration.false_alarms
    if alarms is not None and alarms.row_s is not None:
        # Across a longer gap nothing is remembered.
        facts["gap_s"] = model.memory.warm_up_rows * alarms.row_s
    if result.first_values:
        values: list[Json] = [None if np.isnan(value) else value for value in result.first_values]
        facts["missing"] = {"first_values": values, "stale_rows": stale_after(model.memory.half_lives)}
    return facts


def _training_facts(result: TrainingResult) -> dict[str, Json]:
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "rows": result.rows_trained,
        **result.model.facts(),
        "findings": [finding.facts() for finding in result.findings],
        "copies": result.copies,
        "repaired": result.repaired,
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
