"""From rows to a trained and calibrated detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import DataError, InvalidInputError
from datasentinel.missing import fill_forward
from datasentinel.quality import Quality, judge
from datasentinel.training.checking import fit_and_check
from datasentinel.training.columns import Finding, examine
from datasentinel.training.copies import find_copies
from datasentinel.training.fitting import FitOptions, Model, score_in_order, split
from datasentinel.training.recording import Order, is_recording
from datasentinel.training.season import deseason_apart, fit_season
from datasentinel.training.seasonal import SeasonalModel, split_time
from datasentinel.training.settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from datasentinel.calibration import Calibration
    from datasentinel.training.ensemble import Ensemble
    from datasentinel.training.progress import Epoch
    from datasentinel.types import BoolArray, Float32Array, Int64Array

MIN_NORMAL_ROWS = 10
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class TrainingResult:
    """A trained detector and how it came to be.

    Attributes
    ----------
    model : Ensemble, Subspace, ContextModel, PlainAutoencoder, or SeasonalModel of one
        From raw rows to scores and reconstructions.
    calibration : Calibration
        The threshold and where it is from.
    history : list of Epoch
        The progress of training.
    held_out_scores : float32 array, shape [M]
        What the threshold was found on.
    rows_trained, rows_held_out : int
        Numbers of normal rows. Those held out are among those trained on in the end, but for control rows,
        for a plain autoencoder and for a `repaired` detector.
    recording : bool
        Whether the rows were treated as a recording; see `is_recording`. Never for a plain autoencoder.
    findings : tuple of Finding
        What is wrong with the data.
    repaired : str
        Why the first model was given up for one that never saw the rows it is calibrated on; empty if it was
        not.
    test_scores, test_labels : array, shape [T], or None
        Scores and labels of rows that had no part in training, where there are any.
    quality : Quality or None
        Their comparison.
    first_values : tuple of float, length D, or empty
        What stands for missing values that no row before has one for, where missing values are carried.
    copies : str
        What was found of rows that are there several times, and done about it; empty if there are none.
    """

    model: Model | SeasonalModel
    calibration: Calibration
    history: list[Epoch]
    held_out_scores: Float32Array
    rows_trained: int
    rows_held_out: int
    recording: bool
    findings: tuple[Finding, ...]
    repaired: str
    test_scores: Float32Array | None
    test_labels: BoolArray | None
    quality: Quality | None
    first_values: tuple[float, ...] = ()
    copies: str = ""

    @property
    def warnings(self) -> list[str]:
        """What the user has to know: one line each."""
        told = [finding.text for finding in self.findings if finding.is_warning]
        if self.copies:
            told.append(self.copies)
        if self.calibration.rows_needed:
            told.append(f"the target is out of reach: {self.calibration.describe()}")
        if self.repaired:
            told.append(
                f"{self.repaired}; the one that takes its place never saw the {self.rows_held_out} rows that "
                "the threshold is from"
            )
        return told


def train(
    rows: npt.ArrayLike,
    *,
    labels: npt.ArrayLike | None = None,
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    settings: TrainingSettings | None = None,
    feature_names: Sequence[str] = (),
    on_epoch: Callable[[Epoch], None] | None = None,
    start: Ensemble | None = None,
    order: Order | None = None,
) -> TrainingResult:
    """Train a detector on the normal rows.

    The model that results scores rows it was trained on and, unless the rows are few or a recording, control
    rows that it was not. Where it calls more of them anomalies than its threshold promises, another one takes
    its place, calibrated on rows that no part of it saw.

    Parameters
    ----------
    rows : array-like, shape [N, D]
        Raw rows, finite also as float32. In float64, what float32 does not resolve is found and reported. NaN
        is a missing value where the settings have these carried.
    labels : array-like of bool, shape [N], optional
        True for anomalies. They are never trained on; where there are some and `test` is not given, all of
        them and a fifth of the normal rows (the last of a recording) are set aside to judge the detector by.
    test : pair of array-like, shapes [T, D] and [T], optional
        Rows and labels to judge the detector by.
    settings : TrainingSettings, optional
        Defaults otherwise.
    feature_names : sequence of str, optional
        One for each column, for messages.
    on_epoch : callable, optional
        Called after each epoch.
    start : Ensemble, optional
        An earlier detector to start from; see `fit_ensemble`.
    order : Order, optional
        How the rows follow each other, for the model "context"; as one recording without it.

    Raises
    ------
    InvalidInputError
        An array has the wrong shape or holds a value that is not finite.
    DataError
        There are too few normal rows, too few columns vary in them (two for an autoencoder, or one), or no
        model keeps its promise on them.
    """
    settings = settings or TrainingSettings()
    order = order or Order()
    count = len(np.asarray(rows))
    is_anomaly = np.zeros(count, bool) if labels is None else _labels("labels", labels, count)
    first_values: tuple[float, ...] = ()
    if settings.missing == "carry":
        features = slice(-1 if settings.season else None)
        first_values = _typical_values(np.asarray(rows)[~is_anomaly], features, feature_names)
        rows = _carry(rows, features, first_values, order)
        test = test and (_carry(test[0], features, first_values, Order()), test[1])
    values = _rows("rows", rows)
    judged: tuple[Float32Array, BoolArray] | None = None
    if test is not None:
        test_rows = _rows("test rows", test[0], width=values.shape[1])
        judged = test_rows, _labels("test labels", test[1], len(test_rows))

    test_order = Order()
    raw, season = values, None
    if settings.season is not None:
        normal_rows = split_time(values[~is_anomaly])
        season = fit_season(*normal_rows, settings.season)
        values = season.apply(*split_time(values))
        values[~is_anomaly] = deseason_apart(*normal_rows, season)
        if judged is not None:
            judged = season.apply(*split_time(judged[0])), judged[1]

    normal = np.flatnonzero(~is_anomaly)
    # A plain autoencoder is not trained again on the rows it was stopped by: it would never see the end.
    recording = settings.model == "context" or (
        settings.model != "autoencoder" and is_recording(values[normal])
    )
    normal, copies = _without_copies(raw, normal, settings, recording=recording)
    if not recording:
        normal = np.random.default_rng(settings.seed).permutation(normal)
    if judged is None and is_anomaly.any():
        aside, normal = split(normal, _TEST_SHARE, recording=recording)
        chosen = np.concatenate([aside, np.flatnonzero(is_anomaly)])
        if settings.model == "context":
            chosen = np.sort(chosen)  # in the order of time
            test_order = order.of(chosen)
        judged = values[chosen], is_anomaly[chosen]
    if len(normal) < MIN_NORMAL_ROWS:
        raise DataError(f"{len(normal)} normal rows to train on, at least {MIN_NORMAL_ROWS} are needed")
    findings = examine(np.asarray(rows)[normal][:, : values.shape[1]], feature_names)
    if not np.ptp(values[normal], axis=0).any():
        lost = "; ".join(finding.text for finding in findings if finding.is_warning)
        raise DataError(
            "no column varies in the normal rows: there is nothing to learn from them"
            + (f" ({lost})" if lost else "")
        )
    checked = fit_and_check(
        values[normal],
        FitOptions(
            recording=recording,
            settings=settings,
            order=order.of(normal) if settings.model == "context" else Order(),
            on_epoch=on_epoch,
            start=start,
        ),
    )
    calibration = checked.calibration
    model: Model | SeasonalModel = checked.fitted.model
    test_scores = score_in_order(checked.fitted.model, judged[0], test_order) if judged else None
    if season is not None:
        model = SeasonalModel(season, checked.fitted.model)
        calibration = model.calibration_of(calibration, raw[normal])
    return TrainingResult(
        model=model,
        calibration=calibration,
        history=checked.fitted.history,
        held_out_scores=checked.fitted.held_out_scores,
        rows_trained=checked.fitted.rows_trained,
        rows_held_out=calibration.rows,
        recording=recording,
        findings=findings,
        repaired=checked.repaired,
        test_scores=test_scores,
        test_labels=judged[1] if judged else None,
        quality=judge(test_scores, judged[1], calibration.threshold)
        if judged and test_scores is not None
        else None,
        first_values=first_values,
        copies=copies,
    )


def _without_copies(
    rows: Float32Array, normal: Int64Array, settings: TrainingSettings, *, recording: bool
) -> tuple[Int64Array, str]:
    """Return the numbers of the normal rows without copies, and what was found."""
    copies = find_copies(rows[normal], recording=recording) if settings.model != "context" else None
    return (normal, "") if copies is None else (normal[copies.kept], copies.text)


def _typical_values(
    rows: npt.NDArray[np.floating], features: slice, names: Sequence[str]
) -> tuple[float, ...]:
    """Return the medians of the features in rows [N, D] that may lack some, NaN for what is no feature."""
    values = np.full(rows.shape[1], np.nan)
    known = ~np.isnan(rows[:, features]).all(axis=0)
    if not known.all():
        column = int(np.argmin(known))
        name = f"column '{names[column]}'" if len(names) else f"column {column}"
        raise DataError(f"{name} has no value in any normal row: leave it out")
    values[features] = np.nanmedian(rows[:, features], axis=0).astype(np.float32)
    return tuple(values.tolist())


def _carry(
    rows: npt.ArrayLike, features: slice, first_values: tuple[float, ...], order: Order
) -> npt.NDArray[np.floating]:
    """Return rows whose features have, where they are missing, the values before."""
    filled = np.array(rows)
    filled[:, features] = fill_forward(filled[:, features], first_values[features], order.starts)
    return filled


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
