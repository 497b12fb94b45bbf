"""The models being served: what requests name, and what answers them."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.backend import ModelTable
from datasentinel.errors import ModelNotFoundError, UnsupportedModelError
from datasentinel.serving.served_model import ServedModel
from datasentinel.serving.shadows import Shadow
from datasentinel.streams import clock_of, rules_of

if TYPE_CHECKING:
    from datasentinel.detector import Detector
    from datasentinel.serving.states import StreamStates

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
    names = [*DEFAULT_OUTPUTS, *(["warming"] if detector.scorer.state_dim else [])]
    if detector.threshold > 0:
        names.append("severity")
    for name, compute in (("output", detector.reconstruct), ("contributions", detector.contributions)):
        with suppress(UnsupportedModelError):
            compute(row)
            names.append(name)
    return tuple(names)


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
    shadows : dict of str to Shadow
        By name, the versions that warm up beside the latest one of their name.
    """

    def __init__(self, states: StreamStates, *, keep_recent_rows: bool = False) -> None:
        self.states = states
        self._keep_recent_rows = keep_recent_rows
        self.table = ModelTable()
        self.default_name = ""
        self.shadows: dict[str, Shadow] = {}
        self._by_name: dict[str, dict[str, ServedModel]] = {}  # Versions in order, the latest last.
        self._retired = dict.fromkeys(("rows", "anomalies", "batches"), 0)

    def serve(self, name: str, version: str, detector: Detector) -> None:
        """Serve a model from now on, as the latest version of its name; the first name is the default.

        One that warmed up in the shadow of another goes on with the streams as it knows them.
        """
        shadow = self.shadows.get(name)
        if shadow is not None and shadow.new.detector is detector:
            model = shadow.new
            self._forget_shadow(name)
        else:
            model = self._prepare(name, version, detector)
        versions = self._by_name.setdefault(name, {})
        self._retire(versions.pop(version, None))
        versions[version] = model
        self._put(model)
        if not self.default_name:
            self.set_default(name)
        self._drop_unused_states()

    def warm_in_shadow(self, name: str, version: str, detector: Detector, timeout_s: float) -> Shadow | None:
        """Let a model see the rows of the latest version of its name until it is warm, or the time is over.

        It takes the place of a shadow that there is. The caller serves it when `Shadow.is_due`.

        Returns
        -------
        Shadow or None
            None where there is nothing to wait for: one of the two has no memory, they share their states,
            their rows differ in width or only one's end with the second of the week, no stream is judged yet,
            or the new version is warm.
        """
        old = next(reversed(self._by_name.get(name, {}).values()), None)
        if not timeout_s or old is None or old.streams is None or not detector.scorer.state_dim:
            return None
        configs = [one.artifact.config for one in (old.detector, detector)]
        if len({(config.input_dim, bool(config.calendar)) for config in configs}) > 1:
            return None
        new = self._prepare(name, version, detector)
        shadow = Shadow(old, new, monotonic() + timeout_s)
        if new.streams == old.streams or shadow.is_warm:
            return None
        self.shadows[name] = shadow
        self._put(old)
        self._drop_unused_states()
        return shadow

    def end_shadow(self, name: str) -> None:
        """Drop the version that warms up under this name, if any."""
        self._forget_shadow(name)
        self._drop_unused_states()

    def withdraw(self, name: str, version: str) -> None:
        """Serve a version no longer; batches under way finish on it."""
        versions = self._by_name.get(name, {})
        self._retire(versions.pop(version, None))
        if not versions:
            self._by_name.pop(name, None)
        self.table.remove(name, version)
        self._drop_unused_states()

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

    def _prepare(self, name: str, version: str, detector: Detector) -> ServedModel:
        """Make what is served, before any of its rows is scored for a client."""
        scorer = detector.scorer
        outputs, streams = outputs_of(detector), self.states.of(name, detector)
        model = ServedModel(name, version, detector, outputs, scorer.counts, scorer.score_counts, streams)
        scorer.observe()
        if self._keep_recent_rows:
            scorer.keep_recent_rows()
        return model

    def _forget_shadow(self, name: str) -> None:
        shadow = self.shadows.pop(name, None)
        if shadow is not None and self._by_name.get(name, {}).get(shadow.old.version) is shadow.old:
            self._put(shadow.old)

    def _drop_unused_states(self) -> None:
        models = [*self.all(), *(shadow.new for shadow in self.shadows.values())]
        self.states.keep_only([model.streams for model in models if model.streams is not None])

    def _put(self, model: ServedModel) -> None:
        shadow = self.shadows.get(model.name)
        config = model.detector.artifact.config
        self.table.put(
            model.name,
            model.version,
            model.detector.scorer,
            reconstructs="output" in model.outputs,
            p_values=model.detector.p_value_table,
            states=model.streams.store if model.streams is not None else None,
            rules=rules_of(config),
            clock=clock_of(config),
            shadow=shadow.native if shadow is not None and shadow.old is model else None,
        )

    def _retire(self, model: ServedModel | None) -> None:
        if model is not None:
            for name, value in model.counts.items():
                self._retired[name] += value
