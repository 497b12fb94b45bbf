"""From rows to a trained and calibrated detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID251

from datasentinel.calibration import Calibration, calibrate
from datasentinel.errors import DataError, InvalidInputError, SettingsError
from datasentinel.quality import Quality, judge
from datasentinel.training.network import Autoencoder, ScoringModule
from datasentinel.training.principal import components_for, principal_components
from datasentinel.training.settings import TrainingSettings
from datasentinel.training.standardise import Scaling, fit_scaling
from datasentinel.training.trainer import Epoch, Schedule, default_schedule, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from datasentinel.types import BoolArray, Float32Array, Float64Array

MIN_NORMAL_ROWS = 10
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class TrainingResult:
    """A trained detector and how it came to be.

    Attributes
    ----------
    network : Autoencoder
        Standardised rows in, reconstructions out.
    scaling : Scaling
        From raw to standardised rows.
    calibration : Calibration
        The threshold and where it is from.
    schedule : Schedule
        What was trained, at most.
    history : list of Epoch
        What was trained, in fact.
    device : str
        Where.
    rows_trained, rows_held_out : int
        Numbers of normal rows.
    test_scores, test_labels : array, shape [T], or None
        Scores and labels of rows that had no part in training, where there are any.
    quality : Quality or None
        Their comparison.
    """

    network: Autoencoder
    scaling: Scaling
    calibration: Calibration
    schedule: Schedule
    history: list[Epoch]
    device: str
    rows_trained: int
    rows_held_out: int
    test_scores: Float32Array | None
    test_labels: BoolArray | None
    quality: Quality | None

    def scoring_module(self) -> ScoringModule:
        """Return the whole detector, from raw rows to scores."""
        return ScoringModule(self.network, self.scaling)


def train(
    rows: npt.ArrayLike,
    *,
    labels: npt.ArrayLike | None = None,
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    settings: TrainingSettings | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> TrainingResult:
    """Train a detector on the normal rows.

    Parameters
    ----------
    rows : array-like, shape [N, D]
        Raw rows, finite also as float32.
    labels : array-like of bool, shape [N], optional
        True for anomalies. They are never trained on; where there are some and `test` is not given, all of
        them and a fifth of the normal rows are set aside to judge the detector by.
    test : pair of array-like, shapes [T, D] and [T], optional
        Rows and labels to judge the detector by.
    settings : TrainingSettings, optional
        Defaults otherwise.
    on_epoch : callable, optional
        Told of each epoch as it ends.

    Raises
    ------
    InvalidInputError
        An array has the wrong shape or holds a value that is not finite.
    DataError
        There are too few normal rows, or fewer than two columns vary in them.
    """
    settings = settings or TrainingSettings()
    device = _device(settings)
    values = _rows("rows", rows)
    is_anomaly = np.zeros(len(values), bool) if labels is None else _labels("labels", labels, len(values))
    judged: tuple[Float32Array, BoolArray] | None = None
    if test is not None:
        test_rows = _rows("test rows", test[0], width=values.shape[1])
        judged = test_rows, _labels("test labels", test[1], len(test_rows))

    random = np.random.default_rng(settings.seed)
    normal = random.permutation(np.flatnonzero(~is_anomaly))
    if judged is None and is_anomaly.any():
        aside, normal = np.split(normal, [round(_TEST_SHARE * len(normal))])
        chosen = np.concatenate([aside, np.flatnonzero(is_anomaly)])
        judged = values[chosen], is_anomaly[chosen]
    if len(normal) < MIN_NORMAL_ROWS:
        raise DataError(f"{len(normal)} normal rows to train on, at least {MIN_NORMAL_ROWS} are needed")
    held_out_index, fit_index = np.split(normal, [max(2, round(settings.held_out * len(normal)))])
    fit_rows, held_out_rows = values[fit_index], values[held_out_index]
    if not len(fit_rows):
        raise DataError(f"held_out {settings.held_out} leaves no rows to train on")

    scaling = fit_scaling(fit_rows)
    if np.count_nonzero(scaling.varying) < 2:
        raise DataError(
            "fewer than two columns vary in the normal rows: there is nothing to reconstruct them from"
        )
    standardised = scaling.apply(fit_rows)
    variances, directions = principal_components(standardised)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = _network(settings, scaling, variances)
    warm = network.can_start_from_components()
    if warm:
        network.start_from_components(directions)
    schedule = default_schedule(
        len(fit_rows),
        warm=warm,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )
    history = fit(
        network,
        standardised,
        scaling.apply(held_out_rows),
        schedule=schedule,
        device=device,
        seed=settings.seed,
        on_epoch=on_epoch,
    )

    module = ScoringModule(network, scaling)
    calibration = calibrate(
        module.score(held_out_rows),
        method=settings.threshold_method,
        target_fpr=settings.target_fpr,
        rows=held_out_rows,
    )
    test_scores = module.score(judged[0]) if judged else None
    return TrainingResult(
        network=network,
        scaling=scaling,
        calibration=calibration,
        schedule=schedule,
        history=history,
        device=str(device),
        rows_trained=len(fit_rows),
        rows_held_out=len(held_out_rows),
        test_scores=test_scores,
        test_labels=judged[1] if judged else None,
        quality=judge(test_scores, judged[1], calibration.threshold)
        if judged and test_scores is not None
        else None,
    )


def _network(settings: TrainingSettings, scaling: Scaling, variances: Float64Array) -> Autoencoder:
    """Choose the architecture: what the settings say, and the rest by the data.

    The bottleneck takes as many components as carry most of the variance, but fewer than there are varying
    columns, or nothing would be left to tell anomalies by. One hidden layer on each side is wide enough to
    hold the linear solution and as wide as a row.
    """
    input_dim = len(variances)
    latent = settings.latent
    if latent is None:
        latent = min(components_for(variances), int(np.count_nonzero(scaling.varying)) - 1)
        if settings.hidden:
            latent = min(latent, *settings.hidden)
    elif latent > input_dim:
        raise SettingsError(f"latent {latent} is wider than a row of {input_dim} values")
    hidden = (max(2 * latent, input_dim),) if settings.hidden is None else settings.hidden
    return Autoencoder(input_dim, hidden, latent, settings.activation)


def _device(settings: TrainingSettings) -> torch.device:
    if settings.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if settings.device == "cuda":
        raise SettingsError("device 'cuda': torch finds no CUDA device; use 'cpu' or 'auto'")
    return torch.device("cpu")


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
