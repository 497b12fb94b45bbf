"""From rows to a trained and calibrated detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from datasentinel.calibration import Calibration, calibrate
from datasentinel.errors import DataError, InvalidInputError
from datasentinel.quality import Quality, judge
from datasentinel.training.denoiser import STEPS
from datasentinel.training.ensemble import HELD_OUT, Ensemble, fit_ensemble
from datasentinel.training.plain import HELD_OUT as PLAIN_HELD_OUT
from datasentinel.training.plain import PlainAutoencoder, fit_plain
from datasentinel.training.recording import is_recording
from datasentinel.training.settings import TrainingSettings
from datasentinel.training.subspace import Subspace, can_span, fit_subspace, refit

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from datasentinel.training.progress import Epoch
    from datasentinel.types import BoolArray, Float32Array

    _Scalar = TypeVar("_Scalar", bound=np.generic)

Model: TypeAlias = Ensemble | Subspace | PlainAutoencoder

MIN_NORMAL_ROWS = 10
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class TrainingResult:
    """A trained detector and how it came to be.

    Attributes
    ----------
    model : Ensemble, Subspace or PlainAutoencoder
        From raw rows to scores and reconstructions.
    calibration : Calibration
        The threshold and where it is from.
    history : list of Epoch
        The progress of training.
    rows_trained, rows_held_out : int
        Numbers of normal rows. Unless the model is a plain autoencoder, those held out are among those
        trained on in the end.
    recording : bool
        Whether the rows were treated as a recording; see `is_recording`. Never for a plain autoencoder.
    test_scores, test_labels : array, shape [T], or None
        Scores and labels of rows that had no part in training, where there are any.
    quality : Quality or None
        Their comparison.
    """

    model: Model
    calibration: Calibration
    history: list[Epoch]
    rows_trained: int
    rows_held_out: int
    recording: bool
    test_scores: Float32Array | None
    test_labels: BoolArray | None
    quality: Quality | None


def train(
    rows: npt.ArrayLike,
    *,
    labels: npt.ArrayLike | None = None,
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    settings: TrainingSettings | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    start: Ensemble | None = None,
) -> TrainingResult:
    """Train a detector on the normal rows.

    Parameters
    ----------
    rows : array-like, shape [N, D]
        Raw rows, finite also as float32.
    labels : array-like of bool, shape [N], optional
        True for anomalies. They are never trained on; where there are some and `test` is not given, all of
        them and a fifth of the normal rows (the last of a recording) are set aside to judge the detector by.
    test : pair of array-like, shapes [T, D] and [T], optional
        Rows and labels to judge the detector by.
    settings : TrainingSettings, optional
        Defaults otherwise.
    on_epoch : callable, optional
        Told of each epoch as it ends.
    start : Ensemble, optional
        An earlier detector to start from; see `fit_ensemble`.

    Raises
    ------
    InvalidInputError
        An array has the wrong shape or holds a value that is not finite.
    DataError
        There are too few normal rows, or too few columns vary in them (two for an autoencoder, or one).
    """
    settings = settings or TrainingSettings()
    values = _rows("rows", rows)
    is_anomaly = np.zeros(len(values), bool) if labels is None else _labels("labels", labels, len(values))
    judged: tuple[Float32Array, BoolArray] | None = None
    if test is not None:
        test_rows = _rows("test rows", test[0], width=values.shape[1])
        judged = test_rows, _labels("test labels", test[1], len(test_rows))

    normal = np.flatnonzero(~is_anomaly)
    # A plain autoencoder is not trained again on the rows it was stopped by: it would never see the end.
    recording = settings.model != "autoencoder" and is_recording(values[normal])
    if not recording:
        normal = np.random.default_rng(settings.seed).permutation(normal)
    if judged is None and is_anomaly.any():
        aside, normal = _split(normal, _TEST_SHARE, recording=recording)
        chosen = np.concatenate([aside, np.flatnonzero(is_anomaly)])
        judged = values[chosen], is_anomaly[chosen]
    if len(normal) < MIN_NORMAL_ROWS:
        raise DataError(f"{len(normal)} normal rows to train on, at least {MIN_NORMAL_ROWS} are needed")
    fitted = _fit(values[normal], recording=recording, settings=settings, on_epoch=on_epoch, start=start)
    model = fitted.model

    calibration = calibrate(
        fitted.held_out_scores,
        method=settings.threshold_method,
        target_fpr=settings.target_fpr,
        rows=values[normal],
    )
    test_scores = model.score(judged[0]) if judged else None
    return TrainingResult(
        model=model,
        calibration=calibration,
        history=fitted.history,
        rows_trained=fitted.rows_trained,
        rows_held_out=len(fitted.held_out_scores),
        recording=recording,
        test_scores=test_scores,
        test_labels=judged[1] if judged else None,
        quality=judge(test_scores, judged[1], calibration.threshold)
        if judged and test_scores is not None
        else None,
    )


@dataclass(frozen=True)
class _Fitted:
    model: Model
    held_out_scores: Float32Array
    history: list[Epoch]
    rows_trained: int


def _fit(
    rows: Float32Array,
    *,
    recording: bool,
    settings: TrainingSettings,
    on_epoch: Callable[[Epoch], None] | None,
    start: Ensemble | None,
) -> _Fitted:
    kind = settings.model
    if kind == "auto":
        kind = "subspace" if recording and can_span(rows) else "ensemble"
    if kind == "ensemble":
        if not np.ptp(rows, axis=0).any():
            raise DataError("no column varies in the normal rows: there is nothing to learn from them")
        fitted = fit_ensemble(
            rows,
            seed=settings.seed,
            steps=settings.steps or STEPS,
            held_out=settings.held_out,
            recording=recording,
            on_epoch=on_epoch,
            start=start,
        )
        return _Fitted(fitted.model, fitted.held_out_scores, fitted.history, len(rows))
    share = settings.held_out or (PLAIN_HELD_OUT if kind == "autoencoder" else HELD_OUT)
    held_out, kept = _split(rows, share, recording=recording)
    if not len(kept):
        raise DataError(f"held_out {share} leaves no rows to train on")
    if kind == "subspace":
        judged = fit_subspace(kept, held_out)
        return _Fitted(refit(judged, rows), judged.score(held_out), [], len(rows))
    model, history = fit_plain(kept, held_out, settings=settings, on_epoch=on_epoch)
    return _Fitted(model, model.score(held_out), history, len(kept))


def _split(
    items: npt.NDArray[_Scalar], share: float, *, recording: bool
) -> tuple[npt.NDArray[_Scalar], npt.NDArray[_Scalar]]:
    """Return a share of the items, at least two, and the others: the last of a recording, else the first."""
    count = max(2, round(share * len(items)))
    return (items[-count:], items[:-count]) if recording else (items[:count], items[count:])


def _rows(name: str, rows: npt.ArrayLike, width: int | None = None) -> Float32Array:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(rows, dtype=np.float32)
    if values.ndim != 2 or values.shape[1] == 0:
        raise InvalidInputError(f"{name} have shape {list(values.shape)}, expected [N, D]")
    if width is not None and values.shape[1] != width:
        raise InvalidInputError(f"{name} have {values.shape[1]} columns, expected {width}")
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        row, column = wrong[0].tolist()
        raise InvalidInputError(f"{name}: row {row}, column {column} is not finite as float32")
    return values


def _labels(name: str, labels: npt.ArrayLike, count: int) -> BoolArray:
    flags = np.asarray(labels)
    if flags.shape != (count,):
        raise InvalidInputError(f"{name} have shape {list(flags.shape)}, expected [{count}]")
    if flags.dtype.kind not in "biuf":
        raise InvalidInputError(f"{name} hold {flags.dtype}, expected 0 for normal and 1 for anomaly")
    if flags.dtype.kind == "f" and not np.isfinite(flags).all():
        raise InvalidInputError(f"{name} hold a value that is not finite")
    return np.asarray(flags != 0, dtype=bool)
