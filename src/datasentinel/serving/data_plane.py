"""The one way from any transport to the model: validate, score, account.

Transports decode requests and encode replies; everything between happens here, so that every protocol
answers and is counted alike.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.backend import RequestCounts, error_name
from datasentinel.errors import (
    BackendError,
    InvalidInputError,
    ModelNotFoundError,
    OutOfMemoryError,
    ResourceExhaustedError,
    UnsupportedModelError,
)
from datasentinel.serving.accounts import LATENCY_BOUNDS_S, TransportAccount
from datasentinel.serving.connections.turns import Turns
from datasentinel.serving.inference import Inference
from datasentinel.serving.models import ServedModels
from datasentinel.serving.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import numpy.typing as npt

    from datasentinel.backend import ModelTable
    from datasentinel.detector import Detector
    from datasentinel.reasons import Reason
    from datasentinel.serving.models import ServedModel
    from datasentinel.serving.tracing import Tracing
    from datasentinel.types import Float32Array

# What an error is called in the metrics, for transports without codes of their own; the first that fits.
INVALID, INTERNAL = "invalid_argument", "internal"
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (InvalidInputError, INVALID),
    (ModelNotFoundError, "not_found"),
    (UnsupportedModelError, "unimplemented"),
    (ResourceExhaustedError, "resource_exhausted"),
    (OutOfMemoryError, "resource_exhausted"),
    (BackendError, INTERNAL),
)

_TRACE_INTERVAL_S = 1.0

# What requests call a model whose artifact does not say.
_UNNAMED = "datasentinel"
_UNVERSIONED = "1"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One scored row: its score, whether and how far that is above the threshold, why and how rare."""

    score: float
    is_anomaly: bool
    severity: float
    reasons: Sequence[Reason] = ()
    p_value: float | None = None


class _Outcome:
    """What became of one request: filled in while it is answered."""

    __slots__ = ("anomalies", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.anomalies = 0


class DataPlane:
    """Models that are being served.

    Parameters
    ----------
    detector : Detector, optional
        Served from the start, under the name and version that its artifact gives.
    tracing : Tracing, optional
        Gets to know of every answer.
    settings : Settings, optional
        Limits of what is scored at once.

    Attributes
    ----------
    served : ServedModels
        The models, by name and version.
    turns : Turns
        Shares the event loop between the connections of all transports.
    ready : bool
        Whether requests are welcome: set when every transport listens, cleared when the server drains.
    reloads : dict of str to int
        Changed artifacts since the start: those that were served ("ok"), and those that could not ("failed").
    """

    def __init__(
        self,
        detector: Detector | None = None,
        tracing: Tracing | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._tracing = tracing
        self._settings = settings or Settings()
        self.served = ServedModels()
        self.turns = Turns()
        if detector is not None:
            self.served.serve(*names_of(detector), detector)
        self.ready = False
        self._accounts: dict[str, TransportAccount] = {}
        self.reloads = {"ok": 0, "failed": 0}

    @property
    def models(self) -> ModelTable:
        """The models as native sessions see them; every protocol asks it anew for each batch."""
        return self.served.table

    @property
    def has_default(self) -> bool:
        """Whether requests that name no model can be answered."""
        return bool(self.served.versions(self.served.default_name))

    @property
    def detector(self) -> Detector:
        """The default model's latest version.

        Raises
        ------
        ModelNotFoundError
            It is not being served.
        """
        return self.served.find().detector

    @property
    def counts(self) -> dict[str, int]:
        """The models' own counters `rows`, `anomalies` and `batches`, without the warm-up."""
        return self.served.counts

    @property
    def accounts(self) -> dict[str, TransportAccount]:
        """The accounts by transport, up to date."""
        self.trace()
        return self._accounts

    def trace(self) -> None:
        """Make the spans of what native sessions have answered since they were last asked."""
        for account in self._accounts.values():
            account.refresh()

    async def trace_for_ever(self) -> None:
        """Do so again and again."""
        while True:
            await asyncio.sleep(_TRACE_INTERVAL_S)
            self.trace()

    def request_counts(self, transport: str, code_name: Callable[[int], str] = error_name) -> RequestCounts:
        """Make what a transport's native sessions count in; its account follows.

        Parameters
        ----------
        transport : str
        code_name : callable
            Tells what the transport's codes of errors mean.
        """
        counts = RequestCounts(LATENCY_BOUNDS_S)
        if self._tracing is not None:
            counts.trace(self._tracing.min_s)
        account = self.account(transport)

        def refresh() -> None:
            account.take(counts, code_name)
            account.queued_rows = self.inference.native.queue_depth_rows
            account.queue_waits_s = self.inference.native.queue_waits_s

        account.source = refresh
        return counts

    def account(self, transport: str) -> TransportAccount:
        """Give the account of a transport, opened at first use."""
        account = self._accounts.setdefault(transport, TransportAccount())
        if self._tracing is not None and account.observer is None:
            account.observer = self._tracing.observer(transport)
        return account

    @cached_property
    def inference(self) -> Inference:
        """The native service that scores for all transports."""
        return Inference(self.models, self._settings)

    def evaluate(
        self,
        values: Sequence[float],
        account: TransportAccount,
        *,
        explain_top: int = 0,
        with_p_value: bool = False,
    ) -> Evaluation:
        """Score one row with the default model.

        Parameters
        ----------
        values : sequence of float, length D, raw units
        account : TransportAccount
            Where the request is counted.
        explain_top : int
            How many reasons to give, the greatest contributions first; 0 computes none.
        with_p_value : bool
            Whether to give the score's p-value.

        Raises
        ------
        InvalidInputError
            Wrong number of values, or a non-finite one.
        ModelNotFoundError
            No model is being served.
        UnsupportedModelError
            Reasons or a p-value are asked for, and the model cannot give any.
        BackendError, OutOfMemoryError
            The backend failed.
        """
        model = self.served.find()
        detector = model.detector
        reasons: Sequence[Reason] = ()
        p_value = None
        with self._counted(model, account) as outcome:
            row = np.array(values, dtype=np.float32)
            if explain_top:
                (reasons,) = detector.explain(row, explain_top)
            scores = detector.score(row)
            if with_p_value:
                p_value = float(detector.p_values_of_scores(scores)[0])
            score = float(scores[0])
            outcome.rows = 1
            outcome.anomalies = int(score > detector.threshold)
        severity = severity_of(score, detector.threshold)
        return Evaluation(score, bool(outcome.anomalies), severity, reasons, p_value)

    def infer(
        self, model: ServedModel, rows: Float32Array, wanted: Collection[str], account: TransportAccount
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Compute the outputs wanted of many rows, and nothing else.

        Parameters
        ----------
        model : ServedModel
        rows : ndarray of float32, shape [N, D], raw units
        wanted : collection of {"score", "anomaly", "output", "contributions"}
        account : TransportAccount
            Where the request is counted.

        Returns
        -------
        dict of str to ndarray
            `score` float32 [N], `anomaly` bool [N], `output` and `contributions` float32 [N, D].

        Raises
        ------
        InvalidInputError
            Wrong shape, or a non-finite value; row and column are named.
        UnsupportedModelError
            The model has no such output.
        BackendError, OutOfMemoryError
            The backend failed.
        """
        detector = model.detector
        outputs: dict[str, npt.NDArray[np.generic]] = {}
        with self._counted(model, account) as outcome:
            if rows.ndim != 2 or rows.shape[1] != detector.input_dim:
                raise InvalidInputError(f"expected shape [N, {detector.input_dim}], got {list(rows.shape)}")
            if "score" in wanted or "anomaly" in wanted:
                scores = detector.score(rows)
                # In float64, as the core decides: the threshold may lie between two float32.
                anomalies = scores.astype(np.float64) > detector.threshold
                outputs |= {"score": scores, "anomaly": anomalies}
                outcome.anomalies = int(np.count_nonzero(anomalies))
            if "output" in wanted:
                outputs["output"] = detector.reconstruct(rows)
            if "contributions" in wanted:
                outputs["contributions"] = detector.contributions(rows)
            outcome.rows = len(rows)
        return outputs

    @contextmanager
    def refusals_counted(self, account: TransportAccount, model: ServedModel | None = None) -> Iterator[None]:
        """Account for a request that fails before it reaches `infer`, and a model where it is known."""
        try:
            yield
        except Exception as error:
            code = code_of(error)
            account.add(requests=1, rows=0, anomalies=0, errors=1, latency_s=0.0, code=code)
            if model is not None:
                self.models.count_request(model.name, model.version, success=False, took_ns=0)
            raise

    @contextmanager
    def _counted(self, model: ServedModel, account: TransportAccount) -> Iterator[_Outcome]:
        """Account for one request, whatever becomes of it."""
        started = perf_counter()
        outcome = _Outcome()
        success, code = False, ""
        try:
            yield outcome
            success = True
        except Exception as error:
            code = code_of(error)
            raise
        finally:
            took_s = perf_counter() - started
            account.add(
                requests=1,
                rows=outcome.rows,
                anomalies=outcome.anomalies,
                errors=not success,
                latency_s=took_s,
                code=code,
            )
            self.models.count_request(model.name, model.version, success=success, took_ns=int(took_s * 1e9))


def severity_of(score: float, threshold: float) -> float:
    """Return score / threshold, within float32's range, as the core does (`serving/severity.h`)."""
    largest = float(np.finfo(np.float32).max)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.float64(score) / np.float64(threshold)
    return float(np.float32(np.clip(ratio, -largest, largest)))


def names_of(detector: Detector) -> tuple[str, str]:
    """Give the name and version that a model's artifact carries, or those of one that does not say."""
    config = detector.artifact.config
    return config.name or _UNNAMED, config.version or _UNVERSIONED


def code_of(error: Exception) -> str:
    """Tell what an error is called in the metrics."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL)
