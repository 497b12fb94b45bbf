"""The detector: a loaded model that scores rows and decides which are abnormal."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from datasentinel.artifact import Artifact, load_artifact
from datasentinel.backend import DEFAULT_PLAN_BUDGET_S, Scorer, load_p_values, load_scorer
from datasentinel.errors import InvalidInputError, UnsupportedModelError
from datasentinel.input_rows import recording_of, rows_of
from datasentinel.reasons import rank_reasons

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from datasentinel.gpu import EngineOptions
    from datasentinel.reasons import Reason
    from datasentinel.types import BoolArray, Float32Array, Float64Array

_Result = TypeVar("_Result")


class Detector:
    """A trained detector, loaded and ready to score.

    Safe to use from several threads. Make one with `Detector.load`.

    Parameters
    ----------
    artifact : Artifact
        The model and its configuration.
    backend : str
        What runs the model: "auto", "onnxruntime", "tensorrt", "fused", "fused-cuda", "onnxruntime-cuda" or
        "onnxruntime-tensorrt". "auto" measures those that can (the last one aside) and takes the fastest for
        each batch size; a named backend that cannot run is an error.
    num_threads : int
        Threads that one call may use.
    plan_budget_s : float
        For "auto": about how long measuring the backends may take when no plan is remembered for this model
        and machine; 0 takes the first backend that can run the model.
    engine : EngineOptions, optional
        For backends that compile models for a device, such as "tensorrt".
    precision : str
        What the network's layers are multiplied in: "float32", or what the backend offers besides: "tf32" of
        "tensorrt"; "bf16" of "fused" where the processor has AMX or AVX512_BF16; "tf32", "bf16" and "fp16" of
        "fused-cuda". Other backends refuse to load then.

    Examples
    --------
    >>> detector = Detector.load("models/")             # doctest: +SKIP
    >>> detector.score([[0.1, 0.2, 0.3]])               # doctest: +SKIP
    array([0.0123], dtype=float32)
    """

    __slots__ = ("_options", "_score", "artifact", "p_value_table", "scorer")

    def __init__(
        self,
        artifact: Artifact,
        *,
        backend: str = "auto",
        num_threads: int = 1,
        plan_budget_s: float = DEFAULT_PLAN_BUDGET_S,
        engine: EngineOptions | None = None,
        precision: str = "float32",
    ) -> None:
        self.artifact = artifact
        self._options: dict[str, Any] = {
            "backend": backend,
            "num_threads": num_threads,
            "precision": precision,
            "plan_budget_s": plan_budget_s,
            "engine": engine,
        }
        self.scorer: Scorer = load_scorer(artifact, **self._options)
        self._score = self._score_recording if self.scorer.state_dim else self.scorer.score
        self.p_value_table = load_p_values(artifact)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: str = "auto",
        num_threads: int = 1,
        plan_budget_s: float = DEFAULT_PLAN_BUDGET_S,
        engine: EngineOptions | None = None,
        precision: str = "float32",
    ) -> Detector:
        """Load a detector from an artifact folder.

        Parameters
        ----------
        path : path-like
            A folder with `model.onnx` and `config.json`, or a folder of `<name>/<version>/` ones that holds
            one model (its newest version is taken).
        backend, num_threads, plan_budget_s, engine, precision
            As for the class.

        Raises
        ------
        ModelNotFoundError
            There is no artifact at `path`.
        ArtifactError
            The artifact is broken; file and key are named.
        BackendUnavailableError, UnsupportedModelError, BackendError
            The backend cannot run here, or cannot run this model.
        """
        return cls(
            load_artifact(path),
            backend=backend,
            num_threads=num_threads,
            plan_budget_s=plan_budget_s,
            engine=engine,
            precision=precision,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by content: the artifact travels along, and is loaded again where it arrives."""
        return partial(type(self), **self._options), (self.artifact,)

    def _call(self, method: Callable[..., _Result], x: object, out: Float32Array | None = None) -> _Result:
        """Call a method of the core with `x` as it is, or converted where the core cannot use it in place."""
        result = method(x) if out is None else method(x, out)
        if result is NotImplemented:
            return self._call(method, rows_of(x, self.artifact.config), out)
        return result

    @property
    def input_dim(self) -> int:
        """Number of values in a row, D."""
        return self.scorer.input_dim

    @property
    def threshold(self) -> float:
        """A row is an anomaly when its score is strictly above this."""
        return self.scorer.threshold

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns' names, in order; empty when the artifact has none."""
        return self.artifact.config.feature_names

    @property
    def backend(self) -> str:
        """The backend in use."""
        return self.scorer.backend

    def score(
        self, x: object, out: Float32Array | None = None, *, stream: object | None = None
    ) -> Float32Array:
        """Score rows; higher is more anomalous.

        A model with memory takes them as one recording, from its beginning on;
        `datasentinel.streams.StreamDetector` goes on where the last rows of a stream ended. Where it was
        trained to carry missing values, NaN is one.

        Parameters
        ----------
        x : array_like of real numbers, shape [N, D] or [D], raw units
            A C-contiguous float32 array is used in place, also one that another library lends by DLPack
            (torch, JAX, Arrow); anything else is converted once. Where the model has feature names, a data
            frame's columns are taken by name, whatever their order; those that the model was trained beside
            (time, id, label, ignored ones) are passed over. With the backend "fused-cuda" it may lie on
            the CUDA device (`__dlpack__` or `__cuda_array_interface__`), C-contiguous and float32.
        out : ndarray of float32, shape [N] ([1] for a single row), optional
            Where to write the scores; nothing is allocated then. For rows on the device, memory there. What
            it holds after an error means nothing.
        stream : int or object with `__cuda_stream__`, optional
            For rows on the device: the CUDA stream on which `x` and `out` are ready. The work is given to it
            and not waited for: the caller synchronises, and keeps `x`, `out` and the detector until then.
            With `out`, nothing is allocated either, and the stream may be captured for a CUDA graph. A value
            that is not finite is an error of the next call, or of `check`.

        Returns
        -------
        ndarray of float32, shape [N] ([1] for a single row)
            Always finite: a row so extreme that it overflows float32 inside the model gets the largest
            float32. This is `out` when that was given. Scores of rows on the device stay there, in an object
            with `__dlpack__` and `__cuda_array_interface__`, complete on return unless `stream` was given:
            `torch.from_dlpack(...)` takes them without a copy. The scorer's counts leave them out.

        Raises
        ------
        InvalidInputError
            Wrong shape or dtype, a non-finite or masked value (row, column and feature are named), or a data
            frame that lacks a feature or has a column that the model does not know.
        BackendError
            The backend's library failed.
        """
        if stream is not None:
            return self.scorer.score_on_stream(x, out, stream)
        return self._call(self._score, x, out)

    def check(self) -> None:
        """Report what was wrong with rows that were scored with `stream`, once their streams were waited for.

        Raises
        ------
        InvalidInputError
            A value was not finite; row and column in its call are named, the first of all calls since the
            last report. The scores of all these calls are to be doubted.
        """
        self.scorer.check_device_rows()

    def predict(self, x: object) -> BoolArray:
        """Decide which rows are anomalies: score strictly above the threshold.

        The first rows of a recording, while a model with memory warms up, never are.

        Parameters
        ----------
        x : array_like of real numbers, shape [N, D] or [D], raw units

        Returns
        -------
        ndarray of bool, shape [N] ([1] for a single row)

        Raises
        ------
        InvalidInputError, BackendError
            As for `score`.
        """
        if not self.scorer.state_dim:
            return self._call(self.scorer.predict, x)
        anomalies: BoolArray = self.score(x).astype(np.float64) > self.threshold
        anomalies[: self.artifact.config.warm_up_rows] = False
        return anomalies

    def p_values(self, x: object) -> Float64Array:
        """Return for each row how rare a score like its own is among normal rows.

        The p-value is the share of calibration rows, the row itself counted in, that score at least as much
        (see `datasentinel.calibration`). Of new normal rows at most a share a has a p-value of a or less, so
        `p_values(x) <= a` finds anomalies with a false-positive rate of at most a.

        Parameters
        ----------
        x : array_like of real numbers, shape [N, D] or [D], raw units

        Returns
        -------
        ndarray of float64, shape [N] ([1] for a single row)
            In (0, 1]; never greater for a greater score.

        Raises
        ------
        InvalidInputError, BackendError
            As for `score`.
        UnsupportedModelError
            The artifact has no calibration scores to compare with.
        """
        return self.p_values_of_scores(self.score(x))

    def p_values_of_scores(self, scores: Float32Array) -> Float64Array:
        """Return the p-values [N] of scores [N] that `score` returned; see `p_values`."""
        if self.p_value_table is None:
            raise UnsupportedModelError(
                f"{self.artifact.directory}: config.json has no 'calibration.score_table' to take p-values "
                "from; run `datasentinel recalibrate` with normal rows"
            )
        return self.p_value_table.p_values(scores)

    def severity(self, x: object) -> Float32Array:
        """Return how far above the threshold rows score, on a scale that is the same for every model.

        Parameters
        ----------
        x : array_like of real numbers, shape [N, D] or [D], raw units

        Returns
        -------
        ndarray of float32, shape [N] ([1] for a single row)
            Score over threshold: above 1 for anomalies, however the model's scores are scaled.

        Raises
        ------
        InvalidInputError, BackendError
            As for `score`.
        UnsupportedModelError
            The threshold is not above 0, as that of models whose score is a logarithm.
        """
        return self.severity_of_scores(self.score(x))

    def severity_of_scores(self, scores: Float32Array) -> Float32Array:
        """Return the severity [N] of scores [N] that `score` returned; see `severity`."""
        if self.threshold <= 0:
            raise UnsupportedModelError(
                f"{self.artifact.directory}: severity is the score over the threshold, and this model's "
                f"threshold is {self.threshold:g}, not above 0; retrain it for positive scores"
            )
        ratio = np.minimum(scores.astype(np.float64) / self.threshold, np.finfo(np.float32).max)
        # Rounding must not move a row across 1.
        above = scores.astype(np.float64) > self.threshold
        severity = ratio.astype(np.float32)
        least_above = np.nextafter(np.float32(1), np.float32(2))
        return np.where(above, np.maximum(severity, least_above), np.minimum(severity, np.float32(1)))

    def reconstruct(self, x: object, out: Float32Array | None = None) -> Float32Array:
        """Return what each row would have been, had it been normal, in raw units.

        Parameters
        ----------
        x : array_like of real numbers, shape [N, D] or [D], raw units
        out : ndarray of float32, same shape as x, optional
            Where to write the result.

        Returns
        -------
        ndarray of float32, same shape as x

        Raises
        ------
        InvalidInputError, BackendError
            As for `score`.
        UnsupportedModelError
            The model scores without reconstructing.
        """
        if self.scorer.state_dim:
            return self._scan(x, out, "reconstructions")
        return self._call(self.scorer.reconstruct, x, out)

    def contributions(self, x: object, out: Float32Array | None = None) -> Float32Array:
        """Return each feature's part in the score.

        Parameters
        ----------
        x : array_like of real numbers, shape [N, D] or [D], raw units
        out : ndarray of float32, same shape as x, optional
            Where to write the result.

        Returns
        -------
        ndarray of float32, same shape as x
            Not negative and finite. A row's contributions add up to its score where the score is a mean of
            squared residuals, and otherwise to 1: docs/explanations.md has the formulas.

        Raises
        ------
        InvalidInputError, BackendError
            As for `score`.
        UnsupportedModelError
            The model scores without saying why.
        """
        if self.scorer.state_dim:
            return self._scan(x, out, "contributions")
        return self._call(self.scorer.contributions, x, out)

    def explain(self, x: object, top: int = 5) -> list[list[Reason]]:
        """Name the features that contributed most to the score of each row.

        Parameters
        ----------
        x : array_like of real numbers, shape [N, D] or [D], raw units
        top : int
            How many reasons a row, at least 1; all features where D is smaller.

        Returns
        -------
        list of list of Reason
            One list a row, greatest contribution first; equal contributions in the order of the columns.

        Raises
        ------
        InvalidInputError
            As for `score`, and for a `top` below 1.
        BackendError
            As for `score`.
        UnsupportedModelError
            The model scores without saying why.
        """
        if top < 1:
            raise InvalidInputError(f"top must be at least 1, got {top}")
        rows = np.atleast_2d(recording_of(x, self.artifact.config))
        contributions = self.contributions(rows)
        expected: Float32Array | None = None
        with contextlib.suppress(UnsupportedModelError):
            expected = self.reconstruct(rows)
        return rank_reasons(contributions, rows, expected, names=self.feature_names, top=top)

    def _score_recording(self, x: object, out: Float32Array | None = None) -> Float32Array:
        return self._scan(x, out, "scores")

    def _scan(self, x: object, out: Float32Array | None, wanted: str) -> Float32Array:
        """Compute what is wanted of a recording's rows, one after the other, from a new stream's state on."""
        rows = recording_of(x, self.artifact.config)
        shape = (len(np.atleast_2d(rows)),) if wanted == "scores" else rows.shape
        result = np.empty(shape, np.float32) if out is None else out
        state = np.zeros((1, self.scorer.state_dim), np.float32)
        matrix = result if wanted == "scores" else np.atleast_2d(result)
        self.scorer.scan(rows, state, **{wanted: matrix})
        return result

    def info(self) -> dict[str, Any]:
        """Describe what is loaded and how it runs.

        Returns
        -------
        dict
            `name`, `version`, `directory`, `input_dim`, `threshold`, `score`, `backend`, the backend's
            `facts`, the `plan` of "auto" (smallest number of rows → backend), the `timings` it rests on, and
            `refusals`: every backend passed over, with the reason.
        """
        config = self.artifact.config
        plan = self.scorer.plan
        return {
            "name": config.name,
            "version": config.version,
            "directory": str(self.artifact.directory),
            "input_dim": self.input_dim,
            "threshold": self.threshold,
            "score": config.score,
            "backend": self.backend,
            "facts": self.scorer.facts,
            "plan": dict(plan.steps),
            "timings": plan.timings,
            "refusals": dict(plan.refusals),
        }
