"""The choice of a model, and its fit with scores of held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from datasentinel.errors import DataError
from datasentinel.training.context import LONG_CONTEXT, ContextModel, fit_context
from datasentinel.training.denoiser import STEPS
from datasentinel.training.ensemble import HELD_OUT, Ensemble, fit_ensemble
from datasentinel.training.memory import warm_up_of
from datasentinel.training.plain import HELD_OUT as PLAIN_HELD_OUT
from datasentinel.training.plain import PlainAutoencoder, fit_plain
from datasentinel.training.subspace import Subspace, can_span, fit_subspace, refit

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from datasentinel.training.progress import Epoch
    from datasentinel.training.recording import Order
    from datasentinel.training.settings import TrainingSettings
    from datasentinel.types import BoolArray, Float32Array

    _Scalar = TypeVar("_Scalar", bound=np.generic)

Model: TypeAlias = Ensemble | Subspace | ContextModel | PlainAutoencoder

# What calibration on rows that no part of the model saw holds out at most, to reach the target.
_MOST_HELD_OUT_SHARE = 0.5


@dataclass(frozen=True)
class FitOptions:
    """How a model is to be fitted; see `train`.

    Attributes
    ----------
    recording : bool
        Whether neighbouring rows are alike.
    settings : TrainingSettings
    order : Order
        Which rows follow each other.
    on_epoch : callable, optional
    start : Ensemble, optional
    """

    recording: bool
    settings: TrainingSettings
    order: Order
    on_epoch: Callable[[Epoch], None] | None = None
    start: Ensemble | None = None


@dataclass(frozen=True)
class Fitted:
    """A model and what its threshold is to be found on.

    Attributes
    ----------
    model : Ensemble, Subspace, ContextModel or PlainAutoencoder
    held_out_scores : float32 array, shape [M]
        Of rows that had no part in the model that scored them.
    history : list of Epoch
    rows_trained : int
    saw_held_out_rows : bool
        Whether `model` was trained again on all rows, those held out before among them.
    held_out : bool array, shape [N], or None
        Which of the recordings' rows those are; None where they are the last ones, or were drawn.
    """

    model: Model
    held_out_scores: Float32Array
    history: list[Epoch]
    rows_trained: int
    saw_held_out_rows: bool
    held_out: BoolArray | None = None


def fit_apart(rows: Float32Array, options: FitOptions) -> Fitted:
    """Fit a model that never sees the rows that its threshold comes from."""
    settings, order = options.settings, options.order
    wanted = 1 / settings.target_fpr / len(rows)
    share = settings.held_out or min(max(HELD_OUT, wanted), _MOST_HELD_OUT_SHARE)
    if settings.model == "context":
        apart = order.ends(len(rows), share, warm_up_of(settings.half_lives or LONG_CONTEXT))
        fitted = _fit_context(rows[~apart], settings, order.of(np.flatnonzero(~apart)))
        scores = score_in_order(fitted.model, rows, order)[apart]
        return replace(fitted, held_out_scores=scores, saw_held_out_rows=False, held_out=apart)
    held_out, kept = split(rows, share, recording=options.recording)
    fitted = fit(kept, options)
    return replace(fitted, held_out_scores=fitted.model.score(held_out), saw_held_out_rows=False)


def fit(rows: Float32Array, options: FitOptions) -> Fitted:
    """Fit the model that the settings or the data choose to rows [N, D]."""
    settings, recording = options.settings, options.recording
    kind = settings.model
    if kind == "auto":
        learnt_from = split(rows, settings.held_out or HELD_OUT, recording=recording)[1]
        kind = "subspace" if recording and can_span(learnt_from) else "ensemble"
    if kind == "ensemble":
        fitted = fit_ensemble(
            rows,
            seed=settings.seed,
            steps=settings.steps or STEPS,
            prototypes=settings.prototypes,
            held_out=settings.held_out,
            recording=recording,
            on_epoch=options.on_epoch,
            start=options.start,
        )
        return Fitted(fitted.model, fitted.held_out_scores, fitted.history, len(rows), True)
    if kind == "context":
        return _fit_context(rows, settings, options.order)
    share = settings.held_out or (PLAIN_HELD_OUT if kind == "autoencoder" else HELD_OUT)
    held_out, kept = split(rows, share, recording=recording)
    if not len(kept):
        raise DataError(f"held_out {share} leaves no rows to train on")
    if kind == "subspace":
        judged = fit_subspace(kept, held_out)
        return Fitted(refit(judged, rows), judged.score(held_out), [], len(rows), True)
    model, history = fit_plain(kept, held_out, settings=settings, on_epoch=options.on_epoch)
    return Fitted(model, model.score(held_out), history, len(kept), False)


def _fit_context(rows: Float32Array, settings: TrainingSettings, order: Order) -> Fitted:
    warm_up_rows = warm_up_of(settings.half_lives or LONG_CONTEXT)
    held_out = order.ends(len(rows), settings.held_out or HELD_OUT, warm_up_rows)
    if not held_out.any() or held_out.all():
        raise DataError(
            f"held_out leaves no rows to train on, or no recording is longer than the {warm_up_rows} rows "
            "that the detector takes to warm up"
        )
    model, scores = fit_context(
        rows,
        held_out,
        order=order,
        half_lives=tuple(settings.half_lives),
        needs_memory=settings.missing == "carry",
    )
    return Fitted(model, scores, [], len(rows), True, held_out)


def score_in_order(model: Model, rows: Float32Array, order: Order) -> Float32Array:
    """Score recordings [N, D], each from its beginning on where the model has a memory."""
    if isinstance(model, ContextModel):
        return model.score(rows, order.starts, order.steps())
    return model.score(rows)


def split(
    items: npt.NDArray[_Scalar], share: float, *, recording: bool
) -> tuple[npt.NDArray[_Scalar], npt.NDArray[_Scalar]]:
    """Return a share of the items, at least two, and the others: the last of a recording, else the first."""
    count = max(2, round(share * len(items)))
    return (items[-count:], items[:-count]) if recording else (items[:count], items[count:])
