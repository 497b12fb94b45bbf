"""The default detector: nine views of a row, calibrated on held-out rows, and their soft maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.training.attribution import attribute
from datasentinel.training.combine import Combination, fit_combination, stranger
from datasentinel.training.denoiser import HIDDEN, STEPS, Denoiser, batch_size, fit_denoisers
from datasentinel.training.mapping import RobustMap, SoftClip, fit_robust_map, fit_soft_clip
from datasentinel.training.prototypes import Prototypes, distinct, fit_prototypes, prototype_count
from datasentinel.training.recording import last_rows
from datasentinel.training.resolution import smallest_step
from datasentinel.training.whitening import Whitening, fit_whitening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from datasentinel.artifact import Json
    from datasentinel.training.progress import Epoch
    from datasentinel.training.standardise import Scaling
    from datasentinel.types import Float32Array, Float64Array, Int64Array

# Each part, and which percentile of its distances is usual. The greatest value counts where it is beyond what
# normal rows show, and does not blur the others where it is not.
PARTS = {
    "wide prototypes": 50.0,
    "wide prototypes, relative": 50.0,
    "prototypes": 50.0,
    "prototypes, relative": 50.0,
    "whitened prototypes": 50.0,
    "whitened prototypes, relative": 50.0,
    "denoising autoencoder": 50.0,
    "marginal size": 50.0,
    "greatest value": 99.0,
}
# Interquartile ranges up to which the wide map is all but linear.
_WIDE_KNEE = 4.0
# Of a recording's rows.
HELD_OUT = 0.25
_CROSS_FIT_BELOW = 400
_FOLDS = 3
_MOST_HELD_OUT = 1000
_MOST_COMPARED = 2000
# Whitening and prototypes, of which there are about a thousand, are learnt from a sample of larger data:
# sorting and k-means are dear, and fifty rows a prototype place it well enough.
_MOST_CLUSTERED = 50_000
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Views:
    """The nine distances of a row from normal; all constants are float32.

    Methods compute in the precision of the rows they are given: float32 is what the exported graph does,
    float64 the reference for it.
    """

    soft_clip: SoftClip
    wide_map: RobustMap
    robust_map: RobustMap
    whitening: Whitening
    wide_prototypes: Prototypes
    prototypes: Prototypes
    whitened_prototypes: Prototypes
    denoiser: Denoiser

    def distances(self, rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return the distances, shape [N, 9], and the reconstructions of raw rows, shape [N, D]."""
        u = self.soft_clip.apply(rows)
        v = self.robust_map.apply(rows)
        y = self.denoiser.reconstruct(u)
        parts = (
            self.wide_prototypes.distances(self.wide_map.apply(rows)),
            self.prototypes.distances(v),
            self.whitened_prototypes.distances(self.whitening.apply(v)),
            _root_mean_square(u - y),
            _root_mean_square(v),
            np.abs(u).max(axis=1),
        )
        return np.column_stack(parts), self.soft_clip.invert(y)

    def resolution(self, rows: Float32Array) -> Float64Array:
        """Return half of what the distances change by where one value takes its smallest step, shape [9]."""
        u, v = self.soft_clip.apply(rows), self.robust_map.apply(rows)
        in_u, in_v = smallest_step(u), smallest_step(v)
        in_w = in_v * np.linalg.norm(self.whitening.weight, axis=1)
        in_wide = smallest_step(self.wide_map.apply(rows))
        whole = [in_wide.min()] * 2 + [in_v.min()] * 2 + [in_w.min()] * 2
        mean = [step.min() / np.sqrt(len(step)) for step in (in_u, in_v)]
        halves = np.array([*whole, *mean, in_u.min()]) / 2
        return np.where(np.isfinite(halves), halves, 0.0)


@dataclass(frozen=True)
class Ensemble:
    """A trained detector: `Views` and the calibrated `Combination` of their distances.

    `kept` are the places of those among `PARTS` that count. The others were left out, because trained on all
    rows they find normal rows stranger than on a part of them, so that nothing is known of new rows.
    """

    views: Views
    combination: Combination
    kept: tuple[int, ...]
    folds: int
    steps: int
    batch_size: int

    definition = (
        "exp(min(s, 0)) + max(s, 0), where s is the soft maximum of the calibrated log distances of a row to "
        "prototypes of the normal rows (in three spaces, by two powers of their local scale), to its "
        "reconstruction by a denoising autoencoder, to the medians, and of its greatest value to the mean; "
        "1 is typical of normal rows, 2 about one standard deviation more"
    )
    least_threshold = 1.0

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
                scores.append(self.combination.apply(distances[:, self.kept]))
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

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that count."""
        return tuple(name for i, name in enumerate(PARTS) if i in self.kept)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the parts that do not."""
        return tuple(name for i, name in enumerate(PARTS) if i not in self.kept)

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `training`."""
        views = self.views
        return {
            "model": "ensemble",
            "parts": list(self.parts),
            "left_out": list(self.left_out),
            "prototypes": [
                len(part.centres)
                for part in (views.wide_prototypes, views.prototypes, views.whitened_prototypes)
            ],
            "hidden": [HIDDEN, HIDDEN],
            "steps": self.steps,
            "batch_size": self.batch_size,
            "folds": self.folds,
        }

    def summary(self) -> str:
        """Describe the model in a line."""
        without = f"; left out, since not reproducible: {', '.join(self.left_out)}" if self.left_out else ""
        return (
            f"ensemble of {len(self.kept)} parts: {len(self.views.prototypes.centres)} prototypes, "
            f"autoencoder {self.input_dim}-{HIDDEN}-{HIDDEN}-{self.input_dim}{without}"
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
    prototypes: int | None = None,
    held_out: float | None = None,
    recording: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    start: Ensemble | None = None,
) -> FittedEnsemble:
    """Train the default detector.

    The views are fitted twice: without the held-out rows, to see how far from normal new normal rows are,
    and on all rows, for use. Both see the columns on the scales of all rows.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Finite raw rows, at least one column of which varies.
    seed : int
        Seed of everything random.
    steps : int
        Training steps of the autoencoder.
    prototypes : int, optional
        How many there are at most in each of three spaces; chosen by the number of columns without.
    held_out : float, optional
        Share of the rows to hold out. By default a quarter, 1,000 at most; of fewer than 400 rows, each is
        held out once (three folds).
    recording : bool
        Whether the order of the rows matters: then their last quarter, or `held_out`, is held out.
    on_epoch : callable, optional
        Called with the progress.
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
    # One scaling for all views. A scale of each fold's own would make a flag that was never up, or a category
    # that was never seen, less of a departure in a fold than in the model that is served, since the spread of
    # a rare event falls with the number of rows.
    soft_clip = fit_soft_clip(rows)
    denoisers, history = fit_denoisers(
        [soft_clip.apply(part) for part in sets],
        held_out=soft_clip.apply(rows[folds[0]]),
        seed=int(random.integers(2**31)),
        steps=steps,
        on_epoch=on_epoch,
        start=start.views.denoiser if start else None,
    )
    count = prototypes or prototype_count(rows.shape[1])
    views = list(_views(sets, soft_clip, denoisers, count, random))
    held_out_distances = np.concatenate(
        [view.distances(rows[fold])[0] for view, fold in zip(views[:-1], folds, strict=True)]
    )
    combination = fit_combination(held_out_distances, views[-1].resolution(rows), list(PARTS.values()))
    kept = _reproducible(combination, views, sets)
    combination = combination.only(kept)
    smallest = min(map(len, sets))
    ensemble = Ensemble(views[-1], combination, tuple(kept.tolist()), len(folds), steps, batch_size(smallest))
    return FittedEnsemble(ensemble, combination.apply(held_out_distances[:, kept]), history)


def _reproducible(
    combination: Combination, views: Sequence[Views], sets: Sequence[Float32Array]
) -> Int64Array:
    """Return the places of the parts that find rows they have seen no stranger than the folds' views do.

    Only then is what the folds' views say of held-out rows no less than what the view of all rows will say of
    new ones. If that holds for none, all are kept.
    """
    samples = [
        combination.part_scores(view.distances(rows[:: -(-len(rows) // _MOST_COMPARED)])[0])
        for view, rows in zip(views, sets, strict=True)
    ]
    kept = np.flatnonzero(~stranger(np.concatenate(samples[:-1]), samples[-1]))
    return kept if kept.size else np.arange(len(PARTS))


def _views(
    sets: list[Float32Array],
    soft_clip: SoftClip,
    denoisers: list[Denoiser],
    prototypes: int,
    random: np.random.Generator,
) -> Iterator[Views]:
    whole = len(sets[-1])
    wide_map = fit_robust_map(sets[-1], soft_clip.scaling, knee=_WIDE_KNEE)
    robust_map = fit_robust_map(sets[-1], soft_clip.scaling)
    for rows, denoiser in zip(sets, denoisers, strict=True):
        # Of a part of the rows as many prototypes a row as of all, so that its distances are like theirs.
        count = max(1, round(prototypes * len(rows) / whole))
        clustered = rows
        if len(rows) > _MOST_CLUSTERED:
            clustered = rows[random.choice(len(rows), _MOST_CLUSTERED, replace=False)]
        v = robust_map.apply(clustered)
        whitening = fit_whitening(v)
        wide, plain, whitened = (
            fit_prototypes(distinct(points), count, trusted_rows=whole, random=random)
            for points in (wide_map.apply(clustered), v, whitening.apply(v))
        )
        yield Views(
            soft_clip=soft_clip,
            wide_map=wide_map,
            robust_map=robust_map,
            whitening=whitening,
            wide_prototypes=wide,
            prototypes=plain,
            whitened_prototypes=whitened,
            denoiser=denoiser,
        )


def _root_mean_square(values: Float32Array) -> Float32Array:
    root: Float32Array = np.sqrt(np.square(values).mean(axis=1))
    return root
