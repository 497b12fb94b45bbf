"""Trains a model on the recent past of its series."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.artifact import is_version, load_artifact, newest_version
from datasentinel.calendar_time import second_of_week
from datasentinel.distributed.prometheus.client import Grid
from datasentinel.distributed.prometheus.samples import fetch, refuse_ambiguous
from datasentinel.errors import ArtifactError, DataError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from datasentinel.artifact import Artifact, Json
    from datasentinel.distributed.prometheus.client import PrometheusClient
    from datasentinel.distributed.prometheus.config import Model
    from datasentinel.distributed.prometheus.samples import Key, Samples
    from datasentinel.types import Float64Array, Int64Array

# The key of an artifact's training facts.
_FACTS = "watch"
# Many times the warm-up of a detector with memory.
_PART_STEPS = 1_000


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes
    ----------
    artifact : Artifact
    labels : tuple of str
        That distinguish its series.
    fitted_to : int
        The number of the last moment that it was trained on.
    """

    artifact: Artifact
    labels: tuple[str, ...]
    fitted_to: int


def fit(client: PrometheusClient, model: Model, directory: Path, last: int) -> Fitted:
    """Train a model on its window up to a moment, and write it to `directory/<name>/<version>/`.

    Parameters
    ----------
    client : PrometheusClient
    model : Model
    directory : Path
    last : int
        The number of the last moment.

    Raises
    ------
    DataError
        There are too few rows, the series cannot be distinguished, or the server refuses a query.
    ServerUnreachableError
        It does not answer.
    """
    count = round(model.fit_window / model.step)
    grid = Grid(model.step, last - count + 1, count)
    parts = fetch_window(client, model, grid)
    labels = parts[0].labels
    values, series, moments = training_rows(parts, model.max_rows)
    if not len(values):
        raise DataError(_no_rows(model, parts))
    # Imported here: what is wrong with the samples is reported without torch.
    from datasentinel.export import export_artifact
    from datasentinel.training import train

    times_s = np.asarray(moments * model.step, np.float64)
    rows = with_calendar(values, times_s, model)
    settings = model.training
    result = train(
        rows,
        settings=settings,
        feature_names=tuple(model.queries),
        order=_order(series, times_s, model) if settings.model == "context" else None,
    )
    facts: dict[str, Json] = {**_facts(model), "labels": list(labels), "fitted_to": last}
    exported = export_artifact(
        result,
        directory,
        rows=rows.astype(np.float32),
        name=model.name,
        feature_names=tuple(model.queries),
        time_zone=model.time_zone,
        training_facts={_FACTS: facts, "series": len(set(series.tolist())), "seed": model.seed},
    )
    _remove_old(directory / model.name)
    return Fitted(load_artifact(exported.directory), labels, last)


def load_fitted(directory: Path, model: Model) -> Fitted | None:
    """Return the newest model that was trained as the configuration asks, or None.

    Raises
    ------
    ArtifactError
        It is broken.
    """
    try:
        artifact = load_artifact(directory / model.name)
    except ModelNotFoundError:
        return None
    facts: Any = artifact.config.training.get(_FACTS)
    try:
        labels, fitted_to = tuple(map(str, facts["labels"])), int(facts["fitted_to"])
    except (TypeError, KeyError, ValueError):
        raise ArtifactError(
            f"{artifact.directory}: was not trained by watch; name another directory in the configuration"
        ) from None
    wanted = _facts(model)
    if {key: facts.get(key) for key in wanted} != wanted:
        return None
    return Fitted(artifact, labels, fitted_to)


def fetch_window(client: PrometheusClient, model: Model, grid: Grid) -> list[Samples]:
    """Ask for the samples to train on, in one part or several.

    Where all series together have more rows than a model is trained on, each part of the window is asked for
    other series, drawn at random from those that are there in the end: so neither the server's answers nor
    memory grow with the number of series, and all of the window is seen.
    """
    end = fetch(client, model.queries, grid.part(grid.count - 1, 1), model.by)
    refuse_ambiguous(end, "aggregate it, such as sum by (instance) (...), or set by")
    if len(end.keys) * grid.count <= model.max_rows:
        whole = fetch(client, model.queries, grid, model.by)
        refuse_ambiguous(whole, "aggregate it, such as sum by (instance) (...), or set by")
        return [whole]
    random = np.random.default_rng(model.seed)
    firsts = range(0, grid.count, _PART_STEPS)
    drawn_at_once = min(len(end.keys), -(-model.max_rows // (_PART_STEPS * len(firsts))))
    parts = []
    for first in firsts:
        drawn = [end.keys[i] for i in random.choice(len(end.keys), drawn_at_once, replace=False).tolist()]
        queries = {name: restrict(query, end.labels, drawn) for name, query in model.queries.items()}
        part = grid.part(first, min(_PART_STEPS, grid.count - first))
        parts.append(fetch(client, queries, part, end.labels))
    return parts


def restrict(query: str, labels: Sequence[str], keys: Sequence[Key]) -> str:
    """Return a query for those series only that have one of these values of the labels."""
    wanted = []
    for key in keys:
        series = "vector(1)"
        for label, value in zip(labels, key, strict=True):
            # What is in quotation marks is escaped as in JSON; a dollar would refer to a match.
            text = json.dumps(value.replace("$", "$$"), ensure_ascii=False)
            series = f'label_replace({series}, "{label}", {text}, "", "")'
        wanted.append(series)
    return f"({query}) and on ({', '.join(labels)}) ({' or '.join(wanted)})"


def training_rows(parts: Sequence[Samples], max_rows: int) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Take the complete rows, those of a series of a part together; the last `max_rows` where there are more.

    Returns
    -------
    values : float64 array, shape [R, D]
    series, moments : int64 array, shape [R]
        Which series of which part a row is of, and the number of its moment.
    """
    values, of, moments = [], [], []
    before = 0
    for samples in parts:
        series, steps = np.nonzero(samples.complete)
        values.append(samples.values[series, steps])
        of.append(before + series)
        moments.append(samples.grid.first + steps)
        before += len(samples.keys)
    return (
        np.concatenate(values)[-max_rows:],
        np.concatenate(of)[-max_rows:],
        np.concatenate(moments)[-max_rows:],
    )


def with_calendar(values: Float64Array, times_s: Float64Array, model: Model) -> Float64Array:
    """Append the second of the week to rows [R, D], where the model has a season."""
    if not model.season:
        return values
    moments, places = np.unique(times_s, return_inverse=True)
    return np.column_stack([values, second_of_week(moments.tolist(), model.time_zone)[places]])


def _order(series: Int64Array, times_s: Float64Array, model: Model) -> Any:  # noqa: ANN401  # Order, of training
    from datasentinel.training.context import LONG_CONTEXT
    from datasentinel.training.memory import warm_up_of
    from datasentinel.training.recording import Order

    _, order = Order.of_rows(series.tolist(), times_s)
    return order.split_at_gaps(times_s, warm_up_of(model.half_lives or LONG_CONTEXT))


def _remove_old(directory: Path) -> None:
    """Keep the newest version and the one before it."""
    kept = newest_version(directory) - 1
    for version in directory.iterdir():
        if is_version(version.name) and int(version.name) < kept:
            shutil.rmtree(version)


def _facts(model: Model) -> dict[str, Json]:
    """Return what a model that is used has to be trained with."""
    return {
        "queries": dict(model.queries),
        "by": list(model.by),
        "step_s": model.step,
        "model": model.model,
        "season": model.season,
        "time_zone": model.time_zone,
        "half_lives": list(model.half_lives),
        "target_fpr": model.target_fpr,
    }


def _no_rows(model: Model, parts: Sequence[Samples]) -> str:
    absent = [
        name
        for column, name in enumerate(model.queries)
        if not any(np.isfinite(samples.values[:, :, column]).any() for samples in parts)
    ]
    if absent:
        return f"no sample in the window of: {', '.join(absent)}"
    return (
        f"none of {len(parts[0].keys)} series has a sample of every query at the same time; they are joined "
        f"by the labels {', '.join(parts[0].labels) or '(none)'}"
    )
