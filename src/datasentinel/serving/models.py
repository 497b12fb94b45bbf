"""The models being served: what requests name, and what answers them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.backend import ModelTable
from datasentinel.errors import ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from datasentinel.detector import Detector
    from datasentinel.serving.states import ModelStreams, StreamStates

# What a model may be asked for, and what it answers when the request does not say.
DEFAULT_OUTPUTS = ("score", "anomaly")
OUTPUTS = (*DEFAULT_OUTPUTS, "warming", "severity", "output", "contributions")

_WARM_UP_ROWS = (1, 64, 1)
_MAX_WARM_UP_VALUES = 1 << 20


def warm_up(detector: Detector) -> None:
    """Score a few rows, so that the first client does not pay for first-time work.

    Raises
    ------
    BackendError, OutOfMemoryError
        The model loads but does not run.
    """
    most = max(1, _MAX_WARM_UP_VALUES // detector.input_dim)
    for count in _WARM_UP_ROWS:
        detector.score(np.zeros((min(count, most), detector.input_dim), dtype=np.float32))


def outputs_of(detector: Detector) -> tuple[str, ...]:
    """Name the outputs that a model can compute, by asking it for each."""
    row = np.zeros((1, detector.input_dim), dtype=np.float32)
    names = [*DEFAULT_OUTPUTS, *(["warming"] if detector.scorer.state_dim else []), "severity"]
    for name, compute in (("output", detector.reconstruct), ("contributions", detector.contributions)):
        with suppress(UnsupportedModelError):
            compute(row)
            names.append(name)
    return tuple(names)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under the name and version that requests give.

    Attributes
    ----------
    name, version : str
    detector : Detector
    outputs : tuple of str
        What it can compute.
    uncounted : dict of str to int
        The scorer's counters when serving began: the warm-up is not a client's work.
    uncounted_scores : list of int
        The same of its scores by interval; empty for a model without calibration scores.
    streams : ModelStreams or None
        Of a model with memory.
    """

    name: str
    version: str
    detector: Detector
    outputs: tuple[str, ...]
    uncounted: dict[str, int]
    uncounted_scores: list[int]
    streams: ModelStreams | None = None

    @property
    def feature_counts(self) -> list[list[int]]:
        """Sampled values since serving began, by column and interval; empty where they are not counted."""
        return self.detector.scorer.feature_counts

    @property
    def score_counts(self) -> list[int]:
        """Scores since serving began, by interval of the calibration scores."""
        now = self.detector.scorer.score_counts
        return [count - before for count, before in zip(now, self.uncounted_scores, strict=True)]

    @property
    def counts(self) -> dict[str, int]:
        """`rows`, `anomalies` and `batches` since serving began."""
        return {name: value - self.uncounted[name] for name, value in self.detector.scorer.counts.items()}


class ServedModels:
    """The models being served; changed on the event loop only.

    Parameters
    ----------
    states : StreamStates
        The states of models with memory.
    keep_recent_rows : bool
        Whether some of the rows scored last are kept for those who watch.

    Attributes
    ----------
    states : StreamStates
    table : ModelTable
        The same models, as the native sessions see them.
    default_name : str
        Whose latest version answers requests that name no model; empty before the first model.
    """

    def __init__(self, states: StreamStates, *, keep_recent_rows: bool = False) -> None:
        self.states = states
        self._keep_recent_rows = keep_recent_rows
        self.table = ModelTable()
        self.default_name = ""
        self._by_name: dict[str, dict[str, ServedModel]] = {}  # Versions in order, the latest last.
        self._retired = dict.fromkeys(("rows", "anomalies", "batches"), 0)

    def serve(self, name: str, version: str, detector: Detector) -> None:
        """Serve a model from now on, as the latest version of its name; the first name is the default."""
        scorer = detector.scorer
        outputs, streams = outputs_of(detector), self.states.of(name, detector)
        model = ServedModel(name, version, detector, outputs, scorer.counts, scorer.score_counts, streams)
        scorer.observe()
        if self._keep_recent_rows:
            scorer.keep_recent_rows()
        versions = self._by_name.setdefault(name, {})
        self._retire(versions.pop(version, None))
        versions[version] = model
        self._put(model)
        if not self.default_name:
            self.set_default(name)

    def withdraw(self, name: str, version: str) -> None:
        """Serve a version no longer; batches under way finish on it."""
        versions = self._by_name.get(name, {})
        self._retire(versions.pop(version, None))
        if not versions:
            self._by_name.pop(name, None)
        self.table.remove(name, version)
        self.states.keep_only([model.streams for model in self.all() if model.streams is not None])

    def order(self, name: str, wanted: list[str]) -> None:
        """Put versions that are served into an order, the latest last; others come before them."""
        versions = self._by_name.get(name, {})
        if list(versions)[len(versions) - len(wanted) :] == wanted:
            return
        for version in wanted:
            versions[version] = model = versions.pop(version)
            self._put(model)

    def set_default(self, name: str) -> None:
        """Make `name` the model for requests that name none."""
        self.default_name = name
        self.table.set_default(name)

    def find(self, name: str = "", version: str = "") -> ServedModel:
        """Return the model for a request: an empty name is the default's, an empty version the latest.

        Raises
        ------
        ModelNotFoundError
            There is none.
        """
        versions = self._by_name.get(name or self.default_name, {})
        if not version and versions:
            return next(reversed(versions.values()))
        if version in versions:
            return versions[version]
        if not self._by_name:
            raise ModelNotFoundError("no model is being served")
        raise ModelNotFoundError(f"unknown model {name!r}" + (f", version {version!r}" if version else ""))

    def versions(self, name: str) -> list[str]:
        """List the versions of a name that are served, the latest last."""
        return list(self._by_name.get(name, {}))

    def all(self) -> list[ServedModel]:
        """List every model, by name, the latest version of each last."""
        return [model for _, versions in sorted(self._by_name.items()) for model in versions.values()]

    @property
    def counts(self) -> dict[str, int]:
        """`rows`, `anomalies` and `batches` of all models since the start, those withdrawn included."""
        total = dict(self._retired)
        for model in self.all():
            for name, value in model.counts.items():
                total[name] += value
        return total

    def _put(self, model: ServedModel) -> None:
        self.table.put(
            model.name,
            model.version,
            model.detector.scorer,
            reconstructs="output" in model.outputs,
            p_values=model.detector.p_value_table,
            states=model.streams.store if model.streams is not None else None,
        )

    def _retire(self, model: ServedModel | None) -> None:
        if model is not None:
            for name, value in model.counts.items():
                self._retired[name] += value
