"""The detector as a scikit-learn estimator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from itertools import compress
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.artifact import Artifact, load_artifact, save_artifact
from datasentinel.detector import Detector
from datasentinel.errors import DataWarning, InvalidInputError, MissingDependencyError, SettingsError
from datasentinel.input_rows import refuse_masked
from datasentinel.missing import fill_forward
from datasentinel.streams import StreamDetector
from datasentinel.tables import Roles, frames

try:
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingDependencyError(
        'the estimator needs scikit-learn 1.6 or newer: pip install "datasentinel[train]"'
    ) from error

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Sequence

    import numpy.typing as npt

    from datasentinel.calibration import ThresholdMethod
    from datasentinel.training.ensemble import Ensemble
    from datasentinel.training.season import SeasonKind
    from datasentinel.training.settings import MissingValues, ModelKind
    from datasentinel.types import Float32Array, Float64Array

# Where an artifact is said to lie that lies in memory only.
_IN_MEMORY = Path("(in memory)")


class AutoencoderDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Anomaly detector with scikit-learn's interface, trained on normal rows.

    Rows are scored by the exported artifact on a backend, so what is judged here is what is served.

    Two conventions meet in scikit-learn-like detectors, and each method keeps to one of them:

    - *Higher is more anomalous* (PyOD, and everything else in datasentinel): `score_samples`, which is the
      score that the artifact, the command line and the servers report, `decision_scores_`, `threshold_`,
      `labels_` (1 for anomalies) and `predict_proba`.
    - *Negative is an outlier* (scikit-learn): `decision_function`, which is `threshold_` minus the score, and
      `predict`, which is 1 for normal rows and -1 for anomalies.

    So `decision_function` falls as `score_samples` rises, unlike in scikit-learn's own detectors.

    Parameters
    ----------
    model : {"auto", "ensemble", "subspace", "context", "autoencoder"}
        "auto" takes the principal subspace for a recording, in which neighbouring rows are alike, and the
        ensemble for everything else. "context" judges the rows of a recording by those before them; "auto"
        takes it for recordings whose `groups` are passed.
    steps : int, optional
        Training steps of the ensemble's autoencoder, 600 by default.
    prototypes : int, optional
        How many the ensemble has at most in each of its three spaces; by default chosen by the number of
        columns.
    target_fpr : float
        Share of normal rows that may be called anomalies.
    threshold_method : {"conformal", "quantile", "mean+3std"}
        How the threshold is found, see `datasentinel.calibration.calibrate`; `target_fpr` is for the first
        two.
    backend : {"auto", "onnxruntime", "tensorrt", "fused"}
        What scores; "auto" takes the first one that can.
    features, ignore : sequence of str
        For data frames: the columns to learn from, and columns to leave out; names or patterns such as
        `"*_id"`.
    time, id, label : str, optional
        For data frames: the columns that say when a row was taken, to which series it belongs, and whether it
        is an anomaly. The series are the `groups` of `fit` and of all methods that score, where none are
        given. Rows labelled as anomalies are not trained on. Without these, a label is found by its
        name and values, and indexes, timestamps, identifiers and text are left out, with a warning each.
    season : {"auto", "day", "week"}, optional
        Take out what the columns usually are at that time of the day or of the week. The last column is then
        the second of the week, see `datasentinel.calendar_time.second_of_week`.
    missing : {"error", "carry"}
        What NaN is: an error, or with `model="context"` a value to carry from the row before.
    time_zone : str
        The one in which it counts, for readers of the artifact.
    warm_start : bool
        Whether `fit` goes on training the ensemble's autoencoder of an earlier `fit` on rows of as many
        features. Scaling, whitening, prototypes and calibration have closed or cheap solutions and are always
        relearnt. Not kept over pickling; a plain autoencoder always starts from principal components.
    random_state : int, RandomState or None
        Seed of everything random in `fit`; None takes a new one from NumPy's global state.

    Attributes
    ----------
    artifact_ : Artifact
        The exported model and its configuration.
    threshold_ : float
        A row is an anomaly iff its score is greater.
    offset_ : float
        `-threshold_`, scikit-learn's name for it: `decision_function` is `-score_samples - offset_`.
    decision_scores_ : float32 array, shape [N]
        Scores of the rows of `fit`. They had a part in training, so new normal rows score higher.
    labels_ : int array, shape [N]
        1 for rows of `fit` above the threshold, else 0.
    n_features_in_ : int
        Number of features, D.
    feature_names_in_ : array of str, shape [D]
        Names of the columns, where `fit` was given a data frame.

    Examples
    --------
    >>> import numpy as np
    >>> from datasentinel import AutoencoderDetector
    >>> normal = np.random.default_rng(0).normal(size=(500, 4))
    >>> detector = AutoencoderDetector().fit(normal)          # doctest: +SKIP
    >>> detector.predict([[0, 0, 0, 0], [9, 9, 9, 9]])        # doctest: +SKIP
    array([ 1, -1])
    """

    def __init__(
        self,
        *,
        model: ModelKind = "auto",
        steps: int | None = None,
        prototypes: int | None = None,
        target_fpr: float = 0.01,
        threshold_method: ThresholdMethod = "conformal",
        backend: str = "auto",
        features: Sequence[str] = (),
        ignore: Sequence[str] = (),
        time: str | None = None,
        id: str | None = None,  # noqa: A002 - as the command line says it
        label: str | None = None,
        season: SeasonKind | None = None,
        missing: MissingValues = "error",
        time_zone: str = "UTC",
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.model = model
        self.steps = steps
        self.prototypes = prototypes
        self.target_fpr = target_fpr
        self.threshold_method = threshold_method
        self.backend = backend
        self.features = features
        self.ignore = ignore
        self.time = time
        self.id = id
        self.label = label
        self.season = season
        self.missing = missing
        self.time_zone = time_zone
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(
        self,
        X: object,  # noqa: N803
        y: object = None,  # noqa: ARG002
        groups: Sequence[Hashable] | None = None,
    ) -> AutoencoderDetector:
        """Train on rows that are normal, or almost all of them.

        Warns with `datasentinel.errors.DataWarning` of columns that float32 does not resolve, of a target
        that the rows are too few for, and where the first model did not keep its promise.

        Parameters
        ----------
        X : array-like or data frame, shape [N, D]
            Finite numbers in raw units; no scaling is needed.
        y : ignored
            For scikit-learn's sake.
        groups : sequence of hashable, length N, optional
            The recording that each row belongs to, where there are several; the rows of each are in order of
            time.

        Raises
        ------
        DataError
            Too few rows, or no column varies.
        InvalidInputError
            A value is not finite, there are not N groups, or a parameter makes no sense, such as names of
            columns for rows without names.
        """
        from datasentinel.export import build_artifact
        from datasentinel.training import TrainingSettings, train
        from datasentinel.training.recording import Order, is_recording

        features, ignore = (_as_names(name, getattr(self, name)) for name in ("features", "ignore"))
        refuse_masked(X)
        asked = Roles(features, ignore, self.time, self.id, self.label)
        known = frames.learnable(X, asked)
        for doubt in known.doubts:
            warnings.warn(doubt, DataWarning, stacklevel=2)
        rows = validate_data(
            self,
            known.rows,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2,
            ensure_all_finite="allow-nan" if self.missing == "carry" else True,
        )
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = int(check_random_state(seed).randint(2**31 - 1))
        settings = TrainingSettings(
            model=self.model,
            steps=self.steps,
            prototypes=self.prototypes,
            threshold_method=self.threshold_method,
            target_fpr=self.target_fpr,
            season=self.season,
            missing=self.missing,
            seed=int(seed),
        )
        names = getattr(self, "feature_names_in_", ())
        is_normal = np.ones(len(rows), bool) if known.is_anomaly is None else ~known.is_anomaly
        normal, order = rows[is_normal], Order()
        groups = frames.series_of(X, self.id) if groups is None else groups
        if groups is not None:
            told = list(compress(_as_many(groups, rows), is_normal))
            in_order, order = Order.of_rows(told)
            normal = normal[in_order]
            if settings.may_have_memory and is_recording(normal.astype(np.float32)):
                settings = replace(settings, model="context")
        result = train(normal, settings=settings, feature_names=names, start=self._earlier(), order=order)
        for warning in result.warnings:
            warnings.warn(warning, DataWarning, stacklevel=2)
        if result.first_values:
            normal = fill_forward(normal, result.first_values, order.starts)
        built = build_artifact(
            result,
            rows=normal.astype(np.float32),
            feature_names=names,
            columns=known.facts,
            time_zone=self.time_zone,
            training_facts={"seed": int(seed)},
        )
        self._trained = result.model
        self._take(Artifact(_IN_MEMORY, built.config, built.onnx))
        self.decision_scores_ = self._score(rows, groups)
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def score_samples(self, X: object, groups: Sequence[Hashable] | None = None) -> Float32Array:  # noqa: N803
        """Score rows; higher is more anomalous.

        Parameters
        ----------
        X : array-like or data frame, shape [N, D]
            For `model="context"` a recording, from its beginning on.
        groups : sequence of hashable, length N, optional
            The recording that each row belongs to, where there are several: each is scored for itself, its
            rows in the order given. A model without memory does not need them.

        Returns
        -------
        float32 array, shape [N]

        Raises
        ------
        InvalidInputError
            A value is not finite as float32, or there are not N groups.
        """
        check_is_fitted(self, "artifact_")
        refuse_masked(X)
        rows = validate_data(
            self,
            frames.without(X, self.artifact_.config.other_columns, getattr(self, "feature_names_in_", ())),
            dtype=[np.float64, np.float32],
            reset=False,
            ensure_all_finite="allow-nan" if self.artifact_.config.first_values else True,
        )
        known = self.artifact_.config.columns.get("id")
        return self._score(rows, frames.series_of(X, known) if groups is None else groups)

    def severity(self, X: object, groups: Sequence[Hashable] | None = None) -> Float32Array:  # noqa: N803
        """Return scores over `threshold_`, shape [N]: above 1 for anomalies; see `Detector.severity`."""
        scores = self.score_samples(X, groups)
        return self._loaded().severity_of_scores(scores)

    def decision_function(
        self,
        X: object,  # noqa: N803
        groups: Sequence[Hashable] | None = None,
    ) -> Float32Array:
        """Return `threshold_` minus the scores, shape [N]: negative for outliers, as in scikit-learn."""
        scores = self.score_samples(X, groups)
        # The difference of float64 numbers has the right sign, which rounding it to float32 keeps.
        return (self.threshold_ - scores.astype(np.float64)).astype(np.float32)

    def predict(
        self,
        X: object,  # noqa: N803
        groups: Sequence[Hashable] | None = None,
    ) -> npt.NDArray[np.int_]:
        """Return 1 for normal rows and -1 for anomalies, shape [N], as in scikit-learn."""
        decisions: npt.NDArray[np.int_] = np.where(self.decision_function(X, groups) >= 0, 1, -1)
        return decisions

    def p_values(self, X: object, groups: Sequence[Hashable] | None = None) -> Float64Array:  # noqa: N803
        """Return how rare scores like the rows' own are among held-out normal rows.

        Parameters
        ----------
        X : array-like or data frame, shape [N, D]
        groups : sequence of hashable, length N, optional
            As for `score_samples`.

        Returns
        -------
        float64 array, shape [N]
            In (0, 1]; of new normal rows at most a share a has a p-value of a or less, see
            `datasentinel.Detector.p_values`.

        Raises
        ------
        InvalidInputError
            A value is not finite as float32.
        UnsupportedModelError
            A loaded artifact has no calibration scores to compare with.
        """
        scores = self.score_samples(X, groups)
        return self._loaded().p_values_of_scores(scores)

    def predict_proba(
        self,
        X: object,  # noqa: N803
        groups: Sequence[Hashable] | None = None,
    ) -> Float32Array:
        """Return how extreme rows are among held-out normal rows, shape [N, 2].

        The first column is `p_values`, the second its complement. As in PyOD, the columns are for "normal"
        and "anomaly"; unlike a classifier's, they know nothing of how frequent anomalies are.
        """
        p_values = self.p_values(X, groups)
        return np.column_stack([p_values, 1 - p_values]).astype(np.float32)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the artifact, `model.onnx` and `config.json`, for `Detector.load` and `datasentinel serve`.

        Returns
        -------
        Path
            `directory`.

        Raises
        ------
        ArtifactError
            It cannot be written.
        """
        check_is_fitted(self, "artifact_")
        return save_artifact(directory, self.artifact_.onnx, self.artifact_.config)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], *, backend: str = "auto") -> AutoencoderDetector:
        """Load what `save` or `datasentinel train` wrote; torch is not needed.

        The result scores; `decision_scores_` and `labels_` are not stored, and parameters that the artifact
        does not tell have their defaults.

        Raises
        ------
        ModelNotFoundError, ArtifactError
            There is no sound artifact.
        """
        artifact = load_artifact(directory)
        told: dict[str, Any] = {
            "model": artifact.config.training.get("model"),
            "steps": artifact.config.training.get("steps"),
            "random_state": artifact.config.training.get("seed"),
            "target_fpr": artifact.config.calibration.get("target_fpr"),
            "threshold_method": artifact.config.calibration.get("method"),
            "missing": "carry" if artifact.config.first_values else None,
        }
        estimator = cls(backend=backend, **{k: value for k, value in told.items() if value is not None})
        config = artifact.config
        estimator.n_features_in_ = config.input_dim
        if config.feature_names:
            estimator.feature_names_in_ = np.array(config.feature_names, dtype=object)
        estimator._take(artifact)
        return estimator

    def _take(self, artifact: Artifact) -> None:
        self.artifact_ = artifact
        self.threshold_ = artifact.config.threshold
        self.offset_ = -self.threshold_
        self._detector: Detector | None = self._open(artifact)

    def _open(self, artifact: Artifact) -> Detector:
        return Detector(artifact, backend=self.backend, plan_budget_s=0)

    def _loaded(self) -> Detector:
        if self._detector is None:
            self._detector = self._open(self.artifact_)
        return self._detector

    def _score(self, rows: Float32Array | Float64Array, groups: Sequence[Hashable] | None) -> Float32Array:
        if groups is None or not self.artifact_.config.state:
            return self._loaded().score(rows)
        numbers: dict[Hashable, int] = {}
        streams = [numbers.setdefault(group, len(numbers)) for group in _as_many(groups, rows)]
        detector = StreamDetector(self._loaded(), max_streams=max(1, len(numbers)))
        return detector.update_many(rows, streams)[0]

    def _earlier(self) -> Ensemble | None:
        if not self.warm_start or self.model not in ("auto", "ensemble"):
            return None
        from datasentinel.training.ensemble import Ensemble

        earlier = getattr(self, "_trained", None)
        if not isinstance(earlier, Ensemble):
            return None
        if earlier.input_dim != self.n_features_in_:
            raise InvalidInputError(
                f"warm_start: the earlier fit had {earlier.input_dim} features, this one has "
                f"{self.n_features_in_}"
            )
        return earlier

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded model out: the artifact is all that is needed to load it again."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "_detector" in state:
            state.update(_detector=None, _trained=None)
        return state


def _as_names(parameter: str, told: object) -> tuple[str, ...]:
    """Return names of columns, which may come from a generator."""
    names = tuple(told) if isinstance(told, Iterable) and not isinstance(told, str) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise SettingsError(f"{parameter} must be a sequence of names, such as ['temp'], got {told!r}")
    return names


def _as_many(groups: Sequence[Hashable], rows: Float32Array | Float64Array) -> Sequence[Hashable]:
    if len(groups) != len(rows):
        raise InvalidInputError(f"{len(rows)} rows, but {len(groups)} groups")
    return groups
