"""The default detector: six views of a row, calibrated on held-out rows, and their soft maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.training.attribution import attribute
from datasentinel.training.combine import Combination, fit_combination
from datasentinel.training.denoiser import HIDDEN, STEPS, Denoiser, batch_size, fit_denoisers
from datasentinel.training.mapping import RobustMap, SoftClip, fit_robust_map, fit_soft_clip
from datasentinel.training.prototypes import Prototypes, fit_coarse, fit_fine
from datasentinel.training.recording import last_rows
from datasentinel.training.whitening import Whitening, fit_whitening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datasentinel.artifact import Json
    from datasentinel.training.progress import Epoch
    from datasentinel.training.standardise import Scaling
    from datasentinel.types import Float32Array

PARTS = (
    "fine prototypes",
    "fine prototypes, whitened",
    "coarse prototypes",
    "coarse prototypes, whitened",
    "denoising autoencoder",
    "marginal size",
)
# Of a recording's rows.
HELD_OUT = 0.25
_CROSS_FIT_BELOW = 400
_FOLDS = 3
_MOST_HELD_OUT = 1000
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Views:
    """The six distances of a row from normal; all constants are float32.

    Methods compute in the precision of the rows they are given: float32 is what the exported graph does,
    float64 the reference for it.
    """

    soft_clip: SoftClip
    robust_map: RobustMap
    whitening: Whitening
    fine: Prototypes
    fine_whitened: Prototypes
    coarse: Prototypes
    coarse_whitened: Prototypes
    denoiser: Denoiser

    def distances(self, rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return the distances, shape [N, 6], and the reconstructions of raw rows, shape [N, D]."""
        u = self.soft_clip.apply(rows)
        v = self.robust_map.apply(rows)
        w = self.whitening.apply(v)
        y = self.denoiser.reconstruct(u)
        parts = (
            self.fine.distance(u),
            self.fine_whitened.distance(w),
            self.coarse.distance(u),
            self.coarse_whitened.distance(w),
            _root_mean_square(u - y),
            _root_mean_square(v),
        )
        return np.stack(parts, axis=1), self.soft_clip.invert(y)


@dataclass(frozen=True)
class Ensemble:
    """A trained detector: `Views` and the calibrated `Combination` of their distances."""

    views: Views
    combination: Combination
    folds: int
    steps: int
    batch_size: int

    definition = (
        "soft maximum of the calibrated log distances of a row to prototypes of the normal rows (fine and "
        "coarse, of standardised and of whitened values), to its reconstruction by a denoising autoencoder, "
        "and to the medians; 0 is typical of normal rows, 1 about one standard deviation more"
    )
    least_threshold = None

    @property
    def input_dim(self) -> int:
        """Number of features, D."""
        return len(self.views.robust_map.median)

    @property
    def scaling(self) -> Scaling:
        """The standardisation of raw columns."""
        return self.views.soft_clip.scaling

    @property
    def latent_dim(self) -> int:
        """Width of the autoencoder's innermost layer."""
        return HIDDEN

    def evaluate(self, rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return scores [N] and reconstructions [N, D] of raw rows, in the precision of `rows`."""
        scores, outputs = [], []
        for first in range(0, max(1, len(rows)), _CHUNK_ROWS):
            # What overflows ends at the bounds that the maps set.
            with np.errstate(over="ignore"):
                distances, output = self.views.distances(rows[first : first + _CHUNK_ROWS])
                scores.append(self.combination.apply(distances))
            outputs.append(output)
        return np.concatenate(scores), np.concatenate(outputs)

    def score(self, rows: Float32Array) -> Float32Array:
        """Score raw rows, shape [N, D]."""
        return self.evaluate(rows)[0]

    def contributions(self, rows: Float32Array) -> Float32Array:
        """Return each feature's share in the scores of raw rows, shape [N, D], in the precision of `rows`."""
        with np.errstate(over="ignore"):
            u = self.views.soft_clip.apply(rows)
            return attribute(u - self.views.denoiser.reconstruct(u), self.views.robust_map.apply(rows))

    def tolerable(self, scores: Float32Array) -> Float32Array:
        """Return what differences of these scores are measured by."""
        return np.maximum(np.abs(scores), 1)

    def rounding(self, rows: Float32Array) -> float:
        """Return how far float32 arithmetic is from float64 on these rows, in units of `tolerable`.

        Some parts in a million, but more on rows that all but coincide with prototypes: there the squared
        distance is a small difference of large numbers.
        """
        scores = self.score(rows.astype(np.float64))
        return float((np.abs(self.score(rows) - scores) / self.tolerable(scores)).max())

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `training`."""
        views = self.views
        return {
            "model": "ensemble",
            "parts": list(PARTS),
            "prototypes": [
                len(part.centres)
                for part in (views.fine, views.fine_whitened, views.coarse, views.coarse_whitened)
            ],
            "hidden": [HIDDEN, HIDDEN],
            "steps": self.steps,
            "batch_size": self.batch_size,
            "folds": self.folds,
        }

    def summary(self) -> str:
        """Describe the model in a line."""
        fine, coarse = (len(part.centres) for part in (self.views.fine, self.views.coarse))
        return (
            f"ensemble of {len(PARTS)} parts: {fine} fine and {coarse} coarse prototypes, "
            f"autoencoder {self.input_dim}-{HIDDEN}-{HIDDEN}-{self.input_dim}"
        )


@dataclass(frozen=True)
class FittedEnsemble:
    """An ensemble, the scores of rows that its parts were judged by, and the progress of training."""

    model: Ensemble
    held_out_scores: Float32Array
    history: list[Epoch]


def fit_ensemble(
    rows: Float32Array,
    *,
    seed: int,
    steps: int = STEPS,
    held_out: float | None = None,
    recording: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    start: Ensemble | None = None,
) -> FittedEnsemble:
    """Train the default detector.

    The views are fitted twice: without the held-out rows, to see how far from normal new normal rows are,
    and on all rows, for use.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Finite raw rows, at least one column of which varies.
    seed : int
        Seed of everything random.
    steps : int
        Training steps of the autoencoder.
    held_out : float, optional
        Share of the rows to hold out. By default a quarter, 1,000 at most; of fewer than 400 rows, each is
        held out once (three folds).
    recording : bool
        Whether the order of the rows matters: then their last quarter, or `held_out`, is held out.
    on_epoch : callable, optional
        Told of the progress.
    start : Ensemble, optional
        An earlier detector for as many features, whose autoencoder is trained on.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    if recording:
        folds = [last_rows(len(rows), held_out or HELD_OUT)]
    elif held_out is not None:
        folds = [order[: max(2, round(held_out * len(rows)))]]
    elif len(rows) < _CROSS_FIT_BELOW:
        folds = [order[i::_FOLDS] for i in range(_FOLDS)]
    else:
        folds = [order[: min(len(rows) // 4, _MOST_HELD_OUT)]]
    sets = [*(np.delete(rows, fold, axis=0) for fold in folds), rows]
    maps = [fit_soft_clip(part) for part in sets]
    denoisers, history = fit_denoisers(
        [clip.apply(part) for clip, part in zip(maps, sets, strict=True)],
        held_out=maps[0].apply(rows[folds[0]]),
        seed=int(random.integers(2**31)),
        steps=steps,
        on_epoch=on_epoch,
        start=start.views.denoiser if start else None,
    )
    views = list(_views(sets, maps, denoisers, random))
    distances = np.concatenate(
        [view.distances(rows[fold])[0] for view, fold in zip(views[:-1], folds, strict=True)]
    )
    combination = fit_combination(distances)
    smallest = min(map(len, sets))
    ensemble = Ensemble(views[-1], combination, len(folds), steps, batch_size(smallest))
    return FittedEnsemble(ensemble, combination.apply(distances), history)


def _views(
    sets: list[Float32Array], maps: list[SoftClip], denoisers: list[Denoiser], random: np.random.Generator
) -> Iterator[Views]:
    for rows, soft_clip, denoiser in zip(sets, maps, denoisers, strict=True):
        robust_map = fit_robust_map(rows, soft_clip.scaling)
        u, v = soft_clip.apply(rows), robust_map.apply(rows)
        whitening = fit_whitening(v)
        w = whitening.apply(v)
        yield Views(
            soft_clip=soft_clip,
            robust_map=robust_map,
            whitening=whitening,
            fine=fit_fine(u, random),
            coarse=fit_coarse(u, random),
            fine_whitened=fit_fine(w, random),
            coarse_whitened=fit_coarse(w, random),
            denoiser=denoiser,
        )


def _root_mean_square(values: Float32Array) -> Float32Array:
    root: Float32Array = np.sqrt(np.square(values).mean(axis=1))
    return root
